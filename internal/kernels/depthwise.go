package kernels

import (
	"fmt"
	"unsafe"
)

// Depthwise is a convolution of every channel with a window of its own. It is immutable and safe for
// concurrent use. Sums are chains as those of Conv, in the order of rows and pixels.
type Depthwise struct {
	s       *Set
	kernel  Kernel
	w, bias []float32 // w is [taps, channels]
	n       int
}

// NewDepthwise lays out weights [n, kernel.H, kernel.W]. bias may be nil.
func (s *Set) NewDepthwise(kernel Kernel, n int, weights, bias []float32) *Depthwise {
	taps := kernel.H * kernel.W
	if n < 1 || taps < 1 || len(weights) != n*taps || bias != nil && len(bias) != n {
		panic(fmt.Sprintf("kernels: depthwise %dx%d of %d channels of %d weights and %d biases", kernel.H, kernel.W, n, len(weights), len(bias)))
	}
	d := &Depthwise{s: s, kernel: kernel, n: n, w: aligned(n * taps), bias: aligned(n)}
	s.Transpose(View(d.w, taps, n), View(weights, n, taps))
	copy(d.bias, bias)
	return d
}

type depthwiseArgs struct {
	dst, x, w, bias unsafe.Pointer
	kh, kw          int
	rows, cols, n   int
	dstRow, dstPix  int
	xRow, xPix      int
	tapRow, tapPix  int
	lo, hi          float32
}

// Run computes all of dst. The first window begins at the first pixel of x, and every window lies within
// it. Results are clipped to [lo,hi].
func (d *Depthwise) Run(dst, x Image, lo, hi float32) {
	rows, ok := windows(d.kernel, dst, x)
	if !ok || dst.C != d.n {
		panic(fmt.Sprintf("kernels: depthwise %+v of %d channels from %dx%dx%d into %dx%dx%d", d.kernel, d.n, x.H, x.W, x.C, dst.H, dst.W, dst.C))
	}
	if rows == 0 {
		return
	}
	if d.s.code == nil {
		d.portable(dst, x, lo, hi)
		return
	}
	k := d.kernel
	args := depthwiseArgs{
		w: at(d.w), bias: at(d.bias), kh: k.H, kw: k.W, cols: dst.W, n: d.n, dstRow: dst.Row, dstPix: dst.Pixel,
		xRow: x.Row * k.StrideH, xPix: x.Pixel * k.StrideW, tapRow: x.Row * k.DilationH, tapPix: x.Pixel * k.DilationW, lo: lo, hi: hi,
	}
	step := max(1, convWork/(dst.W*k.H*k.W*(d.n+15)/4))
	for y := 0; y < dst.H; y += step {
		args.rows = min(step, dst.H-y)
		args.dst, args.x = unsafe.Pointer(&dst.Data[y*dst.Row]), unsafe.Pointer(&x.Data[y*args.xRow])
		d.s.code.call(fnDepthwise, unsafe.Pointer(&args))
	}
}

// windows says whether all windows of dst lie in x, which has the same channels; of an empty dst, 0.
func windows[T any](k Kernel, dst, x Pixels[T]) (rows int, ok bool) {
	dst.check("dst")
	x.check("x")
	if dst.H == 0 || dst.W == 0 || dst.C == 0 {
		return 0, dst.C == x.C
	}
	h, w := k.Span(dst.H, dst.W)
	return dst.H, dst.C == x.C && h <= x.H && w <= x.W
}

func (d *Depthwise) portable(dst, x Image, lo, hi float32) {
	k := d.kernel
	for i := range dst.H {
		for j := range dst.W {
			to := dst.Data[i*dst.Row+j*dst.Pixel:][:d.n]
			for c := range to {
				sum := d.bias[c]
				for ky := range k.H {
					for kx := range k.W {
						v := x.Data[(i*k.StrideH+ky*k.DilationH)*x.Row+(j*k.StrideW+kx*k.DilationW)*x.Pixel+c]
						sum += float32(v * d.w[(ky*k.W+kx)*d.n+c])
					}
				}
				to[c] = clip32(sum, lo, hi)
			}
		}
	}
}
