package eval

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Scan", Since: 9, Plan: planScan})
	register(Op{Name: "Scan", Inputs: -1, Plan: planScan8})
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
	rounds := 0
	defer func() { s.body.outer.let(rounds) }()
	for t := range steps {
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
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
			if v.Tensor == nil {
				return nil, fmt.Errorf("output %d of the body is no tensor", i)
			}
			if i < s.states {
				args[i] = v
				continue
			}
			if err := s.body.outer.keep(footprint(v.Tensor)); err != nil {
				return nil, err
			}
			rounds += footprint(v.Tensor)
			if within(v.Tensor, args[0].Tensor.Data) { // a view of what the next step overwrites
				v.Tensor = clone(v.Tensor)
			}
			kept[i-s.states] = append(kept[i-s.states], v.Tensor)
		}
	}
	outs := slices.Clone(args[:s.states])
	for i, list := range kept {
		if s.outBack[i] {
			slices.Reverse(list)
		}
		t, err := stackAll(list, s.outAxes[i], s.body.Output(s.states+i), s.body.outer.keep)
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
					spec := Out(t.Type, slices.Concat([]int{s.steps}, t.Shape[1:])...)
					if err := s.body.outer.keep(spec.room()); err != nil {
						return nil, err
					}
					t = graph.New(spec.Type, spec.Shape...)
					copyElems(t, 0, v.Tensor, 0, v.Tensor.Elems())
				}
				all[i] = append(all[i], t)
			}
		}
		outs := make([]Value, len(all))
		for i, list := range all {
			t, err := stackAll(list, 0, s.body.Output(i), s.body.outer.keep)
			if err != nil {
				return nil, err
			}
			outs[i] = Of(t)
		}
		return outs, nil
	}
	return st, nil
}
