package eval

import (
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	rules["Conv"] = (*integers).conv
}

// factors is a constant matrix or window as signed codes without zero points.
type factors struct {
	codes []int8
	scale []float32 // of every output channel
}

// weights reads constant codes whose parameters are those of all or of each of n output channels, which stand along
// an axis.
func (u *integers) weights(slot, scale, zero, axis, n int) (f factors, ok bool) {
	s := u.p.specs[slot]
	if !s.Const || s.Type != graph.Int8 && s.Type != graph.Uint8 || axis >= len(s.Shape) || s.Shape[axis] != n {
		return f, false
	}
	k := u.p.specs[scale]
	if !k.Const || k.Type != graph.Float32 || graph.Elems(k.Shape) != 1 && graph.Elems(k.Shape) != n || len(k.Shape) > 1 {
		return f, false
	}
	if f.codes, ok = u.centred(slot, zero); !ok {
		return f, false
	}
	f.scale = elems[float32](k.Known)
	if len(f.scale) == 1 {
		f.scale = slices.Repeat(f.scale, n)
	}
	for _, v := range f.scale {
		if !(v >= 0) || math.IsInf(float64(v), 0) {
			return f, false
		}
	}
	return f, true
}

// realWeights reads weights that a node made real.
func (u *integers) realWeights(slot, axis, n int) (f factors, ok bool) {
	node := u.folded[slot]
	if node == nil || len(node.in) < 2 || node.in[0] < 0 || node.in[1] < 0 || node.Int("block_size", 0) != 0 {
		return f, false
	}
	zero := -1
	if len(node.in) > 2 {
		zero = node.in[2]
	}
	if k := u.p.specs[node.in[1]]; graph.Elems(k.Shape) > 1 {
		rank := len(u.p.specs[node.in[0]].Shape)
		if at := node.Int("axis", 1); at != axis && at+rank != axis {
			return f, false
		}
	}
	return u.weights(node.in[0], node.in[1], zero, axis, n)
}

// product is a product of codes with constant weights, and what becomes of it.
type product struct {
	tail
	x     codeSlot
	f     factors
	bias  []int32
	shift []float32 // of floats, where the bias is no integer
}

// complete finds out what becomes of a product: its bias, which may be left out, and its tail.
func (u *integers) complete(p *product, out, bias int) bool {
	p.tail = u.tail(out)
	if bias < 0 || u.p.specs[bias].Type == graph.Undefined {
		return true
	}
	s := u.p.specs[bias]
	if !s.Const || s.Type != graph.Float32 || graph.Elems(s.Shape) != len(p.f.scale) || s.Shape[len(s.Shape)-1] != len(p.f.scale) {
		return false
	}
	v := elems[float32](s.Known)
	if n := u.folded[bias]; n != nil && n.in[0] >= 0 && u.p.specs[n.in[0]].Type == graph.Int32 {
		k := u.p.specs[n.in[1]]
		zero := len(n.in) > 2 && n.in[2] >= 0 && slices.ContainsFunc(u.p.specs[n.in[2]].Known.Data, func(b byte) bool { return b != 0 })
		if scales := elems[float32](k.Known); !zero && k.Const && p.unit(scales) {
			p.bias = elems[int32](u.p.specs[n.in[0]].Known)
			return true
		}
	}
	if p.codes == nil {
		p.shift = v
		return true
	}
	p.bias = make([]int32, len(v))
	for i, b := range v { // far finer than the codes it will be part of
		unit := float64(p.x.Scale) * float64(p.f.scale[i])
		if b == 0 {
			continue
		}
		whole := math.RoundToEven(float64(b) / unit)
		if !(math.Abs(whole) < 1<<30) {
			return false
		}
		p.bias[i] = int32(whole)
	}
	return true
}

// unit reports whether scales are what sums count: the activations' times the weights'.
func (p *product) unit(scales []float32) bool {
	if len(scales) != 1 && len(scales) != len(p.f.scale) {
		return false
	}
	for i, w := range p.f.scale {
		want := float64(p.x.Scale) * float64(w)
		if got := float64(scales[i%len(scales)]); math.Abs(got-want) > 1e-5*want {
			return false
		}
	}
	return true
}

// spec is the convolution that kernels pack.
func (p *product) spec() kernels.CodeSpec {
	spec := kernels.CodeSpec{Zero: p.x.Zero, Bias: p.bias, Shift: p.shift, Scale: make([]float32, len(p.f.scale))}
	for i, w := range p.f.scale {
		if spec.Scale[i] = float32(p.x.Scale * w); p.codes != nil {
			spec.Scale[i] /= p.codes.Scale
		}
	}
	if p.codes != nil {
		spec.Codes = p.kernelCodes()
	}
	return spec
}

// emit appends the step of a product.
func (u *integers) emit(p *product, n *node, how placer) {
	u.take(p.steps)
	to, done := p.out, func() {}
	if p.codes != nil {
		to, done = u.makes(p.out)
	}
	u.add(n, []int{p.x.slot}, []int{to}, how, Step{})
	done()
}

// codeConv is a convolution of codes.
type codeConv struct {
	product
	in, out     geometry
	kernel      kernels.Kernel
	top, left   int
	groups      int
	planes      bool // the input is read plane by plane
	copied      bool // an item's part of the input is copied, pads around it
	dense       []*kernels.CodeConv
	deep        *kernels.CodeDepthwise
	windows     []kernels.Windows
	rows, items int
	high, wide  int
	scratch     int
	worker      *Worker
	from        []byte
	codesTo     []byte
	floatsTo    []float32
	pads        byte // the code of zero
	dynamic     bool // zero point and scale are inputs 1, which may be left out, and 2
	now         []kernels.Factors
	do          func(worker, item int)
}

// conv makes a step of a convolution of codes with constant weights.
func (u *integers) conv(_ int, s *step) bool {
	x := u.reals[s.in[0]]
	if x == nil || !x.plain || len(s.out) != 1 || s.Out[0].Type != graph.Float32 {
		return false
	}
	c := &codeConv{}
	c.x = x.codeSlot
	f, ok := u.realWeights(s.in[1], 0, u.p.specs[s.in[1]].Shape[0])
	if c.f = f; !ok || !u.complete(&c.product, s.out[0], s.input(2)) || !c.plan(u, s, s.in[0], s.in[1]) {
		return false
	}
	u.emit(&c.product, s.node, c)
	return true
}

// plan reads the geometry of a convolution from the specs of images and weights.
func (c *codeConv) plan(u *integers, s *step, x, weights int) bool {
	call := &Call{Node: s.node.Node, in: []Spec{u.p.specs[x], u.p.specs[weights]}, node: s.node}
	k, err := newConvolution(call, 1)
	in, ok := geometryOf(u.p.specs[x].Shape)
	out, ok2 := geometryOf(s.Out[0].Shape)
	if err != nil || !ok || !ok2 || out.n*out.pixels()*out.c == 0 || in.c == 0 {
		return false
	}
	c.in, c.out, c.groups = in, out, k.groups
	c.kernel = kernels.Kernel{H: k.kernel[1], W: k.kernel[2], StrideH: k.stride[1], StrideW: k.stride[2], DilationH: k.dilation[1], DilationW: k.dilation[2]}
	c.top, c.left, c.copied = k.before[1], k.before[2], k.padded
	if h, w := c.kernel.Span(out.h, out.w); h > in.h || w > in.w {
		c.copied = true
	}
	// that no sum overflows is found out here, while there is another way
	c.pack(s.node)
	return c.deep != nil || len(c.dense) > 0
}

// pack packs the weights, once for all plans that read the input in the same way.
func (c *codeConv) pack(n *node) {
	type packed struct {
		dense []*kernels.CodeConv
		deep  *kernels.CodeDepthwise
	}
	set := n.prog.worker.Kernels
	v, _ := Once(&Call{node: n}, fmt.Sprint("codes ", c.kernel, c.planes, c.codes != nil, c.shift != nil), func() (packed, error) {
		depth, maps := c.in.c/c.groups, c.out.c/c.groups
		spec := c.spec()
		spec.Kernel, spec.In, spec.Out, spec.Planes, spec.Pixel = c.kernel, depth, maps, c.planes, c.in.c
		if depth == 1 && maps == 1 && c.groups > 1 && c.codes != nil {
			spec.In, spec.Out, spec.Weights = c.groups, c.groups, c.f.codes
			return packed{deep: set.NewCodeDepthwise(spec)}, nil
		}
		var v packed
		size := maps * depth * c.kernel.H * c.kernel.W
		all := spec
		for g := range c.groups {
			spec.Weights, spec.Scale = c.f.codes[g*size:(g+1)*size], all.Scale[g*maps:(g+1)*maps]
			if all.Bias != nil {
				spec.Bias = all.Bias[g*maps : (g+1)*maps]
			}
			if all.Shift != nil {
				spec.Shift = all.Shift[g*maps : (g+1)*maps]
			}
			d := set.NewCodeConv(spec)
			if d == nil {
				return packed{}, nil
			}
			v.dense = append(v.dense, d)
		}
		return v, nil
	})
	c.dense, c.deep = v.dense, v.deep
}

const (
	codePiece = 1 << 19 // multiplications below which a thread of its own is not worth its barrier
	codeRows  = 32 << 10
)

// place decides how images lie, packs the weights and cuts the work.
func (c *codeConv) place(f *fast, s *step) {
	x := s.in[0]
	s.in = slices.Clone(s.in)
	c.planes = c.groups == 1 && !f.pixels[x] && !c.in.same() && c.in.c <= 4
	if !c.planes {
		s.in[0] = f.pixel(x)
	}
	f.mark(s.out[0])
	k, threads := c.kernel, s.node.prog.worker.Threads
	if !c.copied && !c.planes && k.H == 1 && k.W == 1 && k.StrideH == 1 && k.StrideW == 1 { // all pixels are a row
		c.in.w, c.in.h = c.in.pixels(), 1
		c.out.w, c.out.h = c.out.pixels(), 1
	}
	if c.in.w == 1 && c.out.w == 1 && k.W == 1 && c.left == 0 { // a column as a row
		c.in.w, c.in.h, c.out.w, c.out.h = c.in.h, 1, c.out.h, 1
		c.kernel = kernels.Kernel{H: 1, W: k.H, StrideH: 1, StrideW: k.StrideH, DilationH: 1, DilationW: k.DilationH}
		c.left, c.top, k = c.top, 0, c.kernel
	}
	c.pack(s.node)
	// kernels may read what lies behind the last window
	c.copied = c.copied || c.deep != nil || slices.ContainsFunc(c.dense, func(d *kernels.CodeConv) bool { return !d.Whole() })
	work := c.out.pixels() * c.out.c * k.H * k.W * c.in.c / c.groups
	parts := 1
	if threads > 1 {
		parts = max(1, min(2*threads, work/codePiece))
	}
	if c.out.h == 1 && !c.copied {
		c.rows = 0 // cut along the row
		c.items = min(parts, (c.out.w+11)/12)
	} else {
		if c.copied { // what an item reads should stay near
			rows := max(2, codeRows/(c.in.c*(c.in.w+2*c.left)*k.StrideH)/2*2)
			parts = max(parts, (c.out.h+rows-1)/rows)
		}
		c.rows = (c.out.h + parts - 1) / parts
		if c.rows > 1 {
			c.rows += c.rows % 2 // depthwise kernels take two rows at a time
		}
		c.items = (c.out.h + c.rows - 1) / c.rows
	}
	row, plane := c.in.w*c.in.c, 0
	if c.planes {
		row, plane = c.in.w, c.in.pixels()
	}
	if c.copied {
		c.high, c.wide = k.Span(max(1, c.rows), c.out.w)
		c.scratch = round(c.high*c.wide*c.in.c + kernels.Slack)
		s.Scratch = c.scratch * threads
		row = c.wide * c.in.c
		if c.planes {
			row, plane = c.wide, c.high*c.wide
		}
	}
	c.windows = c.windows[:0]
	for _, d := range c.dense {
		c.windows = append(c.windows, d.Windows(row, plane))
	}
	c.do, c.now = c.item, make([]kernels.Factors, len(c.dense))
	s.Run = c.run
}

func (c *codeConv) run(w *Worker, in, out []*graph.Tensor) error {
	c.worker, c.from, c.pads = w, in[0].Data, byte(c.x.Zero)
	if c.dynamic {
		if c.pads = 0; in[1] != nil {
			c.pads = in[1].Data[0]
		}
		for g, d := range c.dense {
			d.Factors(&c.now[g], int32(c.pads), elems[float32](in[2])[0])
		}
	}
	if c.codes != nil {
		c.codesTo = out[0].Data
	} else {
		c.floatsTo = elems[float32](out[0])
	}
	w.Do(c.out.n*c.items, c.do)
	return nil
}

// item computes a part of an image: some rows, or where the image is one row, some pixels.
func (c *codeConv) item(worker, item int) {
	n, part := item/c.items, item%c.items
	x := c.from[n*c.in.pixels()*c.in.c:][:c.in.pixels()*c.in.c]
	lo, hi := part*c.rows, min((part+1)*c.rows, c.out.h)
	from, to := 0, c.out.w
	if c.rows == 0 {
		lo, hi = 0, 1
		from, to = c.cut(part), c.cut(part+1)
	}
	if lo >= hi || from >= to {
		return
	}
	src := kernels.Pixels[uint8]{H: c.in.h, W: c.in.w, C: c.in.c, Row: c.in.w * c.in.c, Pixel: c.in.c}
	switch {
	case c.copied:
		scratch := c.worker.Scratch[worker*c.scratch : (worker+1)*c.scratch]
		high := (hi-lo-1)*c.kernel.StrideH + (c.kernel.H-1)*c.kernel.DilationH + 1
		c.pad(scratch, x, lo*c.kernel.StrideH-c.top, high)
		src, x = kernels.Pixels[uint8]{H: high, W: c.wide, C: c.in.c, Row: c.wide * c.in.c, Pixel: c.in.c}, scratch
	case c.planes:
		x = x[lo*c.kernel.StrideH*c.in.w+from*c.kernel.StrideW:]
	default:
		x = x[lo*c.kernel.StrideH*src.Row+from*c.kernel.StrideW*src.Pixel:]
	}
	size := c.out.pixels() * c.out.c
	if c.codes == nil {
		y := kernels.NewImage(c.floatsTo[n*size:][:size], c.out.h, c.out.w, c.out.c).At(lo, from, hi-lo, to-from)
		for g, d := range c.dense {
			var f *kernels.Factors
			if c.dynamic {
				f = &c.now[g]
			}
			d.Floats(groupOf(y, g, c.groups), x[g*(c.in.c/c.groups):], c.windows[g], f)
		}
		return
	}
	y := kernels.NewImage(c.codesTo[n*size:][:size], c.out.h, c.out.w, c.out.c).At(lo, from, hi-lo, to-from)
	if c.deep != nil {
		src.Data = x
		c.deep.Run(y, src)
		return
	}
	for g, d := range c.dense {
		d.Run(groupOf(y, g, c.groups), x[g*(c.in.c/c.groups):], c.windows[g])
	}
}

// groupOf is the channels of an image that one of so many groups makes.
func groupOf[T any](y kernels.Pixels[T], g, groups int) kernels.Pixels[T] {
	if maps := y.C / groups; groups > 1 {
		return y.Channels(g*maps, (g+1)*maps)
	}
	return y
}

// cut is where part i of a row begins.
func (c *codeConv) cut(i int) int {
	if i >= c.items {
		return c.out.w
	}
	return c.out.w * i / c.items / 12 * 12
}

// pad copies rows [top, top+high) of the input, with the codes of zeros where there are none.
func (c *codeConv) pad(dst, x []byte, top, high int) {
	channels, pixel, zero := 1, c.in.c, c.pads
	if c.planes {
		channels, pixel = c.in.c, 1
	}
	for ch := range channels {
		plane := x[ch*c.in.pixels()*pixel:]
		for r := range high {
			row := dst[(ch*c.high+r)*c.wide*pixel:][:c.wide*pixel]
			y := top + r
			if y < 0 || y >= c.in.h {
				fillBytes(row, zero)
				continue
			}
			left := min(c.left, c.wide)
			fillBytes(row[:left*pixel], zero)
			n := copy(row[left*pixel:], plane[y*c.in.w*pixel:(y+1)*c.in.w*pixel])
			fillBytes(row[left*pixel+n:], zero)
		}
	}
}

// fillBytes sets all bytes.
func fillBytes(b []byte, v byte) {
	if v == 0 {
		clear(b)
		return
	}
	if len(b) == 0 {
		return
	}
	b[0] = v
	for n := 1; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}
