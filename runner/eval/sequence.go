package eval

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "SequenceConstruct", Plan: makesSequence(func(_ *Call, in []Value) (Value, error) {
		list := make([]*graph.Tensor, len(in))
		for i, v := range in {
			if v.Tensor == nil || v.Tensor.Type != in[0].Tensor.Type {
				return Value{}, fmt.Errorf("input %d is no tensor, or one of another type", i)
			}
			list[i] = hold(v.Tensor)
		}
		return SequenceOf(list...), nil
	})})
	register(Op{Name: "SequenceEmpty", Inputs: -1, Plan: makesSequence(func(*Call, []Value) (Value, error) { return SequenceOf(), nil })})
	register(Op{Name: "SequenceInsert", Inputs: 2, Plan: makesSequence(func(_ *Call, in []Value) (Value, error) {
		at, err := position(in, 2, len(in[0].Seq), len(in[0].Seq)+1)
		if err != nil {
			return Value{}, err
		}
		if in[1].Tensor == nil {
			return Value{}, errNoElement
		}
		return SequenceOf(slices.Insert(slices.Clone(in[0].Seq), at, hold(in[1].Tensor))...), nil
	})})
	register(Op{Name: "SequenceErase", Plan: makesSequence(func(_ *Call, in []Value) (Value, error) {
		at, err := position(in, 1, len(in[0].Seq)-1, len(in[0].Seq))
		if err != nil {
			return Value{}, err
		}
		return SequenceOf(slices.Delete(slices.Clone(in[0].Seq), at, at+1)...), nil
	})})
	register(Op{Name: "SplitToSequence", Plan: makesSequence(splitToSequence)})
	register(Op{Name: "SequenceAt", Inputs: 2, Plan: makesTensor(func(_ *Call, in []Value) (*graph.Tensor, error) {
		at, err := position(in, 1, 0, len(in[0].Seq))
		if err != nil {
			return nil, err
		}
		return in[0].Seq[at], nil
	})})
	register(Op{Name: "ConcatFromSequence", Plan: makesTensor(concatFromSequence)})
	register(Op{Name: "SequenceLength", Plan: func(*Call) (Step, error) {
		return Step{Out: []Spec{Out(graph.Int64)}, Values: func(_ *Worker, in []Value) ([]Value, error) {
			return []Value{Of(graph.From(graph.Int64, []int64{int64(len(in[0].Seq))}))}, nil
		}}, nil
	}})
	register(Op{Name: "Optional", Inputs: -1, Plan: planOptional})
	register(Op{Name: "OptionalHasElement", Inputs: -1, Plan: func(*Call) (Step, error) {
		return Step{Out: []Spec{Out(graph.Bool)}, Values: func(_ *Worker, in []Value) ([]Value, error) {
			return []Value{Of(graph.From(graph.Bool, []bool{len(in) > 0 && in[0].there()}))}, nil
		}}, nil
	}})
	register(Op{Name: "OptionalGetElement", Plan: planGetElement})
}

var errNoElement = fmt.Errorf("there is no element")

// makesSequence is the plan of an operator whose output is a sequence.
func makesSequence(f func(c *Call, in []Value) (Value, error)) func(c *Call) (Step, error) {
	return func(c *Call) (Step, error) {
		return Step{Out: []Spec{Later(graph.KindSequence)}, Values: func(_ *Worker, in []Value) ([]Value, error) {
			v, err := f(c, in)
			return []Value{v}, err
		}}, nil
	}
}

// makesTensor is the plan of an operator whose output is a tensor of which only a run can tell.
func makesTensor(f func(c *Call, in []Value) (*graph.Tensor, error)) func(c *Call) (Step, error) {
	return func(c *Call) (Step, error) {
		return Step{Out: []Spec{Later(graph.KindTensor)}, Values: func(_ *Worker, in []Value) ([]Value, error) {
			t, err := f(c, in)
			return []Value{Of(t)}, err
		}}, nil
	}
}

// position reads an index into a sequence from input i, which may count from the end; def when it is left
// out. There are n places.
func position(in []Value, i, def, n int) (int, error) {
	at := int64(def)
	if i < len(in) && in[i].Tensor != nil {
		list, err := in[i].Tensor.Ints()
		if err != nil || len(list) != 1 {
			return 0, fmt.Errorf("a position of shape %v", in[i].Tensor.Shape)
		}
		if at = list[0]; at < 0 {
			at += int64(len(in[0].Seq))
		}
	}
	if at < 0 || at >= int64(n) {
		return 0, indexError(at, len(in[0].Seq))
	}
	return int(at), nil
}

// splitToSequence cuts a tensor into parts of sizes that are given, of one size, or of one element.
func splitToSequence(c *Call, in []Value) (Value, error) {
	t := in[0].Tensor
	axis, err := axisOf(c.Node.Int("axis", 0), len(t.Shape))
	if err != nil || len(t.Shape) == 0 {
		return Value{}, fmt.Errorf("axis %d of shape %v", c.Node.Int("axis", 0), t.Shape)
	}
	n := t.Shape[axis]
	var sizes []int
	squeeze := false
	switch {
	case len(in) < 2 || in[1].Tensor == nil:
		sizes = slices.Repeat([]int{1}, n)
		squeeze = c.Node.Int("keepdims", 1) == 0
	default:
		list, err := in[1].Tensor.Ints()
		if err != nil {
			return Value{}, err
		}
		if len(in[1].Tensor.Shape) == 0 {
			if list[0] < 1 {
				return Value{}, fmt.Errorf("parts of %d", list[0])
			}
			for left := n; left > 0; left -= sizes[len(sizes)-1] {
				sizes = append(sizes, int(min(list[0], int64(left))))
			}
			break
		}
		for _, v := range list {
			sizes = append(sizes, int(v))
		}
	}
	var parts []*graph.Tensor
	at := 0
	outer, inner := graph.Elems(t.Shape[:axis]), graph.Elems(t.Shape[axis+1:])
	for _, size := range sizes {
		if size < 0 || size > n-at {
			return Value{}, fmt.Errorf("parts %v of %d", sizes, n)
		}
		shape := slices.Clone(t.Shape)
		shape[axis] = size
		if squeeze {
			shape = slices.Delete(shape, axis, axis+1)
		}
		p := graph.New(t.Type, shape...)
		for o := range outer {
			copyElems(p, o*size*inner, t, (o*n+at)*inner, size*inner)
		}
		parts = append(parts, p)
		at += size
	}
	if at != n {
		return Value{}, fmt.Errorf("parts %v of %d", sizes, n)
	}
	return SequenceOf(parts...), nil
}

func concatFromSequence(c *Call, in []Value) (*graph.Tensor, error) {
	list := in[0].Seq
	if len(list) == 0 {
		return nil, errNoElement
	}
	axis := c.Node.Int("axis", 0)
	if c.Node.Int("new_axis", 0) != 0 {
		return stackAll(list, axis, nil, c.Fits)
	}
	first := list[0]
	axis, err := axisOf(axis, len(first.Shape))
	if err != nil || len(first.Shape) == 0 {
		return nil, fmt.Errorf("axis %d of shape %v", c.Node.Int("axis", 0), first.Shape)
	}
	shape := slices.Clone(first.Shape)
	shape[axis] = 0
	for _, t := range list {
		if t.Type != first.Type || len(t.Shape) != len(shape) {
			return nil, fmt.Errorf("%s %v after %s %v", t.Type, t.Shape, first.Type, first.Shape)
		}
		for d := range shape {
			if d != axis && t.Shape[d] != shape[d] {
				return nil, fmt.Errorf("%v after %v", t.Shape, first.Shape)
			}
		}
		shape[axis] += t.Shape[axis]
	}
	if err := graph.CheckShape(shape); err != nil {
		return nil, err
	}
	if err := c.Fits(Out(first.Type, shape...).room()); err != nil {
		return nil, err
	}
	out := graph.New(first.Type, shape...)
	outer, inner := graph.Elems(shape[:axis]), graph.Elems(shape[axis+1:])
	at := 0
	for _, t := range list {
		n := t.Shape[axis] * inner
		for o := range outer {
			copyElems(out, o*shape[axis]*inner+at, t, o*n, n)
		}
		at += n
	}
	return out, nil
}

// there reports whether a value is more than an empty optional.
func (v Value) there() bool {
	switch v.Kind {
	case graph.KindOptional:
		return v.Tensor != nil
	case graph.KindOptionalSequence:
		return v.Some
	case graph.KindSequence:
		return true
	}
	return v.Tensor != nil
}

// planOptional wraps what it is given; with nothing it makes an empty optional.
func planOptional(c *Call) (Step, error) {
	kind := graph.KindOptional
	switch {
	case c.Spec(0).Kind == graph.KindSequence:
		kind = graph.KindOptionalSequence
	case !c.Has(0) && c.Wants(0) && c.Node.Out[0].Kind != graph.KindTensor:
		kind = c.Node.Out[0].Kind
	}
	return Step{Out: []Spec{Later(kind)}, Values: func(_ *Worker, in []Value) ([]Value, error) {
		v := Value{Kind: kind}
		if len(in) > 0 && in[0].Tensor != nil {
			v.Tensor = hold(in[0].Tensor)
		}
		if len(in) > 0 && in[0].Kind == graph.KindSequence {
			v.Seq, v.Some = in[0].Seq, true
		}
		return []Value{v}, nil
	}}, nil
}

func planGetElement(c *Call) (Step, error) {
	kind := graph.KindTensor
	if k := c.Spec(0).Kind; k == graph.KindSequence || k == graph.KindOptionalSequence {
		kind = graph.KindSequence
	}
	return Step{Out: []Spec{Later(kind)}, Values: func(_ *Worker, in []Value) ([]Value, error) {
		if len(in) == 0 || !in[0].there() {
			return nil, errNoElement
		}
		return []Value{{Kind: kind, Tensor: in[0].Tensor, Seq: in[0].Seq}}, nil
	}}, nil
}
