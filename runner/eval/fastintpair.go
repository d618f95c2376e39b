package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

// codePair is a convolution of codes with windows of one pixel whose result only a depthwise convolution reads, as
// pair is of floats: what lies between them exists a few rows at a time, with pads around it.
type codePair struct {
	first, second *codeConv
	point         *kernels.CodeConv
	deep          *kernels.CodeDepthwise
	windows       kernels.Windows
	rows, items   int // output rows of an item, items of an image
	chunk         int // output rows that are made at a time
	high, wide    int // of the buffer
	scratch       int
	worker        *Worker
	from, to      []byte
	do            func(worker, item int)
}

// pairs joins what can be joined. The plan has been pruned.
func (u *integers) pairs() {
	readers, maker := make([]int, len(u.p.specs)), make([]int, len(u.p.specs))
	for i, s := range u.p.steps {
		for _, slot := range slices.Concat(s.in, s.node.reads) {
			if slot >= 0 {
				readers[slot]++
			}
		}
		for _, slot := range s.out {
			if slot >= 0 {
				maker[slot] = i
			}
		}
	}
	for _, slot := range u.p.code.outputs {
		readers[slot] = many
	}
	drop := false
	for i, s := range u.p.steps {
		second, ok := s.fast.(*codeConv)
		if !ok || second.deep == nil || readers[s.in[0]] != 1 {
			continue
		}
		before := u.p.steps[maker[s.in[0]]]
		if !slices.Contains(before.out, s.in[0]) {
			continue
		}
		first, ok := before.fast.(*codeConv)
		if !ok || first.codes == nil || first.copied || first.groups != 1 || first.kernel != kernels.Plain(1, 1) || !first.dense[0].Whole() {
			continue
		}
		t := *s
		t.in, t.fast = before.in, &codePair{first: first, second: second}
		u.p.steps[i] = &t
		u.p.steps[maker[s.in[0]]] = nil
		drop = true
	}
	if drop {
		u.p.steps = slices.DeleteFunc(u.p.steps, func(s *step) bool { return s == nil })
	}
}

// codeBuffer is about how many bytes the rows between the two take.
const codeBuffer = 64 << 10

func (p *codePair) place(f *fast, s *step) {
	a, b := p.first, p.second
	s.in = slices.Clone(s.in)
	s.in[0] = f.pixel(s.in[0])
	f.mark(s.out[0])
	p.point, p.deep = a.dense[0], b.deep
	p.windows = p.point.Windows(a.in.w*a.in.c, 0)
	k, threads := b.kernel, s.node.prog.worker.Threads
	work := a.out.pixels() * a.out.c * (a.in.c + 8*k.H*k.W) // depthwise products cost more
	parts := 1
	if threads > 1 {
		parts = max(1, min(threads, work/codePiece, b.out.h/4))
	}
	p.rows = (b.out.h + parts - 1) / parts
	p.items = (b.out.h + p.rows - 1) / p.rows
	_, p.wide = k.Span(1, b.out.w)
	p.chunk = max(2, min(codeBuffer/(p.wide*a.out.c*k.StrideH), p.rows)/2*2) // kernels take two rows at a time
	p.high, _ = k.Span(p.chunk, 1)
	p.scratch = round(p.high*p.wide*a.out.c + kernels.Slack)
	s.Scratch = p.scratch * threads
	s.InPlace = nil
	p.do = p.item
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		p.worker, p.from, p.to = w, in[0].Data, out[0].Data
		w.Do(b.out.n*p.items, p.do)
		return nil
	}
}

// item makes some rows of an image.
func (p *codePair) item(worker, item int) {
	a, b, k := p.first, p.second, p.second.kernel
	n, part := item/p.items, item%p.items
	lo, hi := part*p.rows, min((part+1)*p.rows, b.out.h)
	row := p.wide * a.out.c
	buffer := p.worker.Scratch[worker*p.scratch : (worker+1)*p.scratch]
	x := p.from[n*a.in.pixels()*a.in.c:][:a.in.pixels()*a.in.c]
	y := kernels.NewImage(p.to[n*b.out.pixels()*b.out.c:][:b.out.pixels()*b.out.c], b.out.h, b.out.w, b.out.c)
	have, until := 0, 0 // rows of the padded image that the buffer begins with, and ends before
	for from := lo; from < hi; from += p.chunk {
		rows, first := min(p.chunk, hi-from), from*k.StrideH
		high, _ := k.Span(rows, 1)
		switch {
		case from == lo || until <= first:
			until = first
		case have < first:
			copy(buffer, buffer[(first-have)*row:(until-have)*row])
		}
		have = first
		p.fill(buffer[(until-have)*row:high*row], x, until-b.top)
		until = first + high
		p.deep.Run(y.At(from, 0, rows, b.out.w), kernels.Pixels[uint8]{Data: buffer, H: high, W: p.wide, C: a.out.c, Row: row, Pixel: a.out.c})
	}
}

// fill makes rows of the first convolution, from row y on, with pads around the image.
func (p *codePair) fill(to, x []byte, y int) {
	a, zero := p.first, byte(p.second.x.Zero)
	row, pixel := p.wide*a.out.c, a.out.c
	n := len(to) / row
	left := min(p.second.left, p.wide)
	right := min(p.wide, left+a.out.w)
	lo, hi := min(max(0, -y), n), max(0, min(n, a.out.h-y))
	if hi = max(lo, hi); left == right {
		lo = hi
	}
	fillBytes(to[:lo*row], zero)
	fillBytes(to[hi*row:], zero)
	for r := lo; r < hi; r++ {
		fillBytes(to[r*row:][:left*pixel], zero)
		fillBytes(to[r*row+right*pixel:(r+1)*row], zero)
	}
	if lo == hi {
		return
	}
	dst := kernels.Pixels[uint8]{Data: to, H: n, W: p.wide, C: pixel, Row: row, Pixel: pixel}.At(lo, left, hi-lo, right-left)
	p.point.Run(dst, x[(y+lo)*a.in.w*a.in.c:], p.windows)
}
