package eval

import (
	"cmp"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "ArgMax", Narrow: true, Plan: func(c *Call) (Step, error) { return planArg(c, false) }})
	register(Op{Name: "ArgMin", Narrow: true, Plan: func(c *Call) (Step, error) { return planArg(c, true) }})
	register(Op{Name: "TopK", Narrow: true, Plan: planTopK})
	register(Op{Name: "CumSum", Inputs: 2, Narrow: true, Plan: func(c *Call) (Step, error) { return planCumulate(c, opAdd) }})
	register(Op{Name: "CumProd", Inputs: 2, Narrow: true, Plan: func(c *Call) (Step, error) { return planCumulate(c, opMul) }})
}

// lines are the rows of an array along an axis: row i*inner+k begins at i*n*inner+k and goes in steps of
// inner.
type lines struct{ outer, n, inner int }

func linesOf(shape []int, axis int) lines {
	return lines{graph.Elems(shape[:axis]), shape[axis], graph.Elems(shape[axis+1:])}
}

func planArg(c *Call, least bool) (Step, error) {
	in := c.Shape(0)
	axis, err := axisOf(c.Node.Int("axis", 0), len(in))
	if err != nil || len(in) == 0 || in[axis] == 0 {
		return Step{}, c.Fault("axis %d of shape %v", c.Node.Int("axis", 0), in)
	}
	shape := slices.Clone(in)
	shape[axis] = 1
	if c.Node.Int("keepdims", 1) == 0 {
		shape = slices.Delete(shape, axis, axis+1)
	}
	l, last := linesOf(in, axis), c.Node.Int("select_last_index", 0) != 0
	s := Step{Out: []Spec{Out(graph.Int64, shape...)}}
	switch c.Type(0) {
	case graph.Float32:
		s.Run = arg[float32](l, least, last)
	case graph.Float64:
		s.Run = arg[float64](l, least, last)
	case graph.Int8:
		s.Run = arg[int8](l, least, last)
	case graph.Int16:
		s.Run = arg[int16](l, least, last)
	case graph.Int32:
		s.Run = arg[int32](l, least, last)
	case graph.Int64:
		s.Run = arg[int64](l, least, last)
	case graph.Uint8:
		s.Run = arg[uint8](l, least, last)
	case graph.Uint16:
		s.Run = arg[uint16](l, least, last)
	case graph.Uint32:
		s.Run = arg[uint32](l, least, last)
	case graph.Uint64:
		s.Run = arg[uint64](l, least, last)
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

func arg[T number](l lines, least, last bool) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	return func(_ *Worker, in, out []*graph.Tensor) error {
		x, y := elems[T](in[0]), elems[int64](out[0])
		for o := range l.outer {
			for i := range l.inner {
				at := o*l.n*l.inner + i
				best, where := x[at], 0
				for k := 1; k < l.n; k++ {
					v := x[at+k*l.inner]
					if v > best && !least || v < best && least || last && v == best {
						best, where = v, k
					}
				}
				y[o*l.inner+i] = int64(where)
			}
		}
		return nil
	}
}

func planTopK(c *Call) (Step, error) {
	in := c.Shape(0)
	axis, err := axisOf(c.Node.Int("axis", -1), len(in))
	if err != nil || len(in) == 0 {
		return Step{}, c.Fault("axis %d of shape %v", c.Node.Int("axis", -1), in)
	}
	k := c.Node.Int("k", -1)
	if c.Version >= 10 {
		list, err := c.Ints(1)
		if err != nil {
			return Step{}, err
		}
		if len(list) == 1 {
			k = list[0]
		}
	}
	if k < 0 || k > in[axis] {
		return Step{}, c.Fault("the %d largest of %d", k, in[axis])
	}
	shape := slices.Clone(in)
	shape[axis] = k
	l := linesOf(in, axis)
	large := c.Node.Int("largest", 1) != 0
	s := Step{Out: []Spec{Out(c.Type(0), shape...), Out(graph.Int64, shape...)}}
	switch c.Type(0) {
	case graph.Float32:
		s.Run = topK[float32](l, k, large)
	case graph.Float64:
		s.Run = topK[float64](l, k, large)
	case graph.Int8:
		s.Run = topK[int8](l, k, large)
	case graph.Int16:
		s.Run = topK[int16](l, k, large)
	case graph.Int32:
		s.Run = topK[int32](l, k, large)
	case graph.Int64:
		s.Run = topK[int64](l, k, large)
	case graph.Uint8:
		s.Run = topK[uint8](l, k, large)
	case graph.Uint16:
		s.Run = topK[uint16](l, k, large)
	case graph.Uint32:
		s.Run = topK[uint32](l, k, large)
	case graph.Uint64:
		s.Run = topK[uint64](l, k, large)
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

// topK sorts each line; of equal elements the first comes first.
func topK[T number](l lines, k int, large bool) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	order := make([]int, l.n)
	return func(_ *Worker, in, out []*graph.Tensor) error {
		x := elems[T](in[0])
		for o := range l.outer {
			for i := range l.inner {
				at := o*l.n*l.inner + i
				for j := range order {
					order[j] = j
				}
				slices.SortStableFunc(order, func(a, b int) int {
					d := cmp.Compare(x[at+a*l.inner], x[at+b*l.inner])
					if large {
						d = -d
					}
					return d
				})
				for j, p := range order[:k] {
					to := o*k*l.inner + j*l.inner + i
					if out[0] != nil {
						elems[T](out[0])[to] = x[at+p*l.inner]
					}
					if len(out) > 1 && out[1] != nil {
						elems[int64](out[1])[to] = int64(p)
					}
				}
			}
		}
		return nil
	}
}

func planCumulate(c *Call, op arithOp) (Step, error) {
	list, err := c.Ints(1)
	if err != nil {
		return Step{}, err
	}
	in := c.Shape(0)
	if len(list) != 1 {
		return Step{}, c.Fault("axis %v", list)
	}
	axis, err := axisOf(list[0], len(in))
	if err != nil || len(in) == 0 {
		return Step{}, c.Fault("axis %d of shape %v", list[0], in)
	}
	l := linesOf(in, axis)
	before, back := c.Node.Int("exclusive", 0) != 0, c.Node.Int("reverse", 0) != 0
	s := Step{Out: []Spec{Out(c.Type(0), in...)}}
	switch c.Type(0) {
	case graph.Float32:
		s.Run = cumulate(l, before, back, arithFloat[float32](op), op)
	case graph.Float64:
		s.Run = cumulate(l, before, back, arithFloat[float64](op), op)
	case graph.Int32:
		s.Run = cumulate(l, before, back, arithInt[int32](op), op)
	case graph.Int64:
		s.Run = cumulate(l, before, back, arithInt[int64](op), op)
	case graph.Uint32:
		s.Run = cumulate(l, before, back, arithInt[uint32](op), op)
	case graph.Uint64:
		s.Run = cumulate(l, before, back, arithInt[uint64](op), op)
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

// cumulate goes through planes of lines, a row of neighbours at a time.
func cumulate[T number](l lines, before, back bool, row rowFn[T, T], op arithOp) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	var start T
	if op == opMul {
		start = 1
	}
	return func(_ *Worker, in, out []*graph.Tensor) error {
		x, y := elems[T](in[0]), elems[T](out[0])
		for o := range l.outer {
			for k := range l.n {
				at := func(k int) int {
					if back {
						k = l.n - 1 - k
					}
					return (o*l.n + k) * l.inner
				}
				now := y[at(k):][:l.inner]
				from := at(k) // of the element that is added
				if before && k > 0 {
					from = at(k - 1)
				}
				switch {
				case l.inner == 0:
				case k == 0 && before:
					for i := range now {
						now[i] = start
					}
				case k == 0:
					copy(now, x[from:][:l.inner])
				default:
					row(now, y[at(k-1):][:l.inner], x[from:][:l.inner])
				}
			}
		}
		return nil
	}
}
