package eval

import (
	"github.com/pare-dev/pare/ir/graph"
)

// ledger counts the memory that a program holds beside its file: arenas, constants computed ahead, what steps
// allocate while they run. A limit on single values would be none: a few bytes of a file can ask for any number
// of values that each fit.
type ledger struct {
	limit int64
	live  int64
	run   int   // the run under way
	held  int64 // of live: what the run under way allocates, and gives back all at once
}

// fits fails when so many bytes more are too many.
func (l *ledger) fits(bytes int) error {
	if l.limit > 0 && (bytes < 0 || int64(bytes) > l.limit-l.live) {
		return errMemory(l.live+int64(max(bytes, 0)), l.limit)
	}
	return nil
}

// take counts bytes that are about to be allocated, and fails when they are too many.
func (l *ledger) take(bytes int) error {
	if err := l.fits(bytes); err != nil {
		return err
	}
	l.live += int64(bytes)
	return nil
}

func (l *ledger) give(bytes int) { l.live -= int64(bytes) }

// begin forgets what the run before this one held.
func (l *ledger) begin() {
	l.live -= l.held
	l.held = 0
	l.run++
}

// own counts bytes that live as long as the plan.
func (p *plan) own(bytes int) error {
	if err := p.code.prog.ledger.take(bytes); err != nil {
		return err
	}
	p.owns += bytes
	return nil
}

// drop gives back what the plan owns, and the plans of the bodies in it: nobody uses it any more.
func (p *plan) drop() {
	p.code.prog.ledger.give(p.owns)
	p.owns = 0
	for _, b := range p.bodies {
		for _, inner := range b.plans {
			inner.drop()
		}
		b.plans = nil
	}
}

// keep counts bytes that live until the plan runs again, or the program does.
func (p *plan) keep(bytes int) error {
	l := &p.code.prog.ledger
	if err := l.take(bytes); err != nil {
		return err
	}
	l.held += int64(bytes)
	p.held += bytes
	return nil
}

// let gives back bytes that keep has counted.
func (p *plan) let(bytes int) {
	l := &p.code.prog.ledger
	l.give(bytes)
	l.held -= int64(bytes)
	p.held -= bytes
}

// restart gives back what the plan kept when it ran before, in the same run of the program: the body of a loop
// runs many times.
func (p *plan) restart() {
	if l := &p.code.prog.ledger; p.ran != l.run {
		p.ran, p.held = l.run, 0
	}
	p.let(p.held)
}

// header is about what a tensor takes besides its elements: lists of very small ones count, too.
const header = 128

// footprint is about the bytes that a tensor takes.
func footprint(t *graph.Tensor) int {
	n := header + len(t.Data)
	for _, s := range t.Strings {
		n += stringHeader + len(s)
	}
	return n
}

// weight is about the bytes that a value takes.
func (v Value) weight() (n int) {
	if v.Tensor != nil {
		n = footprint(v.Tensor)
	}
	for _, t := range v.Seq {
		n += footprint(t)
	}
	return n
}

const stringHeader = 16

// room is the bytes of memory that a value of this spec takes, in an arena or on its own.
func (s Spec) room() int {
	if s.Type == graph.String {
		return stringHeader * graph.Elems(s.Shape)
	}
	return s.bytes()
}

// made counts what a step has made of tensors that are no part of what it was given.
func (p *plan) made(in, out []Value) error {
	n, seen := 0, map[*byte]bool{}
	each := func(list []Value, f func(t *graph.Tensor)) {
		for _, v := range list {
			if v.Tensor != nil {
				f(v.Tensor)
			}
			for _, t := range v.Seq {
				f(t)
			}
		}
	}
	each(in, func(t *graph.Tensor) {
		if len(t.Data) > 0 {
			seen[&t.Data[0]] = true
		}
	})
	each(out, func(t *graph.Tensor) {
		if len(t.Data) == 0 || !seen[&t.Data[0]] {
			n += footprint(t)
		}
	})
	return p.keep(n)
}
