package eval

import (
	"fmt"

	"github.com/pare-dev/pare/ir/graph"
)

func init() { register(Op{Name: "If", Plan: planIf}) }

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
