package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() { idioms["Softmax"] = findAttention }

// tiled is attention by the kernels of language models: keys in panels, some queries at a time.
type tiled struct {
	attention
	masked    bool
	mask      mask
	even      bool // the mask is the same for all heads and queries of a text
	room      int  // numbers of scratch, of a worker
	worker    *Worker
	data      [3][]float32
	out, bias []float32
	do        func(worker, item int)
}

// queryTile is how many queries of a head are attended together.
const queryTile = 32

// findAttention finds softmax(scale q k^T + mask) v, and where heads are split and joined around it.
func findAttention(f *seeker, _ int, s *step) (*step, int) {
	rank := len(s.Out[0].Shape)
	if axis := s.node.Int("axis", -1); rank != 4 || axis != -1 && axis != 3 {
		return nil, 0
	}
	t := &tiled{attention: attention{scale: 1}}
	slot, maskSlot := s.in[0], -1
	alone := func(s *step) bool { return s != nil && len(f.users[s.out[0]]) == 1 }
	product := f.made(slot, "MatMul")
	if sum := f.made(slot, "Add"); alone(sum) {
		for k := range sum.in { // the scores are the side that is a product
			if before := f.made(sum.in[k], "MatMul", "Mul", "Div"); alone(before) && slices.Equal(before.Out[0].Shape, s.Out[0].Shape) {
				slot, maskSlot = sum.in[k], sum.in[1-k]
				break
			}
		}
		product = f.made(slot, "MatMul")
	}
	if scaled := f.made(slot, "Mul", "Div"); product == nil && alone(scaled) {
		for k, in := range scaled.in {
			if v, ok := f.scalar(in); ok && v > 0 && len(scaled.in) == 2 && (k == 1 || scaled.node.Op == "Mul") {
				if t.scale = v; scaled.node.Op == "Div" {
					t.scale = 1 / v
				}
				product = f.made(scaled.in[1-k], "MatMul")
			}
		}
	}
	mixed, at := f.next(s.out[0], "MatMul")
	if !alone(product) || mixed == nil || mixed.in[0] != s.out[0] || mixed.in[1] == s.out[0] {
		return nil, 0
	}
	var in [3]int
	var q, k, v [4]int
	var ok [3]bool
	in[0], q, t.q, ok[0] = f.headsOf(product.in[0], false)
	in[1], k, t.k, ok[1] = f.headsOf(product.in[1], true)
	in[2], v, t.v, ok[2] = f.headsOf(mixed.in[1], false)
	if !ok[0] || !ok[1] || !ok[2] || q[0] != k[0] || q[1] != k[1] || q[3] != k[3] || v != [4]int{k[0], k[1], k[2], v[3]} || graph.Elems(q[:])*graph.Elems(v[:]) == 0 || k[3] != v[3] {
		return nil, 0
	}
	t.batch, t.heads, t.kvHeads, t.seq, t.total, t.size, t.vsize = q[0], q[1], q[1], q[2], k[2], q[3], v[3]
	last := mixed
	dims := [4]int{q[0], q[1], q[2], v[3]}
	t.y = headsFirst(dims)
	if back, i := f.next(mixed.out[0], "Transpose"); back != nil && !back.Alias && slices.Equal(back.node.Ints("perm"), []int{0, 2, 1, 3}) {
		last, at = back, i
		t.y = tokensFirst(dims)
	}
	slots := []int{in[0], in[1], in[2]}
	if maskSlot >= 0 {
		m := f.p.specs[maskSlot]
		over := []int{t.batch, t.heads, t.seq, t.total}
		if full, err := broadcast(m.Shape, over); err != nil || m.Type != graph.Float32 || !slices.Equal(full, over) || len(m.Shape) == 0 || m.Shape[len(m.Shape)-1] != t.total {
			return nil, 0
		}
		t.masked, t.mask = true, mask{width: t.total, steps: stretched(m.Shape, over), typ: m.Type}
		t.even = t.mask.steps[1] == 0 && t.mask.steps[2] == 0
		slots = append(slots, maskSlot)
	}
	st := as(last, "Attention", nil, slots, t.run)
	wide := (t.total + kernels.Panel - 1) / kernels.Panel * kernels.Panel
	t.room = 2*wide*t.size + queryTile*(wide+t.vsize+2)
	st.Scratch = 4 * t.room * s.node.prog.worker.Threads
	st.InPlace = nil
	t.do = t.item
	return st, at
}

// headsOf finds where numbers of heads [batch, heads, tokens, size] lie, before they were turned; with keys, the
// value is [batch, heads, size, tokens].
func (f *seeker) headsOf(slot int, keys bool) (from int, dims [4]int, l heads, ok bool) {
	spec := f.p.specs[slot]
	if len(spec.Shape) != 4 || spec.Type != graph.Float32 || spec.Known != nil {
		return 0, dims, l, false
	}
	dims = [4]int(spec.Shape)
	turn := f.made(slot, "Transpose")
	if keys {
		dims[2], dims[3] = dims[3], dims[2]
		switch {
		case turn == nil:
			return 0, dims, l, false
		case slices.Equal(turn.node.Ints("perm"), []int{0, 2, 3, 1}):
			return turn.in[0], dims, tokensFirst(dims), true
		case !slices.Equal(turn.node.Ints("perm"), []int{0, 1, 3, 2}):
			return 0, dims, l, false
		}
		slot = turn.in[0]
		turn = f.made(slot, "Transpose")
	}
	if turn != nil && slices.Equal(turn.node.Ints("perm"), []int{0, 2, 1, 3}) {
		return turn.in[0], dims, tokensFirst(dims), true
	}
	return slot, dims, headsFirst(dims), true
}

// tokensFirst is the layout of [batch, tokens, heads, size].
func tokensFirst(dims [4]int) heads {
	return heads{dims[1] * dims[2] * dims[3], dims[3], dims[1] * dims[3]}
}

func (t *tiled) run(w *Worker, in, out []*graph.Tensor) error {
	t.worker, t.out = w, elems[float32](out[0])
	for i := range t.data {
		t.data[i] = elems[float32](in[i])
	}
	if t.masked {
		t.bias = elems[float32](in[3])
	}
	w.Do(t.batch*t.heads, t.do)
	return nil
}

// ofHead is tokens [lo,hi) of a head.
func ofHead(x []float32, l heads, b, h, lo, hi, size int) kernels.Matrix {
	return kernels.Matrix{Data: x[l.view(b, h, lo):], Rows: hi - lo, Cols: size, Stride: l.token}
}

// hidden is what a mask has, at most, for keys that do not count: what remains of their weights is 0.
const hidden = -1e30

// seen finds the keys that count, when they are a run, and nothing but zero is added to their scores.
func (t *tiled) seen(b int) (lo, hi int, ok bool) {
	if !t.masked {
		return 0, t.total, true
	}
	if !t.even {
		return 0, t.total, false
	}
	row := t.bias[b*t.mask.steps[0]:]
	at := func(i int) float32 { return row[i*t.mask.steps[3]] }
	for lo < t.total && at(lo) <= hidden {
		lo++
	}
	for hi = lo; hi < t.total && at(hi) == 0; {
		hi++
	}
	for i := hi; i < t.total; i++ {
		if !(at(i) <= hidden) {
			return 0, t.total, false
		}
	}
	if lo == hi { // who sees nothing sees all alike
		return 0, t.total, false
	}
	return lo, hi, true
}

// item computes a head of a text.
func (t *tiled) item(worker, item int) {
	k, b, h := t.worker.Kernels, item/t.heads, item%t.heads
	lo, hi, whole := t.seen(b)
	n := hi - lo
	wide := (n + kernels.Panel - 1) / kernels.Panel * kernels.Panel
	room := elems[float32](&graph.Tensor{Type: graph.Float32, Data: t.worker.Scratch[4*worker*t.room:][:4*t.room]})
	cut := func(n int) []float32 {
		p := room[:n:n]
		room = room[n:]
		return p
	}
	keys, values := cut(wide*t.size), cut(wide*t.vsize)
	k.PutF32(keys, values, kernels.Place{K: ofHead(t.data[1], t.k, b, h, lo, hi, t.size), V: ofHead(t.data[2], t.v, b, h, lo, hi, t.vsize)})
	table, acc, tops, sums := cut(queryTile*wide), cut(queryTile*t.vsize), cut(queryTile), cut(queryTile)
	span := kernels.Span{From: 0, To: n}
	scale := float32(t.scale)
	for q := 0; q < t.seq; q += queryTile {
		m := min(queryTile, t.seq-q)
		scores := kernels.View(table, m, wide)
		k.AttendScores(scores, ofHead(t.data[0], t.q, b, h, q, q+m, t.size), kernels.Cached{Floats: keys}, kernels.Ahead{})
		factor := scale
		if !whole {
			factor = 1
			for r := range m {
				t.add(scores.Row(r)[:n], b, h, q+r, scale)
			}
		}
		k.AttendWeights(scores, tops[:m], sums[:m], span, factor)
		out := kernels.View(acc, m, t.vsize)
		k.AttendValues(out, scores.Slice(0, m, 0, n), kernels.Cached{Floats: values}, span, kernels.Ahead{})
		to := ofHead(t.out, t.y, b, h, q, q+m, t.vsize)
		for r := range m {
			k.Scale(out.Row(r), 1/sums[r])
			copy(to.Row(r), out.Row(r))
		}
	}
}

// add scales a row of scores and adds the mask.
func (t *tiled) add(row []float32, b, h, q int, scale float32) {
	t.worker.Kernels.Scale(row, scale)
	at := b*t.mask.steps[0] + h*t.mask.steps[1] + q*t.mask.steps[2]
	if t.mask.steps[3] == 1 {
		t.worker.Kernels.Add(row, t.bias[at:at+len(row)])
		return
	}
	for i := range row {
		row[i] += t.bias[at+i*t.mask.steps[3]]
	}
}
