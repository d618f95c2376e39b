package eval

import (
	"errors"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// plan is a graph made ready for inputs of certain types and shapes, with the state of the run under way.
type plan struct {
	code  *code
	ins   []Spec // of inputs and captures: what the plan was made for
	specs []Spec // by slot
	steps []*step
	size  int // bytes of the arena
	// offsets are where values lie in the arena, by slot; -1 for those that lie elsewhere.
	offsets []int
	// watched are the outputs that are shown when a step has run, by its place; those of step -1 before all.
	watched map[int][]watched
	pixels  map[int]bool // slots of outputs that lie as pixels

	mem   []byte // the arena
	heads []graph.Tensor
	vals  []Value // by slot; Tensor points into heads
	outs  []Value // what run returns

	bodies     []*Body // of its nodes
	owns, held int     // bytes in the ledger: for as long as the plan lives, and until it runs again
	ran        int     // the run that held is of
}

// step is a node of a plan.
type step struct {
	Step
	node    *node
	in, out []int // slots, -1 for what is left out
	ins     []*graph.Tensor
	outs    []*graph.Tensor
	vals    []Value
	bodies  map[string]*Body
	open    bool   // planned when the run comes to it
	fast    placer // of a step that speedUp made
	// scratch lies in the arena.
	scratch, scratchAt int
	recent             *recent
}

// recent is the last plan of an open step, for the next run with the same shapes.
type recent struct {
	ins []Spec
	Step
}

// newPlan plans a graph for inputs, and for what it takes from outside.
func (c *code) newPlan(inputs, captures []Spec) (_ *plan, err error) {
	p := &plan{code: c, specs: make([]Spec, len(c.values))}
	defer func() {
		if err != nil {
			p.drop()
		}
	}()
	p.ins = append(append(p.ins, inputs...), captures...)
	for i, s := range c.inputs {
		p.specs[s] = inputs[i]
	}
	for i, s := range c.captures {
		p.specs[s] = captures[i]
	}
	for s, t := range c.consts {
		p.specs[s] = knownSpec(t)
		p.specs[s].Const = true
	}
	for _, n := range c.nodes {
		if err := p.add(n); err != nil {
			return nil, err
		}
	}
	p.prune()
	if c.prog.opt.Observe == nil {
		p.speedUp()
	}
	p.layout()
	if err := c.prog.fits(p.size); err != nil {
		return nil, err
	}
	p.watch()
	return p, p.bind()
}

// add plans a node.
func (p *plan) add(n *node) error {
	s := &step{node: n, in: n.in, out: n.out}
	for name, body := range n.bodies {
		if s.bodies == nil {
			s.bodies = map[string]*Body{}
		}
		s.bodies[name] = &Body{code: body, outer: p, slots: p.code.outside(body)}
		p.bodies = append(p.bodies, s.bodies[name])
	}
	in := make([]Spec, len(n.in))
	known, constant := !n.op.Random && n.bodies == nil, true
	for i, slot := range n.in {
		if slot < 0 {
			continue
		}
		in[i] = p.specs[slot]
		if in[i].Later {
			s.open = true
		}
		known = known && in[i].Known != nil
		constant = constant && in[i].Const
	}
	if !s.open {
		st, err := n.call(s, in, false)
		switch {
		case errors.Is(err, errLater):
			s.open = true
		case err != nil:
			return err
		default:
			s.Step = st
		}
	}
	if s.open {
		for i, slot := range n.out {
			if slot >= 0 {
				p.specs[slot] = Later(n.Out[i].Kind)
			}
		}
		p.steps = append(p.steps, s)
		return nil
	}
	if len(s.Out) < len(n.out) {
		return n.fault(fmt.Errorf("%d outputs, the operator has %d", len(n.out), len(s.Out)))
	}
	for i, slot := range n.out {
		if slot >= 0 {
			if err := n.check(s.Out[i]); err != nil {
				return err
			}
		}
	}
	if known && (s.Run != nil || s.Alias) {
		if err := p.fold(s, in, constant); err != nil {
			return err
		}
	}
	needed := false
	for i, slot := range n.out {
		if slot < 0 {
			continue
		}
		p.specs[slot] = s.Out[i]
		if s.Out[i].Known == nil {
			needed = true
		}
	}
	if needed {
		p.steps = append(p.steps, s)
	}
	return nil
}

// check fails when an output is larger than anything can be, or than the program may have.
func (n *node) check(s Spec) error {
	if s.Later || s.Kind != graph.KindTensor || s.Known != nil {
		return nil
	}
	if err := graph.CheckShape(s.Shape); err != nil {
		return n.fault(err)
	}
	if err := n.prog.fits(s.room()); err != nil {
		return n.named(err)
	}
	return nil
}

// call asks the operator for a step, and turns what it panics with into an error that names the node.
func (n *node) call(s *step, in []Spec, late bool) (st Step, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = n.fault(fmt.Errorf("%w: %v", errBug, r))
		}
	}()
	c := &Call{
		Node: n.Node, Version: n.version, Kernels: n.prog.worker.Kernels, Threads: n.prog.worker.Threads,
		in: in, node: n, step: s, late: late,
	}
	for i := range n.op.required() {
		if !c.Has(i) {
			return st, c.missing(i)
		}
	}
	if st, err = n.plan(c); err != nil && !errors.Is(err, errLater) {
		err = n.named(err)
	}
	if late && !c.looked && err == nil {
		s.recent = &recent{ins: in, Step: st}
	}
	return st, err
}

// fold computes the outputs of a step whose inputs are known. Those of constants are computed once.
func (p *plan) fold(s *step, in []Spec, constant bool) error {
	n := s.node
	keep := p.own
	if constant {
		keep = n.prog.ledger.take // for as long as there is the program
	}
	compute := func() ([]*graph.Tensor, error) {
		ins, outs := make([]*graph.Tensor, len(in)), make([]*graph.Tensor, len(n.out))
		for i := range in {
			ins[i] = in[i].Known
		}
		if s.Alias {
			outs[0] = &graph.Tensor{Type: s.Out[0].Type, Shape: s.Out[0].Shape, Data: ins[0].Data, Strings: ins[0].Strings}
			return outs, nil
		}
		for i, slot := range n.out {
			if slot < 0 {
				continue
			}
			if err := keep(s.Out[i].room()); err != nil {
				return nil, n.named(err)
			}
			outs[i] = graph.New(s.Out[i].Type, s.Out[i].Shape...)
		}
		if err := n.prog.fits(s.Scratch); err != nil {
			return nil, n.named(err)
		}
		w := *n.prog.worker
		w.Scratch = graph.Aligned(s.Scratch)
		return outs, n.run(s.Run, &w, ins, outs)
	}
	var outs []*graph.Tensor
	var err error
	if constant {
		outs, err = Once(&Call{node: n}, "folded", compute)
	} else {
		outs, err = compute()
	}
	if err != nil {
		return err
	}
	for i, t := range outs {
		if t != nil {
			s.Out[i].Known, s.Out[i].Const = t, constant
		}
	}
	return nil
}

// prune drops steps whose outputs nobody reads.
func (p *plan) prune() {
	used := make([]bool, len(p.specs))
	for _, s := range p.code.outputs {
		used[s] = true
	}
	kept := p.steps[:0:0]
	for i := len(p.steps) - 1; i >= 0; i-- {
		s := p.steps[i]
		needed := false
		for _, o := range s.out {
			needed = needed || o >= 0 && used[o]
		}
		if !needed {
			continue
		}
		for _, slot := range s.in {
			if slot >= 0 {
				used[slot] = true
			}
		}
		for _, slot := range s.node.reads {
			used[slot] = true
		}
		kept = append(kept, s)
	}
	for i, j := 0, len(kept)-1; i < j; i, j = i+1, j-1 {
		kept[i], kept[j] = kept[j], kept[i]
	}
	p.steps = kept
}

// bind points the steps to the headers of the tensors that they read and fill.
func (p *plan) bind() error {
	p.heads = make([]graph.Tensor, len(p.specs))
	p.vals = make([]Value, len(p.specs))
	p.outs = make([]Value, len(p.code.outputs))
	for i, s := range p.specs {
		if s.Known != nil {
			p.heads[i] = *s.Known
			p.vals[i] = Value{Tensor: &p.heads[i]}
		} else if !s.Later && s.Kind == graph.KindTensor && s.Type != graph.Undefined {
			p.heads[i].Type, p.heads[i].Shape = s.Type, s.Shape
			if s.Type == graph.String {
				if err := p.own(s.room()); err != nil {
					return err
				}
				p.heads[i].Strings = make([]string, graph.Elems(s.Shape))
			}
			p.vals[i] = Value{Tensor: &p.heads[i]}
		}
	}
	head := func(slots []int) []*graph.Tensor {
		list := make([]*graph.Tensor, len(slots))
		for i, s := range slots {
			if s >= 0 && p.present(s) {
				list[i] = &p.heads[s]
			}
		}
		return list
	}
	for _, s := range p.steps {
		s.vals = make([]Value, len(s.in))
		if !s.open && s.Values == nil {
			s.ins, s.outs = head(s.in), head(s.out)
		}
	}
	return nil
}

// watched is an output, by its slot, that somebody looks at while the graph runs.
type watched struct{ slot, output int }

// watching reports whether outputs are shown and not kept.
func (p *plan) watching() bool { return p.code.prog.opt.Watch != nil && p.code == p.code.prog.code }

// watch notes when each output is there.
func (p *plan) watch() {
	if !p.watching() {
		return
	}
	p.watched = map[int][]watched{}
	maker := map[int]int{}
	for i, s := range p.steps {
		for _, slot := range s.out {
			maker[slot] = i
		}
	}
	for k, slot := range p.code.outputs {
		at, made := maker[slot]
		if !made {
			at = -1
		}
		p.watched[at] = append(p.watched[at], watched{slot, k})
	}
}

// show hands over what was made by a step.
func (p *plan) show(step int) error {
	for _, v := range p.watched[step] {
		t := p.vals[v.slot].Tensor
		if t == nil {
			return &fault.Error{Tensor: p.code.values[v.slot].Name, Op: "eval", Err: errNoTensor}
		}
		if err := p.code.prog.opt.Watch(v.output, t, p.pixels[v.slot]); err != nil {
			return err
		}
	}
	return nil
}

// present reports whether a slot has a tensor in this plan: an optional input of the graph may be left out.
func (p *plan) present(s int) bool { return p.specs[s].Type != graph.Undefined }
