package eval

import (
	"errors"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// errBug marks a failure that a graph must not be able to cause.
var errBug = errors.New("the operator failed on these inputs; this is a mistake in pare")

// Reasons of a run that cannot begin.
var (
	errInputs    = errors.New("number of inputs")
	errMissing   = errors.New("the input is missing")
	errStranger  = errors.New("the graph has no such input")
	errOpenShape = errors.New("the graph leaves the shape of this input open")
	errNoTensor  = errors.New("the output is no tensor")
)

// run executes the plan. What it returns is valid until the next run.
func (p *plan) run(w *Worker, inputs, captures []Value) (outs []Value, err error) {
	var current *step
	defer func() {
		if r := recover(); r != nil {
			if current == nil {
				panic(r)
			}
			err = current.node.fault(fmt.Errorf("%w: %v", errBug, r))
		}
	}()
	p.restart()
	for i, s := range p.code.inputs {
		p.set(s, inputs[i])
	}
	for i, s := range p.code.captures {
		p.set(s, captures[i])
	}
	if err := p.show(-1); err != nil {
		return nil, err
	}
	for i, s := range p.steps {
		current = s
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
		switch {
		case s.open:
			err = p.runOpen(w, s)
		case s.Values != nil:
			err = p.runValues(w, s)
		case s.Alias:
			p.heads[s.out[0]].Data, p.heads[s.out[0]].Strings = p.heads[s.in[0]].Data, p.heads[s.in[0]].Strings
		default:
			w.Scratch = p.mem[s.scratchAt : s.scratchAt+s.scratch]
			err = s.Run(w, s.ins, s.outs)
		}
		if err != nil {
			return nil, s.node.named(err)
		}
		if err := p.observe(s); err != nil {
			return nil, err
		}
		if err := p.show(i); err != nil {
			return nil, err
		}
	}
	current = nil
	for i, s := range p.code.outputs {
		p.outs[i] = p.vals[s]
	}
	return p.outs, nil
}

// named makes sure that an error says which node it comes from.
func (n *node) named(err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	return n.fault(err)
}

// run calls a step's function, and turns a panic into an error that names the node.
func (n *node) run(fn func(*Worker, []*graph.Tensor, []*graph.Tensor) error, w *Worker, in, out []*graph.Tensor) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = n.fault(fmt.Errorf("%w: %v", errBug, r))
		}
	}()
	if err = fn(w, in, out); err != nil {
		err = n.named(err)
	}
	return err
}

// set gives a slot its value for this run.
func (p *plan) set(slot int, v Value) {
	if v.Kind == graph.KindTensor && v.Tensor != nil {
		p.heads[slot] = *v.Tensor
		p.vals[slot] = Value{Tensor: &p.heads[slot]}
		return
	}
	p.vals[slot] = v
}

// attach points the headers of the arena's values to its memory.
func (p *plan) attach(mem []byte) {
	if len(mem) == len(p.mem) && (len(mem) == 0 || &mem[0] == &p.mem[0]) {
		return
	}
	p.mem = mem
	for slot, off := range p.offsets {
		if off >= 0 {
			n := p.specs[slot].bytes()
			p.heads[slot].Data = mem[off : off+n : off+n]
		}
	}
}

// runOpen plans a step with the values of this run, and runs it.
func (p *plan) runOpen(w *Worker, s *step) error {
	in := make([]Spec, len(s.in))
	hit := s.recent != nil
	for i, slot := range s.in {
		if slot >= 0 {
			if in[i] = p.vals[slot].actual(); p.specs[slot].Known != nil {
				in[i] = p.specs[slot]
				in[i].fixed = true
			}
		}
		hit = hit && in[i].same(s.recent.ins[i])
	}
	if !hit {
		s.recent = nil
		st, err := s.node.call(s, in, true)
		if err != nil {
			return err
		}
		s.Step = st
		if len(st.Out) < len(s.out) {
			return fmt.Errorf("%d outputs, the operator has %d", len(s.out), len(st.Out))
		}
	}
	if s.Values != nil {
		return p.runValues(w, s)
	}
	ins, outs := make([]*graph.Tensor, len(s.in)), make([]*graph.Tensor, len(s.out))
	for i, slot := range s.in {
		if slot >= 0 {
			ins[i] = p.vals[slot].Tensor
		}
	}
	for i, slot := range s.out {
		if slot < 0 {
			continue
		}
		spec := s.Out[i]
		switch {
		case spec.Known != nil:
			outs[i] = spec.Known
		case i == 0 && s.Alias:
			outs[i] = &graph.Tensor{Type: spec.Type, Shape: spec.Shape, Data: ins[0].Data, Strings: ins[0].Strings}
		default:
			if err := s.node.check(spec); err != nil {
				return err
			}
			if err := p.keep(header + spec.room()); err != nil {
				return err
			}
			outs[i] = graph.New(spec.Type, spec.Shape...)
		}
	}
	if s.Run != nil {
		if err := s.node.prog.fits(s.Scratch); err != nil {
			return err
		}
		w.Scratch = graph.Aligned(s.Scratch)
		if err := s.Run(w, ins, outs); err != nil {
			return err
		}
	}
	for i, slot := range s.out {
		if slot >= 0 {
			p.set(slot, Of(outs[i]))
		}
	}
	return nil
}

// runValues runs a step that makes its own outputs.
func (p *plan) runValues(w *Worker, s *step) error {
	for i, slot := range s.in {
		if s.vals[i] = (Value{}); slot >= 0 {
			s.vals[i] = p.vals[slot]
		}
	}
	outs, err := s.Values(w, s.vals)
	if err != nil {
		return err
	}
	if len(outs) < len(s.out) {
		return fmt.Errorf("%w: %d outputs of %d", errBug, len(outs), len(s.out))
	}
	if s.bodies == nil { // those with bodies count what they make of what the bodies leave
		if err := p.made(s.vals, outs); err != nil {
			return err
		}
	}
	for i, slot := range s.out {
		if slot >= 0 {
			p.set(slot, outs[i])
		}
	}
	return nil
}

// observe shows what a step made to whoever asked for it.
func (p *plan) observe(s *step) error {
	see := s.node.prog.opt.Observe
	if see == nil {
		return nil
	}
	for i, slot := range s.out {
		if slot >= 0 && p.vals[slot].Tensor != nil {
			if err := see(s.node.Out[i], p.vals[slot].Tensor); err != nil {
				return err
			}
		}
	}
	return nil
}
