package eval

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// Body is a subgraph of a node, as its operator sees it: something that can be planned and run, with values
// of the graphs around it at hand.
type Body struct {
	code  *code
	outer *plan
	slots []int // of the captures, in the outer plan
	plans []*plan

	// Of the run under way: inputs and captures as they are, outputs.
	specs, captures []Spec
	seen, outs      []Value
}

// bodyPlans bounds the plans that a body keeps, for different shapes.
const bodyPlans = 4

// outside are the slots of what a body takes from this graph.
func (c *code) outside(body *code) []int {
	slots := make([]int, len(body.captures))
	for i, s := range body.captures {
		slots[i] = c.slots[body.values[s]]
	}
	return slots
}

// Inputs is the number of inputs of the subgraph.
func (b *Body) Inputs() int { return len(b.code.inputs) }

// Outputs is the number of outputs of the subgraph.
func (b *Body) Outputs() int { return len(b.code.outputs) }

// OutputKind is the kind of output i as the graph declares it.
func (b *Body) OutputKind(i int) graph.Kind { return b.code.graph.Outputs[i].Kind }

// Input is the declaration of input i.
func (b *Body) Input(i int) *graph.Value { return b.code.graph.Inputs[i] }

// Output is the declaration of output i.
func (b *Body) Output(i int) *graph.Value { return b.code.graph.Outputs[i] }

// Plan returns what the outputs look like for inputs: each may be Later. Values that are known in inputs are
// not used: a body runs with many.
func (b *Body) Plan(inputs []Spec) ([]Spec, error) {
	captures := make([]Spec, len(b.slots))
	for i, s := range b.slots {
		if captures[i] = b.outer.specs[s]; captures[i].Later {
			return nil, errLater
		}
	}
	p, err := b.plan(inputs, captures)
	if err != nil {
		return nil, err
	}
	outs := make([]Spec, len(p.code.outputs))
	for i, s := range p.code.outputs {
		outs[i] = p.specs[s]
	}
	return outs, nil
}

// plan finds or makes the plan for inputs and captures.
func (b *Body) plan(inputs, captures []Spec) (*plan, error) {
	for i, p := range b.plans {
		if sameSpecs(p.ins[:len(inputs)], inputs) && sameSpecs(p.ins[len(inputs):], captures) {
			if i > 0 { // the latest stands first
				copy(b.plans[1:i+1], b.plans[:i])
				b.plans[0] = p
			}
			return p, nil
		}
	}
	free := slices.Clone(inputs)
	for i := range free {
		free[i].Known, free[i].Const = nil, false
	}
	p, err := b.code.newPlan(free, captures)
	if err != nil {
		return nil, err
	}
	if err := p.own(p.size); err != nil {
		p.drop()
		return nil, err
	}
	p.attach(graph.Aligned(p.size))
	if len(b.plans) == bodyPlans {
		b.plans[bodyPlans-1].drop()
	}
	b.plans = append([]*plan{p}, b.plans[:min(len(b.plans), bodyPlans-1)]...)
	return p, nil
}

func sameSpecs(a, b []Spec) bool {
	return slices.EqualFunc(a, b, Spec.same)
}

// Run runs the subgraph. The values that it returns belong to the caller; the list of them is valid until the
// next run.
func (b *Body) Run(w *Worker, inputs []Value) ([]Value, error) {
	if len(inputs) != len(b.code.inputs) {
		return nil, errCount(len(inputs), len(b.code.inputs))
	}
	b.specs = b.specs[:0]
	for _, v := range inputs {
		b.specs = append(b.specs, v.actual())
	}
	b.captures = b.captures[:0]
	b.seen = b.seen[:0]
	for _, s := range b.slots {
		b.seen = append(b.seen, b.outer.vals[s])
		// A value that is known in the outer plan is the same in each of its runs; others are not.
		spec := b.outer.specs[s]
		if spec.Later {
			spec = b.outer.vals[s].actual()
			spec.Known = nil
		}
		b.captures = append(b.captures, spec)
	}
	p, err := b.plan(b.specs, b.captures)
	if err != nil {
		return nil, err
	}
	outs, err := p.run(w, inputs, b.seen)
	if err != nil {
		return nil, err
	}
	b.outs = b.outs[:0]
	for _, v := range outs {
		if v, err = p.leave(v); err != nil {
			return nil, err
		}
		b.outs = append(b.outs, v)
	}
	return b.outs, nil
}

// leave copies what lies in the arena of a plan, so that the next run does not overwrite it.
func (p *plan) leave(v Value) (_ Value, err error) {
	own := func(t *graph.Tensor) *graph.Tensor {
		if within(t, p.mem) || t.Type == graph.String {
			if e := p.keep(footprint(t)); e != nil {
				err = e
				return nil
			}
			return clone(t)
		}
		return hold(t)
	}
	if v.Tensor != nil {
		v.Tensor = own(v.Tensor)
	}
	if v.Seq != nil {
		seq := make([]*graph.Tensor, len(v.Seq))
		for i, t := range v.Seq {
			seq[i] = own(t)
		}
		v.Seq = seq
	}
	return v, err
}
