package eval

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Loop", Inputs: -1, Plan: planLoop})
	register(Op{Name: "SequenceMap", Plan: planSequenceMap})
}

// scalar is a tensor of one element for an input of a body, a scalar unless the body declares a vector.
func scalar(t graph.DType, declared *graph.Value) *graph.Tensor {
	if declared.Shape != nil && len(*declared.Shape) == 1 {
		return graph.New(t, 1)
	}
	return graph.New(t)
}

func planLoop(c *Call) (Step, error) {
	body, err := c.Body("body")
	if err != nil {
		return Step{}, err
	}
	carried := max(0, c.N()-2)
	if body.Inputs() != 2+carried || body.Outputs() < 1+carried || len(c.Node.Out) > body.Outputs()-1 {
		return Step{}, c.Fault("%d carried values, the body has %d inputs and %d outputs", carried, body.Inputs(), body.Outputs())
	}
	scans := body.Outputs() - 1 - carried
	s := Step{Out: make([]Spec, carried+scans)}
	for i := range s.Out {
		s.Out[i] = Later(body.OutputKind(1 + i))
	}
	// A carried value that keeps its shape over one iteration keeps it over all.
	iter, cond := scalar(graph.Int64, body.Input(0)), scalar(graph.Bool, body.Input(1))
	specs := []Spec{Out(iter.Type, iter.Shape...), Out(cond.Type, cond.Shape...)}
	for i := range carried {
		specs = append(specs, c.Spec(2+i))
	}
	if outs, err := body.Plan(specs); err == nil {
		same := true
		for i := range carried {
			same = same && outs[1+i].Kind == graph.KindTensor && outs[1+i].same(specs[2+i])
		}
		for i := range carried {
			if same {
				s.Out[i] = Out(outs[1+i].Type, outs[1+i].Shape...)
			}
		}
	}
	s.Values = func(w *Worker, in []Value) ([]Value, error) { return runLoop(w, body, in, carried, scans) }
	return s, nil
}

func runLoop(w *Worker, body *Body, in []Value, carried, scans int) ([]Value, error) {
	trips := int64(-1)
	if len(in) > 0 && in[0].Tensor != nil {
		list, err := in[0].Tensor.Ints()
		if err != nil || len(list) != 1 {
			return nil, fmt.Errorf("a trip count of shape %v", in[0].Tensor.Shape)
		}
		trips = max(list[0], 0)
	}
	going, asked := true, len(in) > 1 && in[1].Tensor != nil
	if asked {
		var err error
		if going, err = truth(in[1]); err != nil {
			return nil, err
		}
	}
	args := make([]Value, 2+carried)
	iter, cond := scalar(graph.Int64, body.Input(0)), scalar(graph.Bool, body.Input(1))
	args[0], args[1] = Of(iter), Of(cond)
	for i := range carried {
		if args[2+i] = in[2+i]; in[2+i].Tensor != nil {
			args[2+i].Tensor = hold(in[2+i].Tensor)
		}
	}
	// What goes round and what is kept of each round lie in nobody's arena.
	held, rounds := 0, 0
	defer func() { body.outer.let(rounds) }() // by then it is stacked; what went round leaves as it is
	kept := make([][]*graph.Tensor, scans)
	for i := int64(0); going && (trips < 0 || i < trips); i++ {
		if err := w.ctx.Err(); err != nil { // of a body without a step, nobody else asks
			return nil, err
		}
		elems[int64](iter)[0] = i
		cond.Data[0] = 1
		outs, err := body.Run(w, args)
		if err != nil {
			return nil, err
		}
		next, err := truth(outs[0])
		if err != nil {
			return nil, err
		}
		// Without a condition given, that of the body still ends the loop: graphs rely on it.
		going = next
		copy(args[2:], outs[1:1+carried])
		body.outer.let(held)
		held = 0
		for _, v := range args[2:] {
			held += v.weight()
		}
		if err := body.outer.keep(held); err != nil {
			held = 0
			return nil, err
		}
		for k := range scans {
			t := outs[1+carried+k].Tensor
			if t == nil {
				return nil, fmt.Errorf("output %d of the body is no tensor", 1+carried+k)
			}
			if err := body.outer.keep(footprint(t)); err != nil {
				return nil, err
			}
			rounds += footprint(t)
			kept[k] = append(kept[k], t)
		}
	}
	outs := slices.Clone(args[2:])
	for k := range scans {
		t, err := stackAll(kept[k], 0, body.Output(1+carried+k), body.outer.keep)
		if err != nil {
			return nil, err
		}
		outs = append(outs, Of(t))
	}
	return outs, nil
}

// stackAll joins tensors along a new axis, in memory that keep has to grant. declared says what there would be of none.
func stackAll(list []*graph.Tensor, axis int, declared *graph.Value, keep func(bytes int) error) (*graph.Tensor, error) {
	if len(list) == 0 {
		shape := []int{0}
		if declared.Shape != nil {
			for _, d := range *declared.Shape {
				shape = append(shape, max(d.Size, 0))
			}
		}
		if err := graph.CheckShape(shape); err != nil {
			return nil, err
		}
		return graph.New(declared.Type, shape...), nil
	}
	first := list[0]
	axis, err := axisOf(axis, len(first.Shape)+1)
	if err != nil {
		return nil, err
	}
	spec := Out(first.Type, slices.Insert(slices.Clone(first.Shape), axis, len(list))...)
	if err := graph.CheckShape(spec.Shape); err != nil {
		return nil, err
	}
	if err := keep(spec.room()); err != nil {
		return nil, err
	}
	out := graph.New(spec.Type, spec.Shape...)
	outer, inner := graph.Elems(first.Shape[:axis]), graph.Elems(first.Shape[axis:])
	for i, t := range list {
		if t.Type != first.Type || !slices.Equal(t.Shape, first.Shape) {
			return nil, fmt.Errorf("%s %v after %s %v", t.Type, t.Shape, first.Type, first.Shape)
		}
		for o := range outer {
			copyElems(out, (o*len(list)+i)*inner, t, o*inner, inner)
		}
	}
	return out, nil
}

// planSequenceMap runs a body for each element of a sequence.
func planSequenceMap(c *Call) (Step, error) {
	body, err := c.Body("body")
	if err != nil {
		return Step{}, err
	}
	if body.Inputs() != c.N() || body.Outputs() < len(c.Node.Out) || c.Spec(0).Kind != graph.KindSequence {
		return Step{}, c.Fault("%d inputs, the body has %d and %d outputs", c.N(), body.Inputs(), body.Outputs())
	}
	s := Step{}
	for range c.Node.Out {
		s.Out = append(s.Out, Later(graph.KindSequence))
	}
	s.Values = func(w *Worker, in []Value) ([]Value, error) {
		outs := make([]Value, body.Outputs())
		for i := range outs {
			outs[i] = SequenceOf()
		}
		args := make([]Value, len(in))
		for k := range in[0].Seq {
			for i, v := range in {
				if args[i] = v; v.Kind == graph.KindSequence {
					if k >= len(v.Seq) {
						return nil, fmt.Errorf("sequences of %d and %d", len(in[0].Seq), len(v.Seq))
					}
					args[i] = Of(v.Seq[k])
				}
			}
			made, err := body.Run(w, args)
			if err != nil {
				return nil, err
			}
			for i, v := range made {
				if v.Tensor == nil {
					return nil, fmt.Errorf("output %d of the body is no tensor", i)
				}
				if err := body.outer.keep(footprint(v.Tensor)); err != nil {
					return nil, err
				}
				outs[i].Seq = append(outs[i].Seq, v.Tensor)
			}
		}
		return outs, nil
	}
	return s, nil
}
