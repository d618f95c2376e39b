package eval

import (
	"math"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	for name, f := range map[string]struct {
		f32 func(row []float32)
		f64 func(row []float64)
	}{
		"Softmax":    {softmaxRow[float32], softmaxRow[float64]},
		"LogSoftmax": {logSoftmaxRow[float32], logSoftmaxRow[float64]},
		"Hardmax":    {hardmaxRow[float32], hardmaxRow[float64]},
	} {
		register(Op{Name: name, Narrow: true, Plan: func(c *Call) (Step, error) {
			switch c.Type(0) {
			case graph.Float32:
				if name == "Softmax" && c.Kernels != nil {
					return planAlong(c, c.Kernels.Softmax)
				}
				return planAlong(c, f.f32)
			case graph.Float64:
				return planAlong(c, f.f64)
			}
			return Step{}, c.Fault("elements of type %s", c.Type(0))
		}})
	}
}

// planAlong applies a function to every row along an axis, in place. Before version 13 all dimensions from
// the axis on make one row.
func planAlong[T float](c *Call, fn func(row []T)) (Step, error) {
	in := c.Shape(0)
	def := -1
	if c.Version < 13 {
		def = 1
	}
	axis, err := axisOf(c.Node.Int("axis", def), len(in))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	outer, n, inner := 1, 1, 1
	if len(in) > 0 {
		outer, n, inner = graph.Elems(in[:axis]), in[axis], graph.Elems(in[axis+1:])
	}
	if c.Version < 13 {
		n, inner = n*inner, 1
	}
	s := Step{Out: []Spec{Out(c.Type(0), in...)}, InPlace: []int{0}}
	if graph.Elems(in) == 0 {
		s.Run = func(*Worker, []*graph.Tensor, []*graph.Tensor) error { return nil }
		return s, nil
	}
	if inner == 1 {
		s.Run = func(w *Worker, in, out []*graph.Tensor) error {
			x, y := elems[T](in[0]), elems[T](out[0])
			if w.Threads == 1 || outer < 2 || outer*n*8 < 2*piece {
				copy(y, x)
				for o := range outer {
					fn(y[o*n : (o+1)*n])
				}
				return nil
			}
			w.Range(outer, n*8, func(lo, hi int) {
				copy(y[lo*n:hi*n], x[lo*n:hi*n])
				for o := lo; o < hi; o++ {
					fn(y[o*n : (o+1)*n])
				}
			})
			return nil
		}
		return s, nil
	}
	s.Scratch = 8 * n
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		x, y := elems[T](in[0]), elems[T](out[0])
		row := elems[T](&graph.Tensor{Type: c.Type(0), Data: w.Scratch})[:n]
		for o := range outer {
			for i := range inner {
				at := o*n*inner + i
				for k := range row {
					row[k] = x[at+k*inner]
				}
				fn(row)
				for k, v := range row {
					y[at+k*inner] = v
				}
			}
		}
		return nil
	}
	return s, nil
}

func largest[T float](row []T) float64 {
	m := math.Inf(-1)
	for _, v := range row {
		m = max(m, float64(v))
	}
	return m
}

func softmaxRow[T float](row []T) {
	m, sum := largest(row), 0.0
	for i, v := range row {
		e := math.Exp(float64(v) - m)
		row[i] = T(e)
		sum += e
	}
	for i := range row {
		row[i] = T(float64(row[i]) / sum)
	}
}

func logSoftmaxRow[T float](row []T) {
	m, sum := largest(row), 0.0
	for _, v := range row {
		sum += math.Exp(float64(v) - m)
	}
	l := math.Log(sum)
	for i, v := range row {
		row[i] = T(float64(v) - m - l)
	}
}

func hardmaxRow[T float](row []T) {
	best := 0
	for i, v := range row {
		if v > row[best] {
			best = i
		}
	}
	clear(row)
	row[best] = 1
}
