package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	for name, centred := range map[string]bool{"SkipLayerNormalization": true, "SkipSimplifiedLayerNormalization": false} {
		register(Op{Domain: msDomain, Name: name, Inputs: 3, Narrow: true, Wide: []int{1, 2}, Plan: byFloat(
			func(c *Call) (Step, error) { return skipNorm[float32](c, centred) },
			func(c *Call) (Step, error) { return skipNorm[float64](c, centred) })})
	}
}

// skipNorm adds what a layer made to what went around it, and a bias, and normalizes the rows of the sum: with their
// mean, or by their size only. The sum is output 3.
func skipNorm[T float](c *Call, centred bool) (Step, error) {
	in := c.Shape(0)
	gamma, beta, bias := 2, 3, 4
	if !centred { // nothing is added after it
		beta, bias = -1, 3
	}
	if len(in) < 2 {
		return Step{}, c.Fault("shape %v", in)
	}
	size := in[len(in)-1]
	for _, i := range []int{gamma, beta, bias} {
		if i > 0 && c.Has(i) && (c.Type(i) != c.Type(0) || !slices.Equal(c.Shape(i), []int{size})) {
			return Step{}, c.Fault("input %d is %s %v, rows are %s %d", i, c.Type(i), c.Shape(i), c.Type(0), size)
		}
	}
	skip := c.Shape(1) // of the whole batch, or the same for all of it
	for len(skip) > 0 && len(skip) == len(in) && skip[0] == 1 && in[0] != 1 {
		skip = skip[1:]
	}
	if len(skip) == 0 || len(skip) > len(in) || !slices.Equal(skip, in[len(in)-len(skip):]) || c.Type(1) != c.Type(0) {
		return Step{}, c.Fault("inputs %s %v and %s %v", c.Type(0), in, c.Type(1), c.Shape(1))
	}
	eps := float64(c.Node.Float("epsilon", 1e-12))
	rows, around := graph.Elems(in[:len(in)-1]), graph.Elems(skip)
	stat := append(slices.Clone(in[:len(in)-1]), 1)
	s := Step{Out: []Spec{Out(c.Type(0), in...), Out(graph.Float32, stat...), Out(graph.Float32, stat...), Out(c.Type(0), in...)}}
	s.Run = func(w *Worker, ts, out []*graph.Tensor) error {
		input := func(i int) []T {
			if i > 0 && i < len(ts) && ts[i] != nil {
				return elems[T](ts[i])
			}
			return nil
		}
		output := func(i int) *graph.Tensor {
			if i < len(out) {
				return out[i]
			}
			return nil
		}
		if rows*size == 0 {
			return nil
		}
		x, other, scale, shift, add := elems[T](ts[0]), input(1), input(gamma), input(beta), input(bias)
		w.Range(rows, 8*size, func(lo, hi int) {
			sum := make([]T, size)
			for r := lo; r < hi; r++ {
				for i := range sum {
					sum[i] = x[r*size+i] + other[(r*size+i)%around]
					if add != nil {
						sum[i] += add[i]
					}
				}
				mean, variance := moments(sum)
				if !centred {
					mean, variance = 0, 0
					for _, v := range sum {
						variance += float64(float64(v)*float64(v)) / float64(size)
					}
				}
				inv := 1 / math.Sqrt(variance+eps)
				if t := output(1); t != nil {
					elems[float32](t)[r] = float32(mean)
				}
				if t := output(2); t != nil {
					elems[float32](t)[r] = float32(inv)
				}
				if t := output(3); t != nil {
					copy(elems[T](t)[r*size:], sum)
				}
				if t := output(0); t != nil {
					y := elems[T](t)[r*size : (r+1)*size]
					for i, v := range sum {
						n := float64((float64(v) - mean) * inv * float64(scale[i]))
						if shift != nil {
							n += float64(shift[i])
						}
						y[i] = T(n)
					}
				}
			}
		})
		return nil
	}
	return s, nil
}
