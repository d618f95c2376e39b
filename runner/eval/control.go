package eval

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "If", Plan: planIf})
	register(Op{Name: "Loop", Inputs: -1, Plan: planLoop})
	register(Op{Name: "Scan", Since: 9, Plan: planScan})
	register(Op{Name: "Scan", Inputs: -1, Plan: planScan8})
	register(Op{Name: "SequenceMap", Plan: planSequenceMap})
}

// truth is the one element of a condition.
func truth(v Value) (bool, error) {
	if v.Tensor == nil || v.Tensor.Type != graph.Bool || v.Tensor.Elems() != 1 {
		return false, fmt.Errorf("a condition that is not one bool")
	}
	return v.Tensor.Data[0] != 0, nil
}

// planIf runs one of two bodies. When both make the same shapes, what follows is planned ahead.
func planIf(c *Call) (Step, error) {
	var bodies [2]*Body
	for i, name := range []string{"else_branch", "then_branch"} {
		var err error
		if bodies[i], err = c.Body(name); err != nil {
			return Step{}, err
		}
		if bodies[i].Outputs() < len(c.Node.Out) || bodies[i].Inputs() != 0 {
			return Step{}, c.Fault("%s has %d inputs and %d outputs, the node %d outputs", name, bodies[i].Inputs(), bodies[i].Outputs(), len(c.Node.Out))
		}
	}
	s := Step{Values: func(w *Worker, in []Value) ([]Value, error) {
		cond, err := truth(in[0])
		if err != nil {
			return nil, err
		}
		if cond {
			return bodies[1].Run(w, nil)
		}
		return bodies[0].Run(w, nil)
	}}
	// A branch that does not fit these shapes may be one that is never taken, so its mistakes are those of
	// a run.
	var specs [2][]Spec
	for i, b := range bodies {
		if t := c.Settled(0); t != nil && t.Type == graph.Bool && len(t.Data) == 1 && int(t.Data[0]&1) != i {
			continue
		}
		if outs, err := b.Plan(nil); err == nil {
			specs[i] = outs
		} else {
			specs[i] = make([]Spec, b.Outputs())
			for k := range specs[i] {
				specs[i][k] = Later(b.OutputKind(k))
			}
		}
	}
	for i := range c.Node.Out {
		one, other := specs[0], specs[1]
		if one == nil {
			one = other
		} else if other == nil {
			other = one
		}
		spec := one[i]
		spec.Known, spec.Const = nil, false
		if !spec.same(other[i]) || spec.Kind != graph.KindTensor {
			spec = Later(spec.Kind)
		}
		s.Out = append(s.Out, spec)
	}
	return s, nil
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
	kept := make([][]*graph.Tensor, scans)
	for i := int64(0); going && (trips < 0 || i < trips); i++ {
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
		for k := range scans {
			t := outs[1+carried+k].Tensor
			if t == nil {
				return nil, fmt.Errorf("output %d of the body is no tensor", 1+carried+k)
			}
			kept[k] = append(kept[k], t)
		}
	}
	outs := slices.Clone(args[2:])
	for k := range scans {
		t, err := stackAll(kept[k], 0, body.Output(1+carried+k))
		if err != nil {
			return nil, err
		}
		outs = append(outs, Of(t))
	}
	return outs, nil
}

// stackAll joins tensors along a new axis. declared says what there would be of none.
func stackAll(list []*graph.Tensor, axis int, declared *graph.Value) (*graph.Tensor, error) {
	if len(list) == 0 {
		shape := []int{0}
		if declared.Shape != nil {
			for _, d := range *declared.Shape {
				shape = append(shape, max(d.Size, 0))
			}
		}
		return graph.New(declared.Type, shape...), nil
	}
	first := list[0]
	axis, err := axisOf(axis, len(first.Shape)+1)
	if err != nil {
		return nil, err
	}
	out := graph.New(first.Type, slices.Insert(slices.Clone(first.Shape), axis, len(list))...)
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

// pick is element i of a tensor along an axis.
func pick(dst, src *graph.Tensor, axis, i int) {
	outer, n, inner := graph.Elems(src.Shape[:axis]), src.Shape[axis], graph.Elems(src.Shape[axis+1:])
	for o := range outer {
		copyElems(dst, o*inner, src, (o*n+i)*inner, inner)
	}
}

// scan is a Scan: states that go from step to step, inputs that are read and outputs that are written an
// element at a time.
type scan struct {
	body            *Body
	states          int
	inAxes, outAxes []int
	inBack, outBack []bool
	steps           int
}

// newScan reads the attributes of a Scan whose inputs have these specs.
func newScan(c *Call, in []Spec) (*scan, error) {
	body, err := c.Body("body")
	if err != nil {
		return nil, err
	}
	m := c.Node.Int("num_scan_inputs", 0)
	s := &scan{body: body, states: len(in) - m, steps: -1}
	if m < 1 || s.states < 0 || body.Inputs() != len(in) || body.Outputs() < s.states || len(c.Node.Out) > body.Outputs() {
		return nil, c.Fault("%d inputs, %d of them scanned; the body has %d and %d outputs", len(in), m, body.Inputs(), body.Outputs())
	}
	k := body.Outputs() - s.states
	list := func(name string, n int) ([]int, error) {
		v := c.Node.Ints(name)
		if v == nil {
			v = make([]int, n)
		}
		if len(v) != n {
			return nil, c.Fault("%s %v of %d", name, v, n)
		}
		return v, nil
	}
	axes, err := list("scan_input_axes", m)
	if err != nil {
		return nil, err
	}
	for i, a := range axes {
		shape := in[s.states+i].Shape
		a, err := axisOf(a, len(shape))
		if err != nil || len(shape) == 0 {
			return nil, c.Fault("axis %d of input %v", axes[i], shape)
		}
		if s.steps >= 0 && shape[a] != s.steps {
			return nil, c.Fault("inputs of %d and %d steps", s.steps, shape[a])
		}
		s.inAxes, s.steps = append(s.inAxes, a), shape[a]
	}
	if s.outAxes, err = list("scan_output_axes", k); err != nil {
		return nil, err
	}
	name := "scan_input_directions"
	if c.Version < 9 {
		name = "directions"
	}
	back, err := list(name, m)
	if err != nil {
		return nil, err
	}
	for _, b := range back {
		s.inBack = append(s.inBack, b != 0)
	}
	if back, err = list("scan_output_directions", k); err != nil {
		return nil, err
	}
	for _, b := range back {
		s.outBack = append(s.outBack, b != 0)
	}
	return s, nil
}

// element is the spec of what the body gets of a scanned input.
func (s *scan) element(i int, in Spec) Spec {
	return Out(in.Type, slices.Delete(slices.Clone(in.Shape), s.inAxes[i], s.inAxes[i]+1)...)
}

func planScan(c *Call) (Step, error) {
	s, err := newScan(c, c.in)
	if err != nil {
		return Step{}, err
	}
	st := Step{Out: make([]Spec, s.body.Outputs())}
	for i := range st.Out {
		st.Out[i] = Later(graph.KindTensor)
	}
	specs := slices.Clone(c.in)
	for i := range s.inAxes {
		specs[s.states+i] = s.element(i, c.in[s.states+i])
	}
	outs, err := s.body.Plan(specs)
	if err == nil && s.steps > 0 {
		for i, o := range outs {
			if o.Later || o.Kind != graph.KindTensor {
				continue
			}
			shape := o.Shape
			if i < s.states {
				if !o.same(specs[i]) {
					continue
				}
			} else if axis, err := axisOf(s.outAxes[i-s.states], len(shape)+1); err == nil {
				shape = slices.Insert(slices.Clone(shape), axis, s.steps)
			}
			st.Out[i] = Out(o.Type, shape...)
		}
	}
	st.Values = func(w *Worker, in []Value) ([]Value, error) { return s.run(w, in, s.steps) }
	return st, nil
}

func (s *scan) run(w *Worker, in []Value, steps int) ([]Value, error) {
	args := make([]Value, len(in))
	for i, v := range in {
		if v.Tensor == nil {
			return nil, fmt.Errorf("input %d is no tensor", i)
		}
		if args[i] = Of(hold(v.Tensor)); i >= s.states {
			e := s.element(i-s.states, Spec{Type: v.Tensor.Type, Shape: v.Tensor.Shape})
			args[i] = Of(graph.New(e.Type, e.Shape...))
		}
	}
	kept := make([][]*graph.Tensor, len(s.outAxes))
	for t := range steps {
		for i, axis := range s.inAxes {
			at := t
			if s.inBack[i] {
				at = steps - 1 - t
			}
			pick(args[s.states+i].Tensor, in[s.states+i].Tensor, axis, at)
		}
		outs, err := s.body.Run(w, args)
		if err != nil {
			return nil, err
		}
		for i, v := range outs {
			switch {
			case v.Tensor == nil:
				return nil, fmt.Errorf("output %d of the body is no tensor", i)
			case i < s.states:
				args[i] = v
			case within(v.Tensor, args[0].Tensor.Data): // a view of what the next step overwrites
				kept[i-s.states] = append(kept[i-s.states], clone(v.Tensor))
			default:
				kept[i-s.states] = append(kept[i-s.states], v.Tensor)
			}
		}
	}
	outs := slices.Clone(args[:s.states])
	for i, list := range kept {
		if s.outBack[i] {
			slices.Reverse(list)
		}
		t, err := stackAll(list, s.outAxes[i], s.body.Output(s.states+i))
		if err != nil {
			return nil, err
		}
		outs = append(outs, Of(t))
	}
	return outs, nil
}

// planScan8 is the form of version 8: everything has a batch dimension, and sequences may have lengths.
func planScan8(c *Call) (Step, error) {
	inner := make([]Spec, 0, c.N())
	for i := 1; i < c.N(); i++ {
		if len(c.Shape(i)) == 0 || c.Shape(i)[0] != c.Shape(1)[0] {
			return Step{}, c.Fault("inputs %v and %v have no common batch", c.Shape(1), c.Shape(i))
		}
		inner = append(inner, Out(c.Type(i), c.Shape(i)[1:]...))
	}
	s, err := newScan(c, inner)
	if err != nil {
		return Step{}, err
	}
	batch := c.Shape(1)[0]
	st := Step{Out: make([]Spec, s.body.Outputs())}
	for i := range st.Out {
		st.Out[i] = Later(graph.KindTensor)
	}
	st.Values = func(w *Worker, in []Value) ([]Value, error) {
		var lens []int64
		if in[0].Tensor != nil {
			var err error
			if lens, err = in[0].Tensor.Ints(); err != nil || len(lens) != batch {
				return nil, fmt.Errorf("%d lengths of %d sequences", len(lens), batch)
			}
		}
		all := make([][]*graph.Tensor, len(st.Out))
		for b := range batch {
			one := make([]Value, len(in)-1)
			for i := range one {
				t := graph.New(inner[i].Type, inner[i].Shape...)
				pick(t, in[1+i].Tensor, 0, b)
				one[i] = Of(t)
			}
			steps := s.steps
			if lens != nil {
				steps = int(min(max(lens[b], 0), int64(steps)))
			}
			outs, err := s.run(w, one, steps)
			if err != nil {
				return nil, err
			}
			for i, v := range outs {
				t := v.Tensor
				if i >= s.states && steps < s.steps { // what was not reached is zero
					t = graph.New(t.Type, slices.Concat([]int{s.steps}, t.Shape[1:])...)
					copyElems(t, 0, v.Tensor, 0, v.Tensor.Elems())
				}
				all[i] = append(all[i], t)
			}
		}
		outs := make([]Value, len(all))
		for i, list := range all {
			t, err := stackAll(list, 0, s.body.Output(i))
			if err != nil {
				return nil, err
			}
			outs[i] = Of(t)
		}
		return outs, nil
	}
	return st, nil
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
				outs[i].Seq = append(outs[i].Seq, v.Tensor)
			}
		}
		return outs, nil
	}
	return s, nil
}
