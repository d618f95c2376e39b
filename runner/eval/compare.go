package eval

import (
	"cmp"

	"github.com/pare-dev/pare/ir/graph"
)

// compareOp asks something of two elements.
type compareOp int

const (
	opEqual compareOp = iota
	opLess
	opLessEqual
	opGreater
	opGreaterEqual
)

func compareRow[T cmp.Ordered](op compareOp) rowFn[T, bool] {
	switch op {
	case opLess:
		return each(func(a, b T) bool { return a < b })
	case opLessEqual:
		return each(func(a, b T) bool { return a <= b })
	case opGreater:
		return each(func(a, b T) bool { return a > b })
	case opGreaterEqual:
		return each(func(a, b T) bool { return a >= b })
	}
	return each(func(a, b T) bool { return a == b })
}

func planCompare(c *Call, op compareOp) (Step, error) {
	if c.Type(1) != c.Type(0) {
		return Step{}, c.Fault("types %s and %s", c.Type(0), c.Type(1))
	}
	switch c.Type(0) {
	case graph.Float32:
		return planRows(c, graph.Bool, 2, compareRow[float32](op))
	case graph.Float64:
		return planRows(c, graph.Bool, 2, compareRow[float64](op))
	case graph.Int8:
		return planRows(c, graph.Bool, 2, compareRow[int8](op))
	case graph.Int16:
		return planRows(c, graph.Bool, 2, compareRow[int16](op))
	case graph.Int32:
		return planRows(c, graph.Bool, 2, compareRow[int32](op))
	case graph.Int64:
		return planRows(c, graph.Bool, 2, compareRow[int64](op))
	case graph.Uint8, graph.Bool:
		return planRows(c, graph.Bool, 2, compareRow[uint8](op))
	case graph.Uint16:
		return planRows(c, graph.Bool, 2, compareRow[uint16](op))
	case graph.Uint32:
		return planRows(c, graph.Bool, 2, compareRow[uint32](op))
	case graph.Uint64:
		return planRows(c, graph.Bool, 2, compareRow[uint64](op))
	case graph.String:
		if op == opEqual {
			return planRows(c, graph.Bool, 8, compareRow[string](op))
		}
	}
	return Step{}, c.Fault("elements of type %s", c.Type(0))
}

func init() {
	for name, op := range map[string]compareOp{
		"Equal": opEqual, "Less": opLess, "LessOrEqual": opLessEqual, "Greater": opGreater, "GreaterOrEqual": opGreaterEqual,
	} {
		register(Op{Name: name, Inputs: 2, Narrow: true, Plan: func(c *Call) (Step, error) { return planCompare(c, op) }})
	}
	register(Op{Name: "Where", Inputs: 3, Unpack: true, Plan: planWhere})
}

// planWhere takes elements of one input or the other.
func planWhere(c *Call) (Step, error) {
	if c.Type(0) != graph.Bool || c.Type(1) != c.Type(2) {
		return Step{}, c.Fault("types %s, %s and %s", c.Type(0), c.Type(1), c.Type(2))
	}
	shape, err := broadcast(c.Shape(0), c.Shape(1), c.Shape(2))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	w, err := newWalk(shape, stretched(c.Shape(0), shape), stretched(c.Shape(1), shape), stretched(c.Shape(2), shape))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	s := Step{Out: []Spec{Out(c.Type(1), shape...)}}
	switch t := c.Type(1); {
	case t == graph.String:
		s.Run = choose[string](w)
	case t.Bits() == 8:
		s.Run = choose[uint8](w)
	case t.Bits() == 16:
		s.Run = choose[uint16](w)
	case t.Bits() == 32:
		s.Run = choose[uint32](w)
	case t.Bits() == 64:
		s.Run = choose[uint64](w)
	default:
		s.Run = choose[complex128](w)
	}
	return s, nil
}

func choose[T any](w *walk) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	rows := w.rows()
	return func(_ *Worker, in, out []*graph.Tensor) error {
		cond, x, y, o := elems[bool](in[0]), elems[T](in[1]), elems[T](in[2]), elems[T](out[0])
		if len(o) == 0 {
			return nil
		}
		at := w.at(0)
		for r := range rows {
			c, a, b := at.off[0], at.off[1], at.off[2]
			row := o[r*w.n : (r+1)*w.n]
			for i := range row {
				if cond[c+i*w.inner[0]] {
					row[i] = x[a+i*w.inner[1]]
				} else {
					row[i] = y[b+i*w.inner[2]]
				}
			}
			at.next()
		}
		return nil
	}
}
