package eval

import (
	"cmp"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Unique", Narrow: true, Plan: planUnique})
}

// planUnique finds the elements, or the slices along an axis, that differ: in rising order, or as they occur. How
// many there are depends on the values.
func planUnique(c *Call) (Step, error) {
	t, err := c.Need(0)
	if err != nil {
		return Step{}, err
	}
	view, axis := []int{t.Elems()}, 0
	if c.Node.Has("axis") {
		view = t.Shape
		if axis, err = axisOf(c.Node.Int("axis", 0), len(view)); err != nil || len(view) == 0 {
			return Step{}, c.Fault("axis %d of shape %v", c.Node.Int("axis", 0), view)
		}
	}
	l := linesOf(view, axis)
	order, err := ordering(c, t)
	if err != nil {
		return Step{}, err
	}
	compare := func(a, b int) int {
		for o := range l.outer {
			for i := range l.inner {
				at := o*l.n*l.inner + i
				if d := order(at+a*l.inner, at+b*l.inner); d != 0 {
					return d
				}
			}
		}
		return 0
	}
	all := make([]int, l.n)
	for i := range all {
		all[i] = i
	}
	slices.SortStableFunc(all, compare)
	var first, count []int64 // of each group of equals
	group := make([]int64, l.n)
	for k, i := range all {
		if k == 0 || compare(all[k-1], i) != 0 {
			first, count = append(first, int64(i)), append(count, 0)
		}
		group[i] = int64(len(first) - 1)
		count[len(count)-1]++
	}
	place := make([]int, len(first)) // which group stands where
	for i := range place {
		place[i] = i
	}
	if c.Node.Int("sorted", 1) == 0 {
		slices.SortFunc(place, func(a, b int) int { return cmp.Compare(first[a], first[b]) })
	}
	rank := make([]int64, len(place))
	for i, g := range place {
		rank[g] = int64(i)
	}
	shape, n := slices.Clone(view), len(place)
	shape[axis] = n
	return Step{Out: []Spec{Out(t.Type, shape...), Out(graph.Int64, n), Out(graph.Int64, l.n), Out(graph.Int64, n)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		want := func(i int) []int64 {
			if i < len(out) && out[i] != nil {
				return elems[int64](out[i])
			}
			return nil
		}
		indices, inverse, counts := want(1), want(2), want(3)
		for i, g := range place {
			for o := 0; out[0] != nil && o < l.outer; o++ {
				copyElems(out[0], (o*n+i)*l.inner, in[0], (o*l.n+int(first[g]))*l.inner, l.inner)
			}
			if indices != nil {
				indices[i] = first[g]
			}
			if counts != nil {
				counts[i] = count[g]
			}
		}
		for i := range inverse {
			inverse[i] = rank[group[i]]
		}
		return nil
	}}, nil
}

// ordering compares elements of a tensor by their places.
func ordering(c *Call, t *graph.Tensor) (func(i, j int) int, error) {
	switch t.Type {
	case graph.Float32:
		return orderOf(elems[float32](t)), nil
	case graph.Float64:
		return orderOf(elems[float64](t)), nil
	case graph.Int8:
		return orderOf(elems[int8](t)), nil
	case graph.Int16:
		return orderOf(elems[int16](t)), nil
	case graph.Int32:
		return orderOf(elems[int32](t)), nil
	case graph.Int64:
		return orderOf(elems[int64](t)), nil
	case graph.Uint8, graph.Bool:
		return orderOf(t.Data), nil
	case graph.Uint16:
		return orderOf(elems[uint16](t)), nil
	case graph.Uint32:
		return orderOf(elems[uint32](t)), nil
	case graph.Uint64:
		return orderOf(elems[uint64](t)), nil
	case graph.String:
		return orderOf(t.Strings), nil
	}
	return nil, c.Fault("elements of type %s", t.Type)
}

func orderOf[T cmp.Ordered](x []T) func(i, j int) int {
	return func(i, j int) int { return cmp.Compare(x[i], x[j]) }
}
