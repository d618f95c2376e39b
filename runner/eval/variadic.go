package eval

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// planVariadic folds any number of inputs, two at a time.
func planVariadic(c *Call, op arithOp, mean bool) (Step, error) {
	for i := 1; i < c.N(); i++ {
		if c.Type(i) != c.Type(0) {
			return Step{}, c.Fault("types %s and %s", c.Type(0), c.Type(i))
		}
	}
	switch t := c.Type(0); t {
	case graph.Float32:
		return planFold(c, arithFloat[float32](op), mean)
	case graph.Float64:
		return planFold(c, arithFloat[float64](op), mean)
	case graph.Int8:
		return planFold(c, arithInt[int8](op), false)
	case graph.Int16:
		return planFold(c, arithInt[int16](op), false)
	case graph.Int32:
		return planFold(c, arithInt[int32](op), false)
	case graph.Int64:
		return planFold(c, arithInt[int64](op), false)
	case graph.Uint8:
		return planFold(c, arithInt[uint8](op), false)
	case graph.Uint16:
		return planFold(c, arithInt[uint16](op), false)
	case graph.Uint32:
		return planFold(c, arithInt[uint32](op), false)
	case graph.Uint64:
		return planFold(c, arithInt[uint64](op), false)
	default:
		return Step{}, c.Fault("elements of type %s", t)
	}
}

func planFold[T number](c *Call, row rowFn[T, T], mean bool) (Step, error) {
	shapes := make([][]int, c.N())
	for i := range shapes {
		shapes[i] = c.Shape(i)
	}
	shape, err := broadcast(shapes...)
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	walks := make([]*walk, c.N())
	for i := range walks {
		if walks[i], err = newWalk(shape, strides(shape), stretched(shapes[i], shape)); err != nil {
			return Step{}, c.Fault("%w", err)
		}
	}
	s := Step{Out: []Spec{Out(c.Type(0), shape...)}}
	if slices.Equal(shapes[0], shape) {
		s.InPlace = []int{0}
	}
	scale := 1 / float64(c.N())
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		o := elems[T](out[0])
		if len(o) == 0 {
			return nil
		}
		walks[0].copy(w, out[0], in[0], 0, 0)
		for i := 1; i < len(in); i++ {
			k := walks[i]
			if rows := k.rows(); w.Threads == 1 || len(o) < piece {
				rowsOf(k, 0, rows, o, o, elems[T](in[i]), row)
			} else {
				x := elems[T](in[i])
				w.Range(rows, k.n, func(lo, hi int) { rowsOf(k, lo, hi, o, o, x, row) })
			}
		}
		if mean {
			for i, x := range o {
				o[i] = T(float64(x) * scale)
			}
		}
		return nil
	}
	return s, nil
}

func init() {
	for name, op := range map[string]arithOp{"Sum": opAdd, "Max": opMax, "Min": opMin} {
		register(Op{Name: name, Narrow: true, Plan: func(c *Call) (Step, error) { return planVariadic(c, op, false) }})
	}
	register(Op{Name: "Mean", Narrow: true, Plan: func(c *Call) (Step, error) { return planVariadic(c, opAdd, true) }})
	register(Op{Name: "Clip", Narrow: true, Plan: planClip})
}

// planClip bounds elements; the bounds are inputs, or attributes before version 11.
func planClip(c *Call) (Step, error) {
	for i := 1; i < min(c.N(), 3); i++ {
		if c.Has(i) && c.Type(i) != c.Type(0) {
			return Step{}, c.Fault("a bound of type %s for elements of type %s", c.Type(i), c.Type(0))
		}
	}
	switch t := c.Type(0); t {
	case graph.Float32:
		return clip[float32](c), nil
	case graph.Float64:
		return clip[float64](c), nil
	case graph.Int8:
		return clip[int8](c), nil
	case graph.Int16:
		return clip[int16](c), nil
	case graph.Int32:
		return clip[int32](c), nil
	case graph.Int64:
		return clip[int64](c), nil
	case graph.Uint8:
		return clip[uint8](c), nil
	case graph.Uint16:
		return clip[uint16](c), nil
	case graph.Uint32:
		return clip[uint32](c), nil
	case graph.Uint64:
		return clip[uint64](c), nil
	default:
		return Step{}, c.Fault("elements of type %s", t)
	}
}

func clip[T number](c *Call) Step {
	n := c.Node
	return Step{
		Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, InPlace: []int{0},
		Run: func(w *Worker, in, out []*graph.Tensor) error {
			x, y := elems[T](in[0]), elems[T](out[0])
			bound := func(i int, attr string) (T, bool) {
				if i < len(in) && in[i] != nil && len(elems[T](in[i])) > 0 {
					return elems[T](in[i])[0], true
				}
				return T(n.Float(attr, 0)), n.Has(attr)
			}
			lo, below := bound(1, "min")
			hi, above := bound(2, "max")
			switch {
			case below && above:
				for i, v := range x {
					y[i] = min(max(v, lo), hi)
				}
			case below:
				for i, v := range x {
					y[i] = max(v, lo)
				}
			case above:
				for i, v := range x {
					y[i] = min(v, hi)
				}
			default:
				copy(y, x)
			}
			return nil
		},
	}
}
