package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	joins["MatMul"] = joinDense
	joins["Gemm"] = joinDense
}

// dense is a product of rows with constant weights, and with what follows it.
type dense struct {
	sharing
	packed  []*kernels.Conv // of so many columns each, the last of the rest
	windows kernels.Windows
	finish  kernels.Finish
	act     func(s *kernels.Set, x []float32)
	worker  *Worker
	x, y    []float32
	do      func(worker, item int)
}

// joinDense makes a step of a product with a constant matrix, and of the bias and the activation that follow.
func joinDense(f *fast, i int, s *step) (*step, int) {
	weights := f.constant(s.in[1])
	x, w := f.p.specs[s.in[0]], f.p.specs[s.in[1]]
	if weights == nil || x.Type != graph.Float32 || len(w.Shape) != 2 || len(x.Shape) < 1 || graph.Elems(s.Out[0].Shape) == 0 || graph.Elems(w.Shape) == 0 {
		return nil, 0
	}
	if t, at := joinOneHot(f, i, s); t != nil {
		return t, at
	}
	d := &dense{sharing: sharing{in: w.Shape[0], out: w.Shape[1]}, finish: kernels.Linear}
	var bias []float32
	transposed := false
	if s.node.Op == "Gemm" {
		if transposed = s.node.Int("transB", 0) != 0; transposed {
			d.in, d.out = d.out, d.in
		}
		if s.node.Int("transA", 0) != 0 || s.node.Float("alpha", 1) != 1 || s.node.Float("beta", 1) != 1 {
			return nil, 0
		}
		if len(s.in) > 2 && s.in[2] >= 0 {
			if bias = f.rowOf(s.in[2], d.out); bias == nil {
				return nil, 0
			}
		}
	}
	d.rows = graph.Elems(x.Shape) / d.in
	t := &step{node: s.node, Step: Step{Out: s.Out}, in: s.in[:1:1], out: s.out}
	at := i
	for d.act == nil {
		next, ok := f.only(t.out[0], at)
		if !ok || !slices.Equal(f.p.steps[next].Out[0].Shape, s.Out[0].Shape) {
			break
		}
		u := f.p.steps[next]
		if u.node.Op == "Add" && bias == nil && u.in[0] != u.in[1] {
			if bias = f.rowOf(u.in[0]+u.in[1]-t.out[0], d.out); bias == nil {
				break
			}
		} else if u.node.Op == "Relu" {
			d.act = func(s *kernels.Set, x []float32) { s.Clip(x, x, 0, kernels.Linear.Hi) }
		} else if d.act = curveOf(u.node); d.act == nil {
			break
		}
		f.gone[at] = true
		at = next
		t.out, t.Out = u.out[:1], u.Out[:1]
	}
	name := "dense"
	if bias != nil {
		name += " with bias"
	}
	set := s.node.prog.worker.Kernels
	d.cols = denseCols(d.in, d.out, s.node.prog.worker.Threads)
	d.packed, _ = Once(&Call{node: s.node}, name, func() ([]*kernels.Conv, error) {
		return packDense(set, d.in, d.out, d.cols, transposed, weights, bias), nil
	})
	d.windows = d.packed[0].Windows(0, d.in, 0)
	d.cut(len(d.packed), s.node.prog.worker.Threads, convPiece)
	d.do = d.item
	t.Run = d.run
	return t, at
}

// rowOf is a constant as a row of n numbers, or nil when it is not one.
func (f *fast) rowOf(slot, n int) []float32 {
	v := f.constant(slot)
	if v == nil || len(v) != n && len(v) != 1 || len(v) != f.lastDim(slot) {
		return nil
	}
	if len(v) == n {
		return v
	}
	return slices.Repeat(v, n)
}

// lastDim is the last dimension of a value that has no other, otherwise -1.
func (f *fast) lastDim(slot int) int {
	shape := f.p.specs[slot].Shape
	if len(shape) == 0 {
		return 1
	}
	if last := shape[len(shape)-1]; last == graph.Elems(shape) {
		return last
	}
	return -1
}

func (d *dense) run(w *Worker, in, out []*graph.Tensor) error {
	d.worker, d.x, d.y = w, elems[float32](in[0]), elems[float32](out[0])
	w.Do(d.items, d.do)
	return nil
}

// panel is a number of columns that every level's kernels take in whole panels.
const panel = 64

// denseCols is how many columns are packed together, so that threads can share them out. What decides it is the
// same for every number of rows.
func denseCols(in, out, threads int) int {
	if threads == 1 || in*out < convPiece {
		return out
	}
	return panel * max(1, (out+panel-1)/panel/(4*threads))
}

// packDense packs a matrix in parts of its columns.
func packDense(set *kernels.Set, in, out, cols int, transposed bool, weights, bias []float32) []*kernels.Conv {
	if !transposed && cols < out {
		turned := make([]float32, len(weights))
		set.Transpose(kernels.View(turned, out, in), kernels.View(weights, in, out))
		weights, transposed = turned, true
	}
	var list []*kernels.Conv
	for lo := 0; lo < out; lo += cols {
		hi := min(lo+cols, out)
		var b []float32
		if bias != nil {
			b = bias[lo:hi]
		}
		list = append(list, set.NewDense(hi-lo, in, transposed, weights[lo*in:hi*in], b))
	}
	return list
}

// denseBand is how many rows at most meet a part of the columns at a time: they stay in the second-level cache,
// beside the part.
const denseBand = 192

// sharing is how the product of rows with a packed matrix is shared out: bands of rows by groups of columns.
type sharing struct {
	rows, in, out int
	cols          int // of a packed part
	bands, band   int // of rows
	items, parts  int // how many, and of how many parts each
}

// cut decides, for a matrix in so many parts; piece is the multiplications that are worth another thread.
func (d *sharing) cut(packed, threads, piece int) {
	d.bands = (d.rows + denseBand - 1) / denseBand
	d.band = ((d.rows+d.bands-1)/d.bands + 11) / 12 * 12
	d.bands = (d.rows + d.band - 1) / d.band
	d.parts = packed
	if threads > 1 {
		want := max(1, min(4*threads, d.rows*d.in*d.out/piece))
		d.parts = max(1, packed*d.bands/want)
		if packed == 1 { // rows are shared out instead
			d.band = max(12, (d.rows/want+11)/12*12)
			d.bands = (d.rows + d.band - 1) / d.band
		}
	}
	d.items = d.bands * ((packed + d.parts - 1) / d.parts)
}

// share is what an item computes: rows, parts, and the columns of those.
func (d *sharing) share(item, packed int) (lo, hi, first, last, from, to int) {
	groups := d.items / d.bands
	lo, first = item/groups*d.band, item%groups*d.parts
	hi, last = min(lo+d.band, d.rows), min(first+d.parts, packed)
	return lo, hi, first, last, first * d.cols, min(last*d.cols, d.out)
}

func (d *dense) item(_, item int) {
	lo, hi, first, last, from, to := d.share(item, len(d.packed))
	y := kernels.NewImage(d.y[lo*d.out:], 1, hi-lo, d.out)
	for i, p := range d.packed[first:last] {
		c := from + i*d.cols
		p.Run(y.Channels(c, min(c+d.cols, d.out)), d.x[lo*d.in:], d.windows, d.finish)
	}
	switch {
	case d.act == nil:
	case from == 0 && to == d.out:
		d.act(d.worker.Kernels, d.y[lo*d.out:hi*d.out])
	default:
		for r := lo; r < hi; r++ {
			d.act(d.worker.Kernels, d.y[r*d.out+from:r*d.out+to])
		}
	}
}

// joinOneHot replaces the product of a matrix with rows of zeros and a single one, which are written as
// Cast(Equal(index, 0..n-1)), by the matrix's rows. An index that is not in the matrix makes zeros.
func joinOneHot(f *fast, i int, s *step) (*step, int) {
	made := func(slot int, op string) *step {
		if slot < 0 || f.readers[slot] != 1 || f.maker[slot] < 0 {
			return nil
		}
		m := f.p.steps[f.maker[slot]]
		if m.node.Op != op || m.open || m.node.Domain != "" || f.gone[f.maker[slot]] {
			return nil
		}
		return m
	}
	if s.node.Op != "MatMul" {
		return nil, 0
	}
	cast := made(s.in[0], "Cast")
	if cast == nil || f.p.specs[cast.in[0]].Type != graph.Bool {
		return nil, 0
	}
	equal := made(cast.in[0], "Equal")
	if equal == nil {
		return nil, 0
	}
	w := f.p.specs[s.in[1]]
	index, list := equal.in[0], equal.in[1]
	if !counts(f.p.specs[list], w.Shape[0]) {
		index, list = list, index
	}
	x := f.p.specs[index]
	rows := graph.Elems(s.Out[0].Shape) / w.Shape[1]
	if !counts(f.p.specs[list], w.Shape[0]) || len(x.Shape) == 0 || x.Shape[len(x.Shape)-1] != 1 || graph.Elems(x.Shape) != rows || !readsIndex(x.Type) {
		return nil, 0
	}
	f.gone[f.maker[s.in[0]]], f.gone[f.maker[cast.in[0]]] = true, true
	n, width := w.Shape[0], w.Shape[1]
	t := again(s, func(wk *Worker, in, out []*graph.Tensor) error {
		table, y := elems[float32](in[1]), elems[float32](out[0])
		wk.Range(rows, width/2, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				if k, ok := indexAt(in[0], r); ok && k >= 0 && k < n {
					copy(y[r*width:(r+1)*width], table[k*width:])
				} else {
					clear(y[r*width : (r+1)*width])
				}
			}
		})
		return nil
	})
	t.in, t.Scratch = []int{index, s.in[1]}, 0
	return t, i
}

// counts reports whether a value is the constant 0, 1, ... n-1 along its last dimension.
func counts(s Spec, n int) bool {
	if !s.Const || len(s.Shape) == 0 || s.Shape[len(s.Shape)-1] != n || graph.Elems(s.Shape) != n || !readsIndex(s.Type) {
		return false
	}
	for i := range n {
		if k, ok := indexAt(s.Known, i); !ok || k != i {
			return false
		}
	}
	return true
}

func readsIndex(t graph.DType) bool {
	return t == graph.Int32 || t == graph.Int64 || t == graph.Float32
}

// indexAt is element i as an integer, when it is one.
func indexAt(t *graph.Tensor, i int) (int, bool) {
	switch t.Type {
	case graph.Int32:
		return int(elems[int32](t)[i]), true
	case graph.Int64:
		return int(elems[int64](t)[i]), true
	}
	v := elems[float32](t)[i]
	if !(v > -1<<24 && v < 1<<24) {
		return 0, false
	}
	return int(v), float32(int(v)) == v
}
