package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	for _, op := range []string{"Relu", "Clip", "Sigmoid", "Tanh", "Erf", "LeakyRelu", "HardSigmoid", "HardSwish", "Gelu", "Swish", "Exp"} {
		joins[op] = joinCurve
	}
	joins["ReduceSum"] = joinReduce
	joins["ReduceMean"] = joinReduce
	joins["GlobalMaxPool"] = joinLargest
	for _, op := range []string{"Add", "Sub", "Mul", "Div"} {
		joins[op] = joinArithmetic
	}
}

// again is step s with another function.
func again(s *step, run func(*Worker, []*graph.Tensor, []*graph.Tensor) error) *step {
	t := *s
	t.Run = run
	return &t
}

// joinCurve computes a function by vectors.
func joinCurve(f *fast, i int, s *step) (*step, int) {
	if s.Run == nil || f.p.specs[s.in[0]].Type != graph.Float32 {
		return nil, 0
	}
	act := curveOf(s.node)
	switch s.node.Op {
	case "Relu":
		act = func(s *kernels.Set, x []float32) { s.Clip(x, x, 0, kernels.Linear.Hi) }
	case "Clip":
		lo, hi, ok := clipBounds(f, s)
		if !ok {
			return nil, 0
		}
		act = func(s *kernels.Set, x []float32) { s.Clip(x, x, lo, hi) }
	case "Exp":
		act = func(s *kernels.Set, x []float32) { s.Exp(x, x) }
	}
	if act == nil {
		return nil, 0
	}
	return again(s, func(w *Worker, in, out []*graph.Tensor) error {
		x, y := elems[float32](in[0]), elems[float32](out[0])
		if len(x) < 2*piece/curveCost || w.Threads == 1 {
			copy(y, x)
			act(w.Kernels, y)
			return nil
		}
		w.Range(len(x), curveCost, func(lo, hi int) {
			for ; lo < hi; lo += curveBlock { // what was copied is still near
				end := min(hi, lo+curveBlock)
				copy(y[lo:end], x[lo:end])
				act(w.Kernels, y[lo:end])
			}
		})
		return nil
	}), i
}

const (
	curveCost  = 4    // of a number, in the units of piece
	curveBlock = 4096 // numbers
)

// joinArithmetic computes with rows: of the same shape, with one number, or with a row for all of them.
func joinArithmetic(f *fast, i int, s *step) (*step, int) {
	if s.Run == nil || len(s.in) != 2 {
		return nil, 0
	}
	a, b, to := f.p.specs[s.in[0]], f.p.specs[s.in[1]], s.Out[0]
	if a.Type != graph.Float32 || b.Type != graph.Float32 || graph.Elems(to.Shape) == 0 {
		return nil, 0
	}
	set := s.node.prog.worker.Kernels
	op := map[string]func(dst, x, y []float32){"Add": set.AddTo, "Sub": set.SubTo, "Mul": set.MulTo, "Div": set.DivTo}[s.node.Op]
	x, y := 0, 1 // which input is whole, which is the other
	if !slices.Equal(a.Shape, to.Shape) {
		if s.node.Op == "Div" || !slices.Equal(b.Shape, to.Shape) {
			return nil, 0
		}
		x, y = 1, 0
		if s.node.Op == "Sub" {
			op = func(dst, x, y []float32) { set.SubFrom(dst, y[0], x) }
			if graph.Elems(a.Shape) != 1 {
				return nil, 0
			}
		}
		a, b = b, a
	}
	n, row := graph.Elems(a.Shape), graph.Elems(b.Shape)
	if row != 1 && row != n && !lastRow(b.Shape, a.Shape) {
		return nil, 0
	}
	return again(s, func(w *Worker, in, out []*graph.Tensor) error {
		p, q, dst := elems[float32](in[x]), elems[float32](in[y]), elems[float32](out[0])
		if row == 1 || row == n {
			if w.Alone(n, 2) {
				op(dst, p, q)
				return nil
			}
			w.Range(n, 2, func(lo, hi int) {
				part := q
				if row != 1 {
					part = q[lo:hi]
				}
				op(dst[lo:hi], p[lo:hi], part)
			})
			return nil
		}
		w.Range(n/row, 2*row, func(lo, hi int) {
			for ; lo < hi; lo++ {
				op(dst[lo*row:(lo+1)*row], p[lo*row:(lo+1)*row], q)
			}
		})
		return nil
	}), i
}

// lastRow reports whether a shape is that of the last dimensions of another one.
func lastRow(row, whole []int) bool {
	for len(row) > 0 && row[0] == 1 {
		row = row[1:]
	}
	return len(row) <= len(whole) && slices.Equal(row, whole[len(whole)-len(row):])
}

// joinReduce adds along one run of adjacent dimensions: rows of numbers, or columns of rows.
func joinReduce(f *fast, i int, s *step) (*step, int) {
	in, out := f.p.specs[s.in[0]], s.Out[0]
	if s.Run == nil || in.Type != graph.Float32 || graph.Elems(in.Shape) == 0 {
		return nil, 0
	}
	axes := s.node.Ints("axes")
	if len(s.in) > 1 && s.in[1] >= 0 {
		if f.p.specs[s.in[1]].Known == nil {
			return nil, 0
		}
		list, err := f.p.specs[s.in[1]].Known.Ints()
		if err != nil {
			return nil, 0
		}
		for _, a := range list {
			axes = append(axes, int(a))
		}
	}
	if len(axes) != 1 {
		return nil, 0
	}
	axis, err := axisOf(axes[0], len(in.Shape))
	if err != nil {
		return nil, 0
	}
	n, inner := in.Shape[axis], graph.Elems(in.Shape[axis+1:])
	outer := graph.Elems(in.Shape[:axis])
	scale := float32(1)
	if s.node.Op == "ReduceMean" {
		scale = 1 / float32(n)
	}
	if graph.Elems(out.Shape) != outer*inner {
		return nil, 0
	}
	// sums of so many rows are added to one another, so that rounding does not pile up
	const run = 16
	t := again(s, func(w *Worker, ins, outs []*graph.Tensor) error {
		x, y := elems[float32](ins[0]), elems[float32](outs[0])
		if inner == 1 {
			w.Range(outer, n/2, func(lo, hi int) {
				for r := lo; r < hi; r++ {
					y[r] = w.Kernels.Sum(x[r*n:(r+1)*n]) * scale
				}
			})
			return nil
		}
		partial := elems[float32](&graph.Tensor{Type: graph.Float32, Data: w.Scratch})[:inner]
		for o := range outer {
			from, to := x[o*n*inner:(o+1)*n*inner], y[o*inner:(o+1)*inner]
			clear(to)
			for k := 0; k < n; k += run {
				copy(partial, from[k*inner:])
				for j := k + 1; j < min(n, k+run); j++ {
					w.Kernels.Add(partial, from[j*inner:(j+1)*inner])
				}
				w.Kernels.Add(to, partial)
			}
			if scale != 1 {
				w.Kernels.Scale(to, scale)
			}
		}
		return nil
	})
	t.Scratch = 4 * inner
	return t, i
}

// joinLargest finds the largest number of every plane.
func joinLargest(f *fast, i int, s *step) (*step, int) {
	in := f.p.specs[s.in[0]]
	if s.Run == nil || in.Type != graph.Float32 || graph.Elems(in.Shape) == 0 {
		return nil, 0
	}
	plane := graph.Elems(in.Shape[2:])
	return again(s, func(w *Worker, ins, outs []*graph.Tensor) error {
		x, y := elems[float32](ins[0]), elems[float32](outs[0])
		w.Range(len(y), plane/4, func(lo, hi int) {
			for p := lo; p < hi; p++ {
				y[p] = peakOf(w.Kernels, x[p*plane:(p+1)*plane])
			}
		})
		return nil
	}), i
}

// peakOf is the largest number of a row, NaN when there is one.
func peakOf(s *kernels.Set, x []float32) float32 {
	if sum := s.Sum(x); sum != sum {
		for _, v := range x { // NaN, or infinities of both signs
			if v != v {
				return v
			}
		}
	}
	return s.Max(x)
}
