package eval

import (
	"math"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

// heads is where the numbers of a head lie in a tensor: strides of batch, head and token, in elements.
type heads struct{ batch, head, token int }

// splitHeads reads [batch, heads, tokens, size], or [batch, tokens, heads*size] with so many heads.
func splitHeads(shape []int, n int) (h heads, dims [4]int, ok bool) {
	switch {
	case len(shape) == 4:
		dims = [4]int(shape)
		return headsFirst(dims), dims, true
	case len(shape) == 3 && n > 0 && shape[2]%n == 0:
		dims = [4]int{shape[0], n, shape[1], shape[2] / n}
		return heads{shape[1] * shape[2], dims[3], shape[2]}, dims, true
	}
	return h, dims, false
}

// headsFirst is the layout of [batch, heads, tokens, size].
func headsFirst(dims [4]int) heads {
	return heads{dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3]}
}

// view is head h of batch b from token lo on.
func (l heads) view(b, h, lo int) int { return b*l.batch + h*l.head + lo*l.token }

// attention is the sizes of softmax(scale Q K^T + bias) V.
type attention struct {
	batch, heads, kvHeads int
	seq, total            int // tokens that ask, and that are asked
	size, vsize           int
	scale, cap            float64 // cap bends scores smoothly below a bound; 0 does not
	q, k, v, y            heads
}

// biasFn adds to the scores of a query what its position and masks say; false when it may attend to nothing.
type biasFn[T float] func(row []T, b, h, i int) bool

// What attention shows of its scores.
const (
	showProducts = iota
	showCapped
	showBiased
	showProbabilities
)

// attendRows is how many queries of a head are attended together.
const attendRows = 64

// scratch is the elements that attend wants.
func (a *attention) scratch(threads int) int { return threads * min(a.seq, attendRows) * a.total }

// attend computes y, and scores [batch, heads, seq, total] when they are shown.
func attend[T float](w *Worker, a *attention, y, q, k, v, scratch, scores []T, show int, bias biasFn[T]) error {
	if len(y) == 0 {
		return nil
	}
	rows := min(a.seq, attendRows)
	blocks := (a.seq + rows - 1) / rows
	errs := make([]error, max(w.Threads, 1))
	w.Do(a.batch*a.heads*blocks, func(worker, item int) {
		b, h, lo := item/blocks/a.heads, item/blocks%a.heads, item%blocks*rows
		n := min(rows, a.seq-lo)
		kv := h / (a.heads / a.kvHeads)
		x := kernels.View(scratch[worker*rows*a.total:], n, a.total)
		keys := kernels.Dense[T]{Data: k[a.k.view(b, kv, 0):], Rows: a.total, Cols: a.size, Stride: a.k.token}
		ask := kernels.Dense[T]{Data: q[a.q.view(b, h, lo):], Rows: n, Cols: a.size, Stride: a.q.token}
		if err := kernels.Gemm(w.ctx, w.Kernels, 1, kernels.NT, x, ask, keys, false); err != nil {
			errs[worker] = err
			return
		}
		for i := range n {
			row := x.Row(i)
			var shown []T
			if scores != nil {
				shown = scores[((b*a.heads+h)*a.seq+lo+i)*a.total:][:a.total]
			}
			weigh(w, a, row, shown, show, func() bool { return bias == nil || bias(row, b, h, lo+i) })
		}
		values := kernels.Dense[T]{Data: v[a.v.view(b, kv, 0):], Rows: a.total, Cols: a.vsize, Stride: a.v.token}
		dst := kernels.Dense[T]{Data: y[a.y.view(b, h, lo):], Rows: n, Cols: a.vsize, Stride: a.y.token}
		if err := kernels.Gemm(w.ctx, w.Kernels, 1, kernels.NN, dst, x, values, false); err != nil {
			errs[worker] = err
		}
	})
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// weigh turns a row of products into probabilities. bias adds to it, and says whether any are left.
func weigh[T float](w *Worker, a *attention, row, shown []T, show int, bias func() bool) {
	for j := range row {
		row[j] *= T(a.scale)
	}
	if shown != nil && show == showProducts {
		copy(shown, row)
	}
	if a.cap > 0 {
		for j, s := range row {
			row[j] = T(a.cap * math.Tanh(float64(s)/a.cap))
		}
	}
	if shown != nil && show == showCapped {
		copy(shown, row)
	}
	some := bias()
	if shown != nil && show == showBiased {
		copy(shown, row)
	}
	if r, ok := any(row).([]float32); !some {
		clear(row)
	} else if ok && w.Kernels != nil {
		w.Kernels.Softmax(r)
	} else {
		softmaxRow(row)
	}
	if shown != nil && show == showProbabilities {
		copy(shown, row)
	}
}

// mask is what is added to scores [batch, heads, seq, total], or, of bools, which of them count. Its last
// dimension may be shorter: what it does not reach does not count.
type mask struct {
	width int
	steps []int
	typ   graph.DType
}

// newMask reads the shape of an input that is laid over the scores.
func newMask(c *Call, i int, a *attention) (*mask, error) {
	if !c.Has(i) {
		return nil, nil
	}
	shape := c.Shape(i)
	if len(shape) == 0 || len(shape) > 4 || shape[len(shape)-1] > a.total || c.Type(i) != graph.Bool && c.Type(i) != c.Type(0) {
		return nil, c.Fault("mask %s %v of %d keys", c.Type(i), shape, a.total)
	}
	m := &mask{width: shape[len(shape)-1], typ: c.Type(i)}
	over := []int{a.batch, a.heads, a.seq, m.width}
	full, err := broadcast(shape, over)
	if err != nil || graph.Elems(full) != graph.Elems(over) || len(full) > 4 {
		return nil, c.Fault("mask %v over scores %v", shape, over)
	}
	m.steps = stretched(shape, over)
	return m, nil
}

// addMask lays the mask over a row of scores from query i on. What does not count becomes -Inf whatever it was, so that
// infinite products do not become NaN.
func addMask[T float](m *mask, t *graph.Tensor, row []T, b, h, i int) {
	at := b*m.steps[0] + h*m.steps[1] + i*m.steps[2]
	off := T(math.Inf(-1))
	if m.typ == graph.Bool {
		for j, on := range t.Data[at : at+m.width] {
			if on == 0 {
				row[j] = off
			}
		}
	} else {
		for j, v := range elems[T](t)[at : at+m.width] {
			if v == off {
				row[j] = off
			} else {
				row[j] += v
			}
		}
	}
	for j := m.width; j < len(row); j++ {
		row[j] = off
	}
}

// blank makes scores outside [lo,hi) not count.
func blank[T float](row []T, lo, hi int) {
	off := T(math.Inf(-1))
	lo, hi = min(max(lo, 0), len(row)), min(max(hi, 0), len(row))
	for j := range row[:lo] {
		row[j] = off
	}
	for j := max(lo, hi); j < len(row); j++ {
		row[j] = off
	}
}

// someCount reports whether any score counts.
func someCount[T float](row []T) bool {
	for _, v := range row {
		if !math.IsInf(float64(v), -1) {
			return true
		}
	}
	return false
}
