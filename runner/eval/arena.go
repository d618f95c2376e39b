package eval

import (
	"cmp"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// buffer is memory that values of a plan share, one after the other or as views of each other.
type buffer struct {
	size        int
	first, last int // steps
	offset      int
}

// layout decides where in the arena every value lies. A value lives from the step that makes it to the last
// one that reads it; values that live at the same time lie apart.
//
// What comes from outside (inputs, constants, what open steps make) has no place in the arena. What an open
// step reads, and what leaves the plan, lives to the end: what is made of it may be a view.
func (p *plan) layout() {
	end := len(p.steps)
	root := make([]int, len(p.specs)) // the slot whose memory a slot has; -1 for memory from outside
	last := make([]int, len(p.specs))
	for i := range root {
		root[i] = -1
	}
	for i, s := range p.steps {
		external := s.open || s.Values != nil
		for k, o := range s.out {
			switch {
			case o < 0 || external || s.Out[k].Known != nil || p.specs[o].Type == graph.String:
			case s.Alias:
				root[o] = root[s.in[0]]
			default:
				root[o] = o
			}
		}
		use := func(slot, at int) {
			if slot >= 0 && root[slot] >= 0 {
				last[root[slot]] = max(last[root[slot]], at)
			}
		}
		for _, slot := range s.in {
			if use(slot, i); external {
				use(slot, end)
			}
		}
		for _, slot := range s.node.reads {
			use(slot, end)
		}
		for _, o := range s.out {
			use(o, i)
		}
	}
	for _, o := range p.code.outputs {
		if root[o] >= 0 && !p.watching() {
			last[root[o]] = end
		}
	}

	owner := make([]int, len(p.specs)) // the buffer of a root
	var buffers []*buffer
	for i, s := range p.steps {
		if s.open || s.Values != nil || s.Alias {
			continue
		}
		for k, o := range s.out {
			if o < 0 || root[o] != o {
				continue
			}
			if k == 0 {
				if b, ok := p.takeOver(s, i, root, owner, buffers); ok {
					owner[o] = b
					buffers[b].last = max(buffers[b].last, last[o])
					continue
				}
			}
			owner[o] = len(buffers)
			buffers = append(buffers, &buffer{size: round(p.specs[o].bytes()), first: i, last: last[o]})
		}
		if s.Scratch > 0 {
			s.scratch = s.Scratch
			s.scratchAt = len(buffers)
			buffers = append(buffers, &buffer{size: round(s.Scratch), first: i, last: i})
		}
	}
	p.size = place(buffers)

	p.offsets = make([]int, len(p.specs))
	for slot, r := range root {
		p.offsets[slot] = -1
		if r >= 0 {
			p.offsets[slot] = buffers[owner[r]].offset
		}
	}
	for _, s := range p.steps {
		if s.scratch > 0 {
			s.scratchAt = buffers[s.scratchAt].offset
		}
	}
}

// takeOver finds an input of step i whose memory its first output may have: the step is the last to read it,
// it reads it once, and the sizes agree.
func (p *plan) takeOver(s *step, i int, root, owner []int, buffers []*buffer) (int, bool) {
	for _, k := range s.InPlace {
		if k >= len(s.in) || s.in[k] < 0 || root[s.in[k]] < 0 {
			continue
		}
		b := owner[root[s.in[k]]]
		if buffers[b].last != i || buffers[b].size != round(p.specs[s.out[0]].bytes()) {
			continue
		}
		shared := 0
		for _, other := range s.in {
			if other >= 0 && root[other] >= 0 && owner[root[other]] == b {
				shared++
			}
		}
		if shared == 1 {
			return b, true
		}
	}
	return 0, false
}

// place gives every buffer the lowest offset of the tightest gap that is free during its life, large ones
// first, and returns the bytes that all take.
func place(buffers []*buffer) int {
	order := slices.Clone(buffers)
	slices.SortStableFunc(order, func(a, b *buffer) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.first, b.first))
	})
	total := 0
	var placed []*buffer // by rising offset
	for _, b := range order {
		best, tight := -1, 0
		at := 0
		for _, o := range placed {
			if o.last < b.first || b.last < o.first {
				continue
			}
			if gap := o.offset - at; gap >= b.size && (best < 0 || gap < tight) {
				best, tight = at, gap
			}
			at = max(at, o.offset+o.size)
		}
		if best < 0 {
			best = at
		}
		b.offset = best
		total = max(total, best+b.size)
		where, _ := slices.BinarySearchFunc(placed, b, func(x, y *buffer) int { return cmp.Compare(x.offset, y.offset) })
		placed = slices.Insert(placed, where, b)
	}
	return total
}
