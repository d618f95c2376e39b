package eval

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() { idioms["LayerNormalization"] = findNorm }

// findNorm normalises rows by the kernel for that, and adds a residual connection before it.
func findNorm(f *seeker, i int, s *step) (*step, int) {
	x := f.p.specs[s.in[0]]
	axis, err := axisOf(s.node.Int("axis", -1), len(x.Shape))
	if err != nil || axis != len(x.Shape)-1 || x.Type != graph.Float32 || graph.Elems(x.Shape) == 0 || len(s.in) < 2 {
		return nil, 0
	}
	for _, o := range s.out[1:] {
		if o >= 0 {
			return nil, 0 // somebody wants mean or deviation
		}
	}
	n := x.Shape[axis]
	for _, slot := range s.in[1:] {
		if slot >= 0 && (f.p.specs[slot].Type != graph.Float32 || graph.Elems(f.p.specs[slot].Shape) != n) {
			return nil, 0
		}
	}
	gain, bias := s.in[1], -1
	if len(s.in) > 2 {
		bias = s.in[2]
	}
	in := []int{s.in[0], gain, bias}
	if sum := f.made(s.in[0], "Add"); sum != nil && len(f.users[s.in[0]]) == 1 && f.residual(sum) {
		in = append([]int{sum.in[0], gain, bias}, sum.in[1])
	}
	rows, eps := graph.Elems(x.Shape)/n, s.node.Float("epsilon", 1e-5)
	return as(s, "LayerNormalization", nil, in, func(w *Worker, in, out []*graph.Tensor) error {
		x, y, a := elems[float32](in[0]), elems[float32](out[0]), elems[float32](in[1])
		var b, more []float32
		if in[2] != nil {
			b = elems[float32](in[2])
		}
		if len(in) > 3 {
			more = elems[float32](in[3])
		}
		w.Range(rows, n, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				from, to := x[r*n:(r+1)*n], y[r*n:(r+1)*n]
				if more != nil {
					w.Kernels.AddTo(to, from, more[r*n:(r+1)*n])
					from = to
				}
				w.Kernels.LayerNorm(to, from, a, b, eps)
			}
		})
		return nil
	}), i
}

// residual reports whether both sides of a sum are whole values that are computed: a constant belongs to the
// product before it.
func (f *seeker) residual(s *step) bool {
	for _, slot := range s.in {
		if slot < 0 || f.p.specs[slot].Known != nil || !slices.Equal(f.p.specs[slot].Shape, s.Out[0].Shape) {
			return false
		}
	}
	return len(s.in) == 2
}
