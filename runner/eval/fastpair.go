package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

// pair is a convolution of single pixels and the depthwise one that alone reads it, and perhaps a pool that
// alone reads that: the blocks of which small networks for images are made. What is between them exists a few
// rows at a time, in the second-level cache. Several pairs that read one image are one pair whose channels go to
// several outputs.
type pair struct {
	first, second *conv
	pool          kernels.Kernel // of no height when there is none
	out           geometry       // of the image that leaves
	channels      []int          // of each output

	wide, high   int // of the buffer of rows between the two
	chunk        int // rows of the second that are made at a time
	items, rows  int
	scratch      int
	worker       *Worker
	x            []float32
	y            [][]float32
	window       kernels.Windows
	point        *kernels.Conv
	deep         *kernels.Depthwise
	middle, last int // where buffers begin in scratch, in numbers
	do           func(worker, item int)
}

// joinPair makes a pair of a convolution and what reads it, or returns nil.
func joinPair(f *fast, first *conv, t *step, at int) (*step, int) {
	k := first.kernel
	if k.H != 1 || k.W != 1 || k.StrideH != 1 || k.StrideW != 1 || first.padded || first.groups != 1 || first.added >= 0 {
		return nil, 0
	}
	next, ok := f.only(t.out[0], at)
	if !ok || f.p.steps[next].node.Op != "Conv" || !depthwise(f, f.p.steps[next]) {
		return nil, 0
	}
	u, end := joinConv(f, next, f.p.steps[next])
	if u == nil {
		return nil, 0
	}
	second, ok := u.fast.(*conv)
	if !ok {
		return nil, 0
	}
	f.gone[at], f.gone[next] = true, true
	second.alone = true
	p := &pair{first: first, second: second, out: second.out}
	s := &step{node: t.node, Step: Step{Out: u.Out}, in: t.in, out: u.out, fast: p}
	if pool, ok := f.only(u.out[0], end); ok && f.p.steps[pool].node.Op == "MaxPool" && second.kernel.StrideH == 1 {
		if w, out, ok := wholePool(f, f.p.steps[pool]); ok && w.H == w.StrideH && w.DilationH == 1 {
			f.gone[end] = true
			end = pool
			p.pool, p.out = w, out
			s.out, s.Out = f.p.steps[pool].out, f.p.steps[pool].Out
		}
	}
	p.channels = []int{p.out.c}
	return s, end
}

// depthwise reports whether a step is a convolution of every channel with a window of its own, with constant
// weights and nothing to add to it.
func depthwise(f *fast, s *step) bool {
	w := f.p.specs[s.in[1]]
	g, ok := f.geometry(s.in[0])
	out, ok2 := f.geometry(s.out[0])
	if !ok || !ok2 || !w.Const || g.pixels()*g.c == 0 || s.node.Int("group", 1) != g.c || out.c != g.c {
		return false
	}
	// what is added would have to be read while rows are made
	next, ok := f.only(s.out[0], -1)
	return !ok || f.p.steps[next].node.Op != "Add"
}

// merge lets pairs that read the same image, and do the same with it, be one.
func (f *fast) merge(joined []*step) {
	for i, s := range joined {
		if s == nil || s.fast == nil {
			continue
		}
		a, ok := s.fast.(*pair)
		if !ok {
			continue
		}
		for j := i + 1; j < len(joined); j++ {
			if joined[j] == nil {
				continue
			}
			b, ok := joined[j].fast.(*pair)
			if !ok || joined[j].in[0] != s.in[0] || !a.like(b) || a.out.c+b.out.c > 64 {
				continue
			}
			a.join(b)
			s.out, s.Out = slices.Concat(s.out, joined[j].out), slices.Concat(s.Out, joined[j].Out)
			joined[j] = nil
		}
	}
}

// like reports whether two pairs differ in channels and weights alone.
func (p *pair) like(o *pair) bool {
	same := func(a, b *conv) bool {
		return a.kernel == b.kernel && a.top == b.top && a.left == b.left && a.finish == b.finish && a.act == nil && b.act == nil &&
			a.out.h == b.out.h && a.out.w == b.out.w
	}
	return p.pool == o.pool && same(p.first, o.first) && same(p.second, o.second)
}

// join takes in another pair: its channels come behind those that are there.
func (p *pair) join(o *pair) {
	stack := func(a, b *conv) {
		if a.bias != nil || b.bias != nil {
			bias := make([]float32, a.out.c+b.out.c)
			copy(bias, a.bias)
			copy(bias[a.out.c:], b.bias)
			a.bias = bias
		}
		a.weights = slices.Concat(a.weights, b.weights)
		a.out.c += b.out.c
		a.key += " " + b.key
	}
	stack(p.first, o.first)
	stack(p.second, o.second)
	p.second.in.c, p.second.groups = p.second.out.c, p.second.out.c
	p.out.c += o.out.c
	p.channels = append(p.channels, o.channels...)
}

// pairChunk is about how many bytes the rows between the two take.
const pairChunk = 192 << 10

func (p *pair) place(f *fast, s *step) {
	a, b := p.first, p.second
	s.in = slices.Clone(s.in[:1])
	s.in[0] = f.pixel(s.in[0])
	for _, o := range s.out {
		f.mark(o)
	}
	a.pack(s.node)
	b.pack(s.node)
	p.point, p.deep = a.dense[0], b.deep
	p.window = p.point.Windows(a.in.w*a.in.c, a.in.c, 0)

	k, threads := b.kernel, s.node.prog.worker.Threads
	work := a.out.pixels() * a.out.c * (a.in.c + k.H*k.W)
	parts := 1
	if threads > 1 {
		parts = max(1, min(threads, work/convPiece, p.out.h/4))
		if p.out.h/parts >= 32 {
			parts *= 2
		}
	}
	p.rows = (p.out.h + parts - 1) / parts
	p.items = (p.out.h + p.rows - 1) / p.rows
	_, p.wide = k.Span(1, b.out.w)
	unit := max(1, p.pool.H)
	p.chunk = max(1, min(pairChunk/(4*p.wide*a.out.c*k.StrideH), p.rows*unit)/unit) * unit
	p.high, _ = k.Span(p.chunk, 1)
	p.middle = p.high * p.wide * a.out.c
	p.last = p.middle
	if p.pool.H > 0 || len(p.channels) > 1 {
		p.last += p.chunk * b.out.w * b.out.c
	}
	size := p.last
	if p.pool.H > 0 && len(p.channels) > 1 {
		size += p.chunk / p.pool.H * p.out.w * p.out.c
	}
	p.scratch = round(4 * size)
	s.Scratch = p.scratch * threads
	p.do, p.y = p.item, make([][]float32, len(s.out))
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		p.worker, p.x = w, elems[float32](in[0])
		for i, t := range out {
			p.y[i] = elems[float32](t)
		}
		w.Do(p.out.n*p.items, p.do)
		return nil
	}
}

// item makes some rows of an image.
func (p *pair) item(worker, item int) {
	n, part := item/p.items, item%p.items
	lo, hi := part*p.rows, min((part+1)*p.rows, p.out.h)
	a, b, k := p.first, p.second, p.second.kernel
	room := elems[float32](&graph.Tensor{Type: graph.Float32, Data: p.worker.Scratch[worker*p.scratch : (worker+1)*p.scratch]})
	buffer := kernels.NewImage(room[:p.middle], p.high, p.wide, a.out.c)
	x := p.x[n*a.in.pixels()*a.in.c:][:a.in.pixels()*a.in.c]
	unit := max(1, p.pool.H)
	have, until := 0, 0 // rows of the padded image that the buffer begins with, and ends before
	for from, end := lo*unit, hi*unit; from < end; from += p.chunk {
		rows := min(p.chunk, end-from)
		first := from * k.StrideH
		high, _ := k.Span(rows, 1)
		if keep := until - first; keep > 0 && have < first {
			copy(buffer.Data, buffer.Data[(first-have)*buffer.Row:(until-have)*buffer.Row])
		} else if keep <= 0 {
			until = first
		}
		have = first
		if until < first+high {
			p.fill(buffer.At(until-have, 0, first+high-until, p.wide), x, until-b.top)
			until = first + high
		}
		p.write(room, buffer.At(0, 0, high, p.wide), n, from, rows)
	}
}

// fill makes rows of the first convolution, from row y on, with zeros around the image.
func (p *pair) fill(to kernels.Image, x []float32, y int) {
	a, left := p.first, min(p.second.left, to.W)
	right := min(to.W, left+a.out.w)
	lo, hi := min(max(0, -y), to.H), max(0, min(to.H, a.out.h-y))
	hi = max(lo, hi)
	for r := range to.H {
		row := to.Data[r*to.Row:][:to.W*to.C]
		if r < lo || r >= hi {
			clear(row)
			continue
		}
		clear(row[:left*to.C])
		clear(row[right*to.C:])
	}
	if lo == hi || left == right {
		return
	}
	dst := to.At(lo, left, hi-lo, right-left)
	p.point.Run(dst, x[(y+lo)*a.in.w*a.in.c:], p.window, a.finish)
	if a.act != nil {
		for r := range dst.H {
			a.act(p.worker.Kernels, dst.Data[r*dst.Row:][:dst.W*dst.C])
		}
	}
}

// write makes rows of the second convolution, from row from on, and what becomes of them.
func (p *pair) write(room []float32, buffer kernels.Image, n, from, rows int) {
	b := p.second
	direct := len(p.channels) == 1
	size := p.out.w * p.out.c
	at := func(buf []float32, row int) []float32 { return buf[(n*p.out.h+row)*size:] }
	var made kernels.Image
	if direct && p.pool.H == 0 {
		made = kernels.NewImage(at(p.y[0], from), rows, b.out.w, b.out.c)
	} else {
		made = kernels.NewImage(room[p.middle:p.last], rows, b.out.w, b.out.c)
	}
	p.deep.Run(made, buffer, b.finish.Lo, b.finish.Hi)
	if b.act != nil {
		b.act(p.worker.Kernels, made.Data[:rows*b.out.w*b.out.c])
	}
	if p.pool.H > 0 {
		from, rows = from/p.pool.H, rows/p.pool.H
		pooled := kernels.NewImage(room[p.last:], rows, p.out.w, p.out.c)
		if direct {
			pooled = kernels.NewImage(at(p.y[0], from), rows, p.out.w, p.out.c)
		}
		p.worker.Kernels.MaxPool(p.pool, pooled, made)
		made = pooled
	}
	if direct {
		return
	}
	first := 0
	for i, c := range p.channels {
		y := p.y[i][(n*p.out.h+from)*p.out.w*c:]
		for px := range rows * p.out.w {
			copy(y[px*c:(px+1)*c], made.Data[px*p.out.c+first:])
		}
		first += c
	}
}
