package eval

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Identity", Plan: planIdentity})
	register(Op{Name: "Reshape", Plan: planReshape})
	register(Op{Name: "Flatten", Plan: planFlatten})
	register(Op{Name: "Squeeze", Plan: planSqueeze})
	register(Op{Name: "Unsqueeze", Plan: planUnsqueeze})
	register(Op{Name: "Shape", Plan: planShape})
	register(Op{Name: "Size", Plan: planSize})
	register(Op{Name: "Constant", Inputs: -1, Plan: planConstant})
}

// alias is input 0 under another shape.
func alias(c *Call, shape ...int) (Step, error) {
	if graph.CheckShape(shape) != nil || graph.Elems(shape) != c.Elems(0) {
		return Step{}, c.Fault("%d elements of shape %v do not make shape %v", c.Elems(0), c.Shape(0), shape)
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Alias: true}, nil
}

func planIdentity(c *Call) (Step, error) {
	if c.Spec(0).Kind != graph.KindTensor {
		return Step{Out: []Spec{Later(c.Spec(0).Kind)}, Values: func(_ *Worker, in []Value) ([]Value, error) { return in[:1], nil }}, nil
	}
	return alias(c, c.Shape(0)...)
}

func planReshape(c *Call) (Step, error) {
	want, err := c.IntsOr(1, "shape")
	if err != nil {
		return Step{}, err
	}
	in, shape := c.Shape(0), slices.Clone(want)
	rest, known := -1, 1
	for i, d := range shape {
		switch {
		case d == 0 && c.Node.Int("allowzero", 0) == 0:
			if i >= len(in) {
				return Step{}, c.Fault("shape %v of %v", want, in)
			}
			shape[i] = in[i]
		case d == -1 && rest < 0:
			rest = i
			continue
		case d < 0:
			return Step{}, c.Fault("shape %v", want)
		}
		if shape[i] > 0 && known > graph.MaxElems/shape[i] {
			return Step{}, c.Fault("shape %v", want)
		}
		known *= shape[i]
	}
	if rest >= 0 {
		if known == 0 || c.Elems(0)%known != 0 {
			return Step{}, c.Fault("%d elements of shape %v do not make shape %v", c.Elems(0), in, want)
		}
		shape[rest] = c.Elems(0) / known
	}
	return alias(c, shape...)
}

func planFlatten(c *Call) (Step, error) {
	in, axis := c.Shape(0), c.Node.Int("axis", 1)
	if axis < 0 {
		axis += len(in)
	}
	if axis < 0 || axis > len(in) {
		return Step{}, c.Fault("axis %d of %d dimensions", c.Node.Int("axis", 1), len(in))
	}
	return alias(c, graph.Elems(in[:axis]), graph.Elems(in[axis:]))
}

func planSqueeze(c *Call) (Step, error) {
	axes, err := c.IntsOr(1, "axes")
	if err != nil {
		return Step{}, err
	}
	in := c.Shape(0)
	if axes == nil {
		for i, d := range in {
			if d == 1 {
				axes = append(axes, i)
			}
		}
	}
	if axes, err = axesOf(axes, len(in)); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	shape := []int{}
	for i, d := range in {
		if !slices.Contains(axes, i) {
			shape = append(shape, d)
		}
	}
	return alias(c, shape...)
}

func planUnsqueeze(c *Call) (Step, error) {
	axes, err := c.IntsOr(1, "axes")
	if err != nil {
		return Step{}, err
	}
	in := c.Shape(0)
	if axes, err = axesOf(axes, len(in)+len(axes)); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	var shape []int
	next := 0
	for i := range len(in) + len(axes) {
		if slices.Contains(axes, i) {
			shape = append(shape, 1)
			continue
		}
		shape = append(shape, in[next])
		next++
	}
	return alias(c, shape...)
}

// ints64 is a list that is known.
func ints64(list ...int) Spec {
	t := graph.New(graph.Int64, len(list))
	for i, v := range list {
		graph.Of[int64](t)[i] = int64(v)
	}
	return knownSpec(t)
}

func planShape(c *Call) (Step, error) {
	in := c.Shape(0)
	bound := func(v int) int {
		if v < 0 {
			v += len(in)
		}
		return min(max(v, 0), len(in))
	}
	lo, hi := bound(c.Node.Int("start", 0)), bound(c.Node.Int("end", len(in)))
	return Step{Out: []Spec{ints64(in[lo:max(lo, hi)]...)}}, nil
}

func planSize(c *Call) (Step, error) {
	s := ints64(c.Elems(0))
	s.Known.Shape, s.Shape = []int{}, []int{}
	return Step{Out: []Spec{s}}, nil
}

// planConstant is for graphs whose reader left constants as nodes.
func planConstant(c *Call) (Step, error) {
	var t *graph.Tensor
	for name, a := range c.Node.Attrs {
		switch name {
		case "value":
			t = a.Tensor
		case "value_int":
			t = graph.From(graph.Int64, []int64{a.Int})
		case "value_float":
			t = graph.From(graph.Float32, []float32{a.Float})
		case "value_string":
			t = &graph.Tensor{Type: graph.String, Strings: []string{a.String}}
		case "value_ints":
			t = graph.From(graph.Int64, a.Ints, len(a.Ints))
		case "value_floats":
			t = graph.From(graph.Float32, a.Floats, len(a.Floats))
		case "value_strings":
			t = &graph.Tensor{Type: graph.String, Shape: []int{len(a.Strings)}, Strings: a.Strings}
		}
	}
	if t == nil {
		return Step{}, c.Fault("no value that pare reads")
	}
	s := knownSpec(t)
	s.Const = true
	return Step{Out: []Spec{s}}, nil
}
