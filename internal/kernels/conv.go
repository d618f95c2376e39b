package kernels

import (
	"fmt"
	"math"
	"unsafe"
)

// Kernel is the shape of a window and how windows and their taps are spaced.
type Kernel struct{ H, W, StrideH, StrideW, DilationH, DilationW int }

// Plain is a window of h x w adjacent taps at every pixel.
func Plain(h, w int) Kernel { return Kernel{h, w, 1, 1, 1, 1} }

// Span is how many rows and columns of the input out rows and columns of windows reach over.
func (k Kernel) Span(outH, outW int) (h, w int) {
	return (outH-1)*k.StrideH + (k.H-1)*k.DilationH + 1, (outW-1)*k.StrideW + (k.W-1)*k.DilationW + 1
}

// Conv is a convolution whose weights are packed, or with a window of one pixel, a product with a packed
// matrix. It is immutable and safe for concurrent use.
//
// An element is one chain of fused multiply-adds that begins at the bias and goes through the window in
// the order of rows, pixels and channels (of planes, rows and pixels when the input is planes). So every
// level but Portable, which rounds products before it adds them, gives the same bits, however the output
// is cut into calls.
type Conv struct {
	s      *Set
	kernel Kernel
	in     int       // channels
	planes bool      // the input lies plane by plane (NCHW)
	out    int       // output channels
	w      []float32 // panels; for Portable [out, window]
	bias   []float32 // for every vector of the panels
}

// NewConv packs weights [out, in, kernel.H, kernel.W] as checkpoints store them. bias may be nil. With
// planes, inputs are planes of pixels (NCHW) rather than pixels of channels.
func (s *Set) NewConv(kernel Kernel, out, in int, planes bool, weights, bias []float32) *Conv {
	window := in * kernel.H * kernel.W
	if out < 1 || window < 1 || len(weights) != out*window || bias != nil && len(bias) != out {
		panic(fmt.Sprintf("kernels: convolution of %d to %d channels, %dx%d, of %d weights and %d biases", in, out, kernel.H, kernel.W, len(weights), len(bias)))
	}
	c := &Conv{s: s, kernel: kernel, in: in, planes: planes, out: out}
	rows := weights
	if taps := kernel.H * kernel.W; !planes && taps > 1 && in > 1 { // channels innermost
		rows = make([]float32, len(weights))
		for o := 0; o < len(weights); o += window {
			s.Transpose(View(rows[o:o+window], taps, in), View(weights[o:o+window], in, taps))
		}
	}
	c.pack(rows, bias, window)
	return c
}

// NewDense packs a matrix: the product of rows of in numbers with it has out numbers a row. The weights
// are [in, out], or with transposed [out, in].
func (s *Set) NewDense(out, in int, transposed bool, weights, bias []float32) *Conv {
	rows := weights
	if !transposed && out > 1 && in > 1 && len(weights) == in*out {
		rows = make([]float32, len(weights))
		s.Transpose(View(rows, out, in), View(weights, in, out))
	}
	return s.NewConv(Plain(1, 1), out, in, false, rows, bias)
}

// pack lays rows [out, window] out in panels.
func (c *Conv) pack(rows, bias []float32, window int) {
	if c.s.code == nil {
		c.w, c.bias = rows, make([]float32, c.out)
		if len(rows) > 0 {
			c.w = append([]float32(nil), rows...)
		}
		copy(c.bias, bias)
		return
	}
	lanes, panel := c.s.conv.lanes, c.s.conv.lanes*c.s.conv.vectors
	padded := roundTo(lanes)(c.out)
	c.bias, c.w = aligned(padded), aligned(padded*window)
	copy(c.bias, bias)
	for o := 0; o < c.out; o += panel {
		width, n := min(panel, padded-o), min(panel, c.out-o)
		c.s.Transpose(Dense[float32]{c.w[o*window:], window, n, width}, View(rows[o*window:], n, window))
	}
}

// aligned makes n numbers that begin on a cache line.
func aligned(n int) []float32 {
	buf := make([]float32, n+alignment)
	return buf[-uintptr(at(buf))%64/4:][:n:n]
}

// Out is the number of output channels.
func (c *Conv) Out() int { return c.out }

// Bytes is the memory that packed weights take.
func (c *Conv) Bytes() int64 { return 4 * int64(len(c.w)+len(c.bias)) }

// Windows is how a convolution reads an image of certain strides.
type Windows struct {
	seg       []int64
	length    int
	row, step int // distance of windows
	reach     int // numbers from the first of a window to its end
}

// Windows says where a window's numbers lie in an image whose rows and pixels are so far apart, and when
// it lies in planes, whose planes are.
func (c *Conv) Windows(row, pixel, plane int) Windows {
	k := c.kernel
	w := Windows{row: row * k.StrideH, step: pixel * k.StrideW}
	// runs of adjacent numbers, from the innermost dimension outwards
	type dim struct{ n, stride int }
	dims := []dim{{k.H, row * k.DilationH}, {k.W, pixel * k.DilationW}, {c.in, 1}}
	if c.planes {
		dims = []dim{{c.in, plane}, {k.H, row * k.DilationH}, {k.W, pixel * k.DilationW}}
	}
	w.length = 1
	for len(dims) > 0 {
		d := dims[len(dims)-1]
		if d.n > 1 && d.stride != w.length {
			break
		}
		w.length *= d.n
		dims = dims[:len(dims)-1]
	}
	w.seg = []int64{0}
	for _, d := range dims {
		var next []int64
		for _, s := range w.seg {
			for i := range d.n {
				next = append(next, s+int64(i*d.stride))
			}
		}
		w.seg = next
	}
	w.reach = int(w.seg[len(w.seg)-1]) + w.length
	return w
}

// Finish is what happens to sums before they are written: numbers are added (a residual connection), and
// the result is clipped to [Lo,Hi]. NaN stays NaN. dst and Add may be the same image.
type Finish struct {
	Add    *Image
	Lo, Hi float32
}

// Linear writes sums as they are.
var Linear = Finish{Lo: float32(math.Inf(-1)), Hi: float32(math.Inf(1))}

type convArgs struct {
	dst, x, w, start, add unsafe.Pointer
	seg                   unsafe.Pointer
	segs, length          int
	window                int
	startRow, startPix    int
	rows, cols, n         int
	dstRow, dstPix        int
	xRow, xPix            int
	addRow, addPix        int
	lo, hi                float32
}

// convShape is what a panel of packed weights is wide: vectors, and their lanes.
type convShape struct{ vectors, lanes int }

// convWork is about how many multiplications of vectors one call of a kernel does, well below a millisecond.
const convWork = 1 << 20

// Run computes all of dst, whose channels are the output channels. x begins at the first number of the
// first window; every window lies within it.
func (c *Conv) Run(dst Image, x []float32, w Windows, f Finish) {
	dst.check("dst")
	if dst.C != c.out {
		panic(fmt.Sprintf("kernels: a convolution to %d channels into %d", c.out, dst.C))
	}
	if dst.H == 0 || dst.W == 0 {
		return
	}
	if need := (dst.H-1)*w.row + (dst.W-1)*w.step + w.reach; w.length*len(w.seg) != c.in*c.kernel.H*c.kernel.W || need > len(x) {
		panic(fmt.Sprintf("kernels: windows reach over %d numbers of %d", need, len(x)))
	}
	if f.Add != nil {
		f.Add.check("add")
		if f.Add.H != dst.H || f.Add.W != dst.W || f.Add.C != dst.C {
			panic(fmt.Sprintf("kernels: %dx%dx%d is added to %dx%dx%d", f.Add.H, f.Add.W, f.Add.C, dst.H, dst.W, dst.C))
		}
	}
	if c.s.code == nil {
		c.portable(dst, x, w, f)
		return
	}
	window := w.length * len(w.seg)
	if window <= convWhole || dst.H*dst.W < 16 || f.Add != nil { // what is added may lie in dst
		c.call(dst, x, w.seg, w.length, 0, w, f)
		return
	}
	// Long windows are taken in parts whose weights stay in the first-level cache. Sums rest in dst meanwhile.
	for k := 0; k < window; {
		seg, n := w.seg[k/w.length:], min(w.length, convPart)
		if w.length > convPart {
			from := k % w.length
			n = min(convPart, w.length-from)
			seg = []int64{seg[0] + int64(from)}
		} else {
			seg = seg[:min(len(seg), convPart/w.length)]
		}
		part := Linear
		if k+n*len(seg) == window {
			part = f
		}
		c.call(dst, x, seg, n, k, w, part)
		k += n * len(seg)
	}
}

const (
	convWhole = 384 // the longest window that is taken at once
	convPart  = 128 // numbers of a part
)

// call computes the part of the window that these segments are, which begins at number k.
func (c *Conv) call(dst Image, x []float32, seg []int64, length, k int, w Windows, f Finish) {
	lanes, vectors := c.s.conv.lanes, c.s.conv.vectors
	window := w.length * len(w.seg)
	args := convArgs{
		seg: at(seg), segs: len(seg), length: length, window: window,
		cols: dst.W, dstRow: dst.Row, dstPix: dst.Pixel, xRow: w.row, xPix: w.step, lo: f.Lo, hi: f.Hi,
	}
	if k > 0 {
		args.startRow, args.startPix = dst.Row, dst.Pixel
	}
	for o := 0; o < c.out; {
		// a part's panels differ in width, so that they begin at different places
		n := c.out
		if k > 0 || length*len(seg) < window {
			n = min(c.out, o+lanes*vectors)
		}
		wide := roundTo(lanes)(n - o)
		args.n, args.start = n-o, at(c.bias[o:])
		args.w = at(c.w[o*window+k*wide:])
		pixels := max(1, convWork/(wide/lanes*length*len(seg))) // of a call
		rows := max(1, pixels/dst.W)
		args.cols = dst.W
		if rows == 1 {
			args.cols = min(dst.W, roundTo(12)(pixels))
		}
		for y := 0; y < dst.H; y += rows {
			args.rows = min(rows, dst.H-y)
			for x0 := 0; x0 < dst.W; x0 += args.cols {
				part := args
				part.cols = min(args.cols, dst.W-x0)
				part.dst, part.x = unsafe.Pointer(&dst.Data[y*dst.Row+x0*dst.Pixel+o]), unsafe.Pointer(&x[y*w.row+x0*w.step])
				if k > 0 {
					part.start = part.dst
				}
				if f.Add != nil {
					part.add, part.addRow, part.addPix = unsafe.Pointer(&f.Add.Data[y*f.Add.Row+x0*f.Add.Pixel+o]), f.Add.Row, f.Add.Pixel
				}
				c.s.code.call(fnConv, unsafe.Pointer(&part))
			}
		}
		o = n
	}
}

func (c *Conv) portable(dst Image, x []float32, w Windows, f Finish) {
	window := w.length * len(w.seg)
	for y := range dst.H {
		for px := range dst.W {
			from := x[y*w.row+px*w.step:]
			to := dst.Data[y*dst.Row+px*dst.Pixel:][:dst.C]
			for o := range to {
				weights, sum := c.w[o*window:][:window], c.bias[o]
				for i, s := range w.seg {
					for j, v := range from[s:][:w.length] {
						sum += float32(v * weights[i*w.length+j])
					}
				}
				if f.Add != nil {
					sum += f.Add.Data[y*f.Add.Row+px*f.Add.Pixel+o]
				}
				to[o] = clip32(sum, f.Lo, f.Hi)
			}
		}
	}
}

// clip32 clips to [lo,hi]; NaN stays NaN.
func clip32(v, lo, hi float32) float32 {
	if lo > v {
		v = lo
	}
	if hi < v {
		v = hi
	}
	return v
}
