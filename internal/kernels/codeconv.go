package kernels

import (
	"fmt"
	"unsafe"
)

// CodeSpec is a convolution of codes, or with a window of one pixel a product of rows of codes with a matrix.
type CodeSpec struct {
	Kernel
	Out, In int  // channels
	Planes  bool // the input lies plane by plane (NCHW)
	Pixel   int  // distance of the input's pixels where that is not In
	Weights []int8
	Zero    int32   // of the activations
	Bias    []int32 // of sums; may be nil
	// Scale are factors of the channels, nil for those who want sums. Sums times factors leave as floats, Shift
	// added where it is not nil, or with Codes as codes.
	Scale, Shift []float32
	Codes        *Codes
}

// CodeConv is a convolution of codes whose weights are packed. It is immutable and safe for concurrent use.
//
// Sums are exact, and what is made of them is rounded as Codes.of and the expression scale*sum + shift are, so
// that every level gives the same bits.
type CodeConv struct {
	s           *Set
	spec        CodeSpec // without weights
	run         int      // adjacent codes of a window
	runs        int
	w           []int8 // panels; for Portable [out, window]
	start, sums []int32
	scale       []float32
	shift       []float32
	order       []int // channel at each place of start and scale, -1 beyond
}

// NewCodeConv packs weights [out, in, kernel.H, kernel.W]. It returns nil when a sum could overflow.
func (s *Set) NewCodeConv(spec CodeSpec) *CodeConv {
	k := spec.Kernel
	window := spec.In * k.H * k.W
	if spec.Out < 1 || window < 1 || len(spec.Weights) != spec.Out*window || spec.Bias != nil && len(spec.Bias) != spec.Out ||
		spec.Scale != nil && len(spec.Scale) != spec.Out || spec.Shift != nil && len(spec.Shift) != spec.Out || spec.Codes != nil && spec.Scale == nil {
		panic(fmt.Sprintf("kernels: convolution of codes %dx%d to %d channels, %dx%d, of %d weights and %d biases", spec.In, window, spec.Out, k.H, k.W, len(spec.Weights), len(spec.Bias)))
	}
	if spec.Pixel == 0 {
		spec.Pixel = spec.In
	}
	c := &CodeConv{s: s, spec: spec, run: spec.In, runs: k.H * k.W}
	switch {
	case spec.Planes && k.DilationW == 1:
		c.run, c.runs = k.W, spec.In*k.H
	case spec.Planes:
		c.run, c.runs = 1, window
	case k.DilationW == 1 && spec.Pixel == spec.In || k.W == 1:
		c.run, c.runs = k.W*spec.In, k.H
	}
	c.order = s.channelOrder(spec.Out, spec.Codes != nil)
	c.start, c.sums, c.scale, c.shift = make([]int32, len(c.order)), make([]int32, len(c.order)), aligned(len(c.order)), aligned(len(c.order))
	for i, o := range c.order {
		if o < 0 {
			continue
		}
		weights := spec.Weights[o*window : (o+1)*window]
		for _, w := range weights {
			c.sums[i] += int32(w)
		}
		bias, scale := int32(0), float32(0)
		if spec.Bias != nil {
			bias = spec.Bias[o]
		}
		if spec.Scale != nil {
			scale = spec.Scale[o]
			c.scale[i] = scale
		}
		if spec.Shift != nil {
			c.shift[i] = spec.Shift[o]
		}
		start := int64(bias) - int64(spec.Zero)*int64(c.sums[i])
		if int64(int32(start)) != start || spec.Codes != nil && !fits(weights, int32(start), scale) || !fits(weights, int32(start), 0) {
			return nil
		}
		c.start[i] = int32(start) + int32(s.flip())*c.sums[i]
	}
	c.pack()
	c.spec.Weights = nil
	return c
}

// flip is what compiled kernels take from activations.
func (s *Set) flip() int {
	if s.code == nil {
		return 0
	}
	return s.codes.flip
}

// channelOrder is which channel stands at each place of a panel. Sums that are joined to bytes four vectors at a
// time lie so that this puts them in order.
func (s *Set) channelOrder(out int, joined bool) []int {
	if s.code == nil {
		order := make([]int, out)
		for i := range order {
			order[i] = i
		}
		return order
	}
	lanes, panel := s.codes.lanes, s.codes.lanes*s.codes.vectors
	order := make([]int, roundTo(lanes)(out))
	for i := range order {
		o := i
		if first := i / panel * panel; joined && s.codes.vectors == 4 && len(order)-first >= panel {
			o = first + mixed(i-first, lanes)
		}
		if o >= out {
			o = -1
		}
		order[i] = o
	}
	return order
}

// mixed is the byte that stands in place i of four vectors that were interleaved.
func mixed(i, lanes int) int {
	v, q, e := i/lanes, i%lanes/4, i%4
	return 16*q + 4*v + e
}

// weight is number i of run r of an output channel's window.
func (c *CodeConv) weight(o, r, i int) int8 {
	k := c.spec.Kernel
	t := r*c.run + i // the window in the order of segments
	taps := k.H * k.W
	if !c.spec.Planes {
		t = t%c.spec.In*taps + t/c.spec.In
	}
	return c.spec.Weights[o*taps*c.spec.In+t]
}

func (c *CodeConv) groups() int { return (c.run + 3) / 4 }

func (c *CodeConv) pack() {
	if c.s.code == nil {
		c.w = make([]int8, len(c.spec.Weights))
		for i := range c.w {
			window := c.run * c.runs
			c.w[i] = c.weight(i/window, i%window/c.run, i%c.run)
		}
		return
	}
	panel, groups := c.s.codes.lanes*c.s.codes.vectors, c.groups()
	c.w = alignedCodes(len(c.order) * c.runs * groups * 4)
	place := 0
	for first := 0; first < len(c.order); first += panel {
		width := min(panel, len(c.order)-first)
		for r := range c.runs {
			for g := range groups {
				for _, o := range c.order[first : first+width] {
					for i := 4 * g; i < 4*g+4; i++ {
						if o >= 0 && i < c.run {
							c.w[place] = c.weight(o, r, i)
						}
						place++
					}
				}
			}
		}
	}
}

// Bytes is the memory that packed weights take.
func (c *CodeConv) Bytes() int64 {
	return int64(len(c.w)) + 4*int64(len(c.start)+len(c.sums)+len(c.scale)+len(c.shift))
}

// Whole reports whether windows end with whole groups of four codes: if not, Run wants up to Slack codes behind the
// last window that it may read.
func (c *CodeConv) Whole() bool { return c.run%4 == 0 }

// Slack is how many codes behind the last window kernels may read.
const Slack = 64

// Windows says where a window's codes lie in an image whose rows are so far apart, and when it lies in planes,
// whose planes are.
func (c *CodeConv) Windows(row, plane int) Windows {
	k, pixel := c.spec.Kernel, c.spec.Pixel
	type dim struct{ n, stride int }
	dims := []dim{{k.H, row * k.DilationH}, {k.W, pixel * k.DilationW}}
	if c.spec.Planes {
		pixel = 1
		dims = []dim{{c.spec.In, plane}, {k.H, row * k.DilationH}, {k.W, k.DilationW}}
	}
	seg := []int64{0}
	for _, d := range dims {
		if len(seg) == c.runs {
			break
		}
		var next []int64
		for _, s := range seg {
			for i := range d.n {
				next = append(next, s+int64(i*d.stride))
			}
		}
		seg = next
	}
	reach := int(seg[len(seg)-1]) + 4*c.groups()
	if c.s.code == nil {
		reach = int(seg[len(seg)-1]) + c.run
	}
	return Windows{seg: seg, length: c.run, row: row * k.StrideH, step: pixel * k.StrideW, reach: reach}
}

// Factors are those of one run, for activations whose scale and zero point are not known before.
type Factors struct {
	start        []int32
	scale, shift []float32
}

// Factors sets f for activations of a zero point: sums times scale times the factors of the channels.
func (c *CodeConv) Factors(f *Factors, zero int32, scale float32) {
	if len(f.start) != len(c.start) {
		f.start, f.scale = make([]int32, len(c.start)), aligned(len(c.start))
	}
	f.shift = c.shift
	for i, s := range c.start {
		f.start[i] = s + (c.spec.Zero-zero)*c.sums[i]
		f.scale[i] = float32(scale * c.scale[i])
	}
}

const (
	toBytes = iota
	toFloats
	toSums
)

type codeConvArgs struct {
	dst, x, w, start unsafe.Pointer
	scale, shift     unsafe.Pointer
	seg              unsafe.Pointer
	segs, groups     int
	rows, cols, n    int
	dstRow, dstPix   int
	xRow, xPix       int
	kind             int
	zero, lo, hi     int32
}

// codeShape is what a panel is wide, and what kernels take from activations.
type codeShape struct{ vectors, lanes, flip int }

// Run computes all of dst, as codes. x begins at the first code of the first window; every window lies within it.
func (c *CodeConv) Run(dst Pixels[uint8], x []uint8, w Windows) {
	if c.spec.Codes == nil {
		panic("kernels: a convolution of codes that does not make codes")
	}
	runCodes(c, toBytes, dst, x, w, nil, func(o int, sum int32) uint8 { return c.spec.Codes.of(sum, c.scale[o]) })
}

// Floats computes all of dst, as floats. f may be nil.
func (c *CodeConv) Floats(dst Image, x []uint8, w Windows, f *Factors) {
	if f == nil {
		f = &Factors{c.start, c.scale, c.shift}
	}
	runCodes(c, toFloats, dst, x, w, f, func(o int, sum int32) float32 { return float32(float32(sum)*f.scale[o]) + f.shift[o] })
}

// Sums computes all of dst, as sums. f may be nil.
func (c *CodeConv) Sums(dst Pixels[int32], x []uint8, w Windows, f *Factors) {
	runCodes(c, toSums, dst, x, w, f, func(_ int, sum int32) int32 { return sum })
}

func runCodes[T any](c *CodeConv, kind int, dst Pixels[T], x []uint8, w Windows, f *Factors, finish func(o int, sum int32) T) {
	dst.check("dst")
	if dst.C != c.spec.Out {
		panic(fmt.Sprintf("kernels: a convolution to %d channels into %d", c.spec.Out, dst.C))
	}
	if dst.H == 0 || dst.W == 0 {
		return
	}
	if need := (dst.H-1)*w.row + (dst.W-1)*w.step + w.reach; w.length != c.run || len(w.seg) != c.runs || need > len(x) {
		panic(fmt.Sprintf("kernels: windows reach over %d codes of %d", need, len(x)))
	}
	if f == nil {
		f = &Factors{c.start, c.scale, c.shift}
	}
	if c.s.code == nil {
		window := c.run * c.runs
		for y := range dst.H {
			for px := range dst.W {
				from := x[y*w.row+px*w.step:]
				to := dst.Data[y*dst.Row+px*dst.Pixel:][:dst.C]
				for o := range to {
					sum, weights := f.start[o], c.w[o*window:][:window]
					for r, s := range w.seg {
						for j, v := range from[s:][:c.run] {
							sum += int32(v) * int32(weights[r*c.run+j])
						}
					}
					to[o] = finish(o, sum)
				}
			}
		}
		return
	}
	args := codeConvArgs{
		w: at(c.w), start: at(f.start), scale: at(f.scale), shift: at(f.shift), seg: at(w.seg), segs: len(w.seg), groups: c.groups(),
		n: dst.C, dstRow: dst.Row, dstPix: dst.Pixel, xRow: w.row, xPix: w.step, kind: kind,
	}
	if k := c.spec.Codes; k != nil {
		args.zero, args.lo, args.hi = k.Zero, int32(k.Lo), int32(k.Hi)
	}
	pixels := max(1, convWork/(len(c.order)/c.s.codes.lanes*c.runs*c.groups())) // of a call
	rows := max(1, pixels/dst.W)
	cols := dst.W
	if rows == 1 {
		cols = min(dst.W, roundTo(12)(pixels))
	}
	for y := 0; y < dst.H; y += rows {
		args.rows = min(rows, dst.H-y)
		for x0 := 0; x0 < dst.W; x0 += cols {
			args.cols = min(cols, dst.W-x0)
			args.dst, args.x = unsafe.Pointer(&dst.Data[y*dst.Row+x0*dst.Pixel]), unsafe.Pointer(&x[y*w.row+x0*w.step])
			c.s.code.call(fnQconv, unsafe.Pointer(&args))
		}
	}
}
