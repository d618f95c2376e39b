package eval

import (
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() { joins["Conv"] = joinConv }

// placer is a step that says itself how its images lie.
type placer interface{ place(f *fast, s *step) }

// conv is a convolution in one or two dimensions with what follows it.
type conv struct {
	in, out       geometry
	kernel        kernels.Kernel
	top, left     int // pads
	padded        bool
	groups        int
	planes        bool // the input is read plane by plane
	dense         []*kernels.Conv
	deep          *kernels.Depthwise
	windows       []kernels.Windows
	finish        kernels.Finish
	act           func(s *kernels.Set, x []float32)
	added         int // index of the input that is added, -1
	rows, items   int // output rows of an item, items of an image
	high, wide    int // of the part of the padded input that an item reads
	scratch       int // bytes, of a worker
	weights, bias []float32
	key           string // of the packed weights
	alone         bool   // each channel for itself, though it is the only one
	worker        *Worker
	x, y, residue []float32
	do            func(worker, item int)
}

// joinConv makes a step of a convolution with constant weights, and of the bias, the residual connection and
// the activation that follow.
func joinConv(f *fast, i int, s *step) (*step, int) {
	weights := f.constant(s.in[1])
	in, ok := f.geometry(s.in[0])
	out, ok2 := f.geometry(s.out[0])
	if weights == nil || !ok || !ok2 || out.n*out.pixels()*out.c == 0 || in.c == 0 {
		return nil, 0
	}
	call := &Call{Node: s.node.Node, in: []Spec{f.p.specs[s.in[0]], f.p.specs[s.in[1]]}, node: s.node}
	k, err := newConvolution(call, 1)
	if err != nil {
		return nil, 0
	}
	c := &conv{in: in, out: out, groups: k.groups, added: -1, finish: kernels.Linear}
	c.kernel = kernels.Kernel{H: k.kernel[1], W: k.kernel[2], StrideH: k.stride[1], StrideW: k.stride[2], DilationH: k.dilation[1], DilationW: k.dilation[2]}
	c.top, c.left, c.padded = k.before[1], k.before[2], k.padded
	if h, w := c.kernel.Span(out.h, out.w); h > in.h || w > in.w {
		c.padded = true
	}
	var bias []float32
	if len(s.in) > 2 && s.in[2] >= 0 {
		if bias = f.constant(s.in[2]); bias == nil {
			return nil, 0
		}
	}
	t := &step{node: s.node, Step: Step{Out: s.Out}, in: []int{s.in[0]}, out: s.out, fast: c}
	at := i
	for {
		next, ok := f.only(t.out[0], at)
		if !ok || !c.absorb(f, t, next, &bias) {
			break
		}
		f.gone[at] = true
		at = next
		t.out, t.Out = f.p.steps[at].out[:1], f.p.steps[at].Out[:1]
	}
	c.weights, c.bias, c.key = weights, bias, s.node.Name
	if p, end := joinPair(f, c, t, at); p != nil {
		return p, end
	}
	return t, at
}

// pack packs the weights, once for all plans that read the input in the same way.
func (c *conv) pack(n *node) {
	type packed struct {
		dense []*kernels.Conv
		deep  *kernels.Depthwise
	}
	set := n.prog.worker.Kernels
	v, _ := Once(&Call{node: n}, fmt.Sprint("packed ", c.key, c.kernel, c.planes), func() (packed, error) {
		depth, maps := c.in.c/c.groups, c.out.c/c.groups
		if c.groups > 1 && depth == 1 && maps == 1 || c.alone {
			return packed{deep: set.NewDepthwise(c.kernel, c.out.c, c.weights, c.bias)}, nil
		}
		var v packed
		size := maps * depth * c.kernel.H * c.kernel.W
		for g := range c.groups {
			var b []float32
			if c.bias != nil {
				b = c.bias[g*maps : (g+1)*maps]
			}
			v.dense = append(v.dense, set.NewConv(c.kernel, maps, depth, c.planes, c.weights[g*size:(g+1)*size], b))
		}
		return v, nil
	})
	c.dense, c.deep = v.dense, v.deep
}

// absorb takes a following step into the convolution.
func (c *conv) absorb(f *fast, t *step, next int, bias *[]float32) bool {
	s := f.p.steps[next]
	mine := t.out[0]
	last := c.act == nil && c.finish.Lo == kernels.Linear.Lo && c.finish.Hi == kernels.Linear.Hi
	switch s.node.Op {
	case "Add":
		other := s.in[0] + s.in[1] - mine
		if !last || s.in[0] == s.in[1] || !slices.Equal(f.p.specs[other].Shape, f.p.specs[mine].Shape) && f.constant(other) == nil {
			return false
		}
		if v := f.constant(other); v != nil {
			if c.added >= 0 || !ofChannels(f.p.specs[other].Shape, f.p.specs[mine].Shape, c.out.c) || !slices.Equal(s.Out[0].Shape, t.Out[0].Shape) {
				return false
			}
			sum := make([]float32, c.out.c)
			copy(sum, *bias)
			for i := range sum {
				sum[i] += v[i%len(v)]
			}
			*bias = sum
			return true
		}
		if c.added >= 0 || c.groups > 1 || f.p.specs[other].Type != graph.Float32 || f.p.specs[other].Later || !f.ready(other, next) || f.p.specs[other].Known != nil {
			return false
		}
		t.in = append(t.in, other)
		c.added = len(t.in) - 1
		return true
	case "Relu":
		if !last {
			return false
		}
		c.finish.Lo = 0
		return true
	case "Clip":
		lo, hi, ok := clipBounds(f, s)
		if !last || !ok {
			return false
		}
		c.finish.Lo, c.finish.Hi = lo, hi
		return true
	}
	if act := curveOf(s.node); last && act != nil {
		c.act = act
		return true
	}
	return false
}

// ofChannels reports whether a shape broadcasts a number, or one for each channel, to an image.
func ofChannels(shape, image []int, channels int) bool {
	n := graph.Elems(shape)
	if n == 1 {
		return len(shape) <= len(image)
	}
	at := len(shape) - (len(image) - 1) // where channels stand
	return n == channels && at >= 0 && len(shape) <= len(image) && shape[at] == channels
}

// clipBounds are the bounds of a Clip, which are attributes before version 11.
func clipBounds(f *fast, s *step) (lo, hi float32, ok bool) {
	lo, hi = s.node.Float("min", float32(math.Inf(-1))), s.node.Float("max", float32(math.Inf(1)))
	for k, to := range []*float32{&lo, &hi} {
		if len(s.in) > k+1 && s.in[k+1] >= 0 {
			v := f.constant(s.in[k+1])
			if len(v) != 1 {
				return 0, 0, false
			}
			*to = v[0]
		}
	}
	return lo, hi, lo <= hi
}

// curveOf is a function that kernels have, or nil.
func curveOf(n *node) func(s *kernels.Set, x []float32) {
	switch n.Op {
	case "Sigmoid":
		return func(s *kernels.Set, x []float32) { s.Sigmoid(x, x) }
	case "Tanh":
		return func(s *kernels.Set, x []float32) { s.Tanh(x, x) }
	case "Erf":
		return func(s *kernels.Set, x []float32) { s.Erf(x, x) }
	case "LeakyRelu":
		slope := n.Float("alpha", 0.01)
		return func(s *kernels.Set, x []float32) { s.LeakyReLU(x, x, slope) }
	case "HardSigmoid":
		slope, at := n.Float("alpha", 0.2), n.Float("beta", 0.5)
		return func(s *kernels.Set, x []float32) { s.HardSigmoid(x, x, slope, at) }
	case "HardSwish":
		return func(s *kernels.Set, x []float32) { s.HardSwish(x, x, 1.0/6, 0.5) }
	case "Gelu":
		if n.Str("approximate", "none") == "tanh" {
			return func(s *kernels.Set, x []float32) { s.GELUTanh(x, x) }
		}
		return func(s *kernels.Set, x []float32) { s.GELU(x, x) }
	case "Swish":
		if n.Float("alpha", 1) == 1 {
			return func(s *kernels.Set, x []float32) { s.SiLU(x, x) }
		}
	}
	return nil
}

// work below which a thread of its own is not worth its barrier, in multiplications.
const convPiece = 1 << 17

// place decides how images lie, packs the weights and cuts the work.
func (c *conv) place(f *fast, s *step) {
	x := s.in[0]
	s.in = slices.Clone(s.in)
	// few channels are read as the planes they come in
	c.planes = c.groups == 1 && !f.pixels[x] && !c.in.same() && c.in.c <= 4
	if !c.planes {
		s.in[0] = f.pixel(x)
	}
	if c.added >= 0 {
		s.in[c.added] = f.pixel(s.in[c.added])
	}
	f.mark(s.out[0])
	k, threads := c.kernel, s.node.prog.worker.Threads
	if !c.padded && !c.planes && k.H == 1 && k.W == 1 && k.StrideH == 1 && k.StrideW == 1 { // all pixels are a row
		c.in.w, c.in.h = c.in.pixels(), 1
		c.out.w, c.out.h = c.out.pixels(), 1
	}
	if c.in.w == 1 && c.out.w == 1 && k.W == 1 && c.left == 0 { // a column as a row
		c.in.w, c.in.h, c.out.w, c.out.h = c.in.h, 1, c.out.h, 1
		k = kernels.Kernel{H: 1, W: k.H, StrideH: 1, StrideW: k.StrideH, DilationH: 1, DilationW: k.DilationH}
		c.kernel, c.left, c.top = k, c.top, 0
	}
	c.pack(s.node)
	work := c.out.pixels() * c.out.c * k.H * k.W * c.in.c / c.groups
	parts := 1
	if threads > 1 {
		parts = max(1, min(2*threads, work/convPiece))
	}
	if c.out.h == 1 && !c.padded {
		c.rows = 0 // cut along the row
		c.items = min(parts, (c.out.w+11)/12)
	} else {
		if c.padded { // what an item reads is copied, and should stay near
			rows := max(1, (64<<10)/(4*c.in.c*(c.in.w+2*c.left)*k.StrideH))
			parts = max(parts, (c.out.h+rows-1)/rows)
		}
		c.rows = (c.out.h + parts - 1) / parts
		c.items = (c.out.h + c.rows - 1) / c.rows
	}
	row, pixel, plane := c.in.w*c.in.c, c.in.c, 0
	if c.planes {
		row, pixel, plane = c.in.w, 1, c.in.pixels()
	}
	if c.padded {
		c.high, c.wide = k.Span(max(1, c.rows), c.out.w)
		c.scratch = round(4 * c.high * c.wide * c.in.c)
		s.Scratch = c.scratch * threads
		row = c.wide * c.in.c
		if c.planes {
			row, plane = c.wide, c.high*c.wide
		}
	}
	c.windows = c.windows[:0]
	for _, d := range c.dense {
		c.windows = append(c.windows, d.Windows(row, pixel, plane))
	}
	c.do = c.item
	s.Run = c.run
	s.InPlace = nil
	if c.added >= 0 {
		s.InPlace = []int{c.added}
	}
}

func (c *conv) run(w *Worker, in, out []*graph.Tensor) error {
	c.worker, c.x, c.y = w, elems[float32](in[0]), elems[float32](out[0])
	if c.added >= 0 {
		c.residue = elems[float32](in[c.added])
	}
	w.Do(c.out.n*c.items, c.do)
	return nil
}

// item computes a part of an image: some rows, or where the image is one row, some pixels.
func (c *conv) item(worker, item int) {
	n, part := item/c.items, item%c.items
	x := c.x[n*c.in.pixels()*c.in.c:][:c.in.pixels()*c.in.c]
	y := kernels.NewImage(c.y[n*c.out.pixels()*c.out.c:][:c.out.pixels()*c.out.c], c.out.h, c.out.w, c.out.c)
	lo, hi := part*c.rows, min((part+1)*c.rows, c.out.h)
	from, to := 0, c.out.w
	if c.rows == 0 {
		lo, hi = 0, 1
		from, to = c.cut(part), c.cut(part+1)
	}
	if lo >= hi || from >= to {
		return
	}
	dst := y.At(lo, from, hi-lo, to-from)
	f := c.finish
	if c.added >= 0 {
		m := kernels.NewImage(c.residue[n*c.out.pixels()*c.out.c:][:c.out.pixels()*c.out.c], c.out.h, c.out.w, c.out.c).At(lo, from, hi-lo, to-from)
		f.Add = &m
	}
	src := kernels.Image{H: c.in.h, W: c.in.w, C: c.in.c, Row: c.in.w * c.in.c, Pixel: c.in.c}
	if c.padded {
		scratch := elems[float32](&graph.Tensor{Type: graph.Float32, Data: c.worker.Scratch[worker*c.scratch : (worker+1)*c.scratch]})
		high := (hi-lo-1)*c.kernel.StrideH + (c.kernel.H-1)*c.kernel.DilationH + 1
		c.pad(scratch, x, lo*c.kernel.StrideH-c.top, high)
		src, x = kernels.Image{H: high, W: c.wide, C: c.in.c, Row: c.wide * c.in.c, Pixel: c.in.c}, scratch
	} else if c.planes {
		x = x[lo*c.kernel.StrideH*c.in.w+from*c.kernel.StrideW:]
	} else {
		y, w := lo*c.kernel.StrideH, from*c.kernel.StrideW
		x = x[y*src.Row+w*src.Pixel:]
		src.H, src.W = src.H-y, src.W-w
	}
	if c.deep != nil {
		src.Data = x
		c.deep.Run(dst, src, f.Lo, f.Hi)
	}
	depth, maps := c.in.c/c.groups, c.out.c/c.groups
	for g, d := range c.dense {
		part, finish := dst, f
		if c.groups > 1 {
			part = dst.Channels(g*maps, (g+1)*maps)
		}
		d.Run(part, x[g*depth:], c.windows[g], finish)
	}
	if c.act != nil {
		c.act(c.worker.Kernels, dst.Data[:((hi-lo-1)*c.out.w+to-from)*c.out.c])
	}
}

// cut is where part i of a row begins.
func (c *conv) cut(i int) int {
	if i >= c.items {
		return c.out.w
	}
	return c.out.w * i / c.items / 12 * 12
}

// pad copies rows [top, top+high) of the input, with zeros where there are none.
func (c *conv) pad(dst, x []float32, top, high int) {
	channels, pixel := 1, c.in.c
	if c.planes {
		channels, pixel = c.in.c, 1
	}
	for ch := range channels {
		plane := x[ch*c.in.pixels()*pixel:]
		for r := range high {
			row := dst[(ch*c.high+r)*c.wide*pixel:][:c.wide*pixel]
			y := top + r
			if y < 0 || y >= c.in.h {
				clear(row)
				continue
			}
			left := min(c.left, c.wide)
			clear(row[:left*pixel])
			n := copy(row[left*pixel:], plane[y*c.in.w*pixel:(y+1)*c.in.w*pixel])
			clear(row[left*pixel+n:])
		}
	}
}
