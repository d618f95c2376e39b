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
	rows, in, out int
	packed        *kernels.Conv
	windows       kernels.Windows
	finish        kernels.Finish
	act           func(s *kernels.Set, x []float32)
	items         int
	worker        *Worker
	x, y          []float32
	do            func(worker, item int)
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
	d := &dense{in: w.Shape[0], out: w.Shape[1], finish: kernels.Linear}
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
	d.packed, _ = Once(&Call{node: s.node}, name, func() (*kernels.Conv, error) {
		return set.NewDense(d.out, d.in, transposed, weights, bias), nil
	})
	d.windows = d.packed.Windows(0, d.in, 0)
	d.items = max(1, min(4*s.node.prog.worker.Threads, d.rows*d.in*d.out/convPiece, (d.rows+11)/12))
	if s.node.prog.worker.Threads == 1 {
		d.items = 1
	}
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

func (d *dense) item(_, item int) {
	cut := func(i int) int {
		if i == d.items {
			return d.rows
		}
		return d.rows * i / d.items / 12 * 12
	}
	lo, hi := cut(item), cut(item+1)
	if lo == hi {
		return
	}
	y := d.y[lo*d.out : hi*d.out]
	d.packed.Run(kernels.NewImage(y, 1, hi-lo, d.out), d.x[lo*d.in:], d.windows, d.finish)
	if d.act != nil {
		d.act(d.worker.Kernels, y)
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
