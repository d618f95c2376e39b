package kernels

import (
	"fmt"
	"unsafe"
)

// CodeDepthwise is a convolution of codes, every channel with a window of its own. It is immutable and safe for
// concurrent use, and the same bits at every level.
type CodeDepthwise struct {
	s        *Set
	kernel   Kernel
	n        int
	codes    Codes
	w        []int8
	start    []int32
	scale    []float32
	adjacent bool // windows of 3x3 at every pixel
	phases   int
}

// NewCodeDepthwise packs a convolution of In channels, as many as Out, with weights [in, kernel.H, kernel.W]. It
// makes codes. It returns nil when a sum could overflow.
func (s *Set) NewCodeDepthwise(spec CodeSpec) *CodeDepthwise {
	k, n := spec.Kernel, spec.In
	taps := k.H * k.W
	if n < 1 || taps < 1 || spec.Out != n || len(spec.Weights) != n*taps || spec.Bias != nil && len(spec.Bias) != n || len(spec.Scale) != n || spec.Codes == nil {
		panic(fmt.Sprintf("kernels: depthwise %dx%d of %d channels of %d weights and %d biases", k.H, k.W, n, len(spec.Weights), len(spec.Bias)))
	}
	d := &CodeDepthwise{s: s, kernel: k, n: n, codes: *spec.Codes, phases: 1, adjacent: k == Plain(3, 3) && s.code != nil}
	start := make([]int32, n)
	for c := range start {
		weights, sum := spec.Weights[c*taps:(c+1)*taps], int32(0)
		for _, w := range weights {
			sum += int32(w)
		}
		bias := int64(0)
		if spec.Bias != nil {
			bias = int64(spec.Bias[c])
		}
		v := bias - int64(spec.Zero)*int64(sum)
		if int64(int32(v)) != v || !fits(weights, int32(v), spec.Scale[c]) {
			return nil
		}
		start[c] = int32(v) + int32(s.flip())*sum
	}
	if s.code == nil {
		d.w, d.start, d.scale = append(d.w, spec.Weights...), start, append(d.scale, spec.Scale...)
		return d
	}
	block := 4 * s.codes.lanes
	blocks, sets := (n+block-1)/block, (taps+3)/4 // sets of four taps
	if d.adjacent {
		for d.phases*block%n != 0 {
			d.phases++
		}
		blocks, sets = d.phases, 6
	}
	d.start, d.scale = make([]int32, blocks*block), aligned(blocks*block)
	d.w = alignedCodes(blocks * sets * 4 * block)
	for b := range blocks {
		for i := range block {
			c := b*block + mixed(i, s.codes.lanes)
			if d.adjacent {
				c %= n
			} else if c >= n {
				continue
			}
			d.start[b*block+i], d.scale[b*block+i] = start[c], spec.Scale[c]
			for set := range sets {
				for j := range 4 {
					if t := d.tap(set, j); t >= 0 {
						d.w[((b*sets+set)*block+i)*4+j] = spec.Weights[c*taps+t]
					}
				}
			}
		}
	}
	return d
}

// tap is the one that stands at place j of a set of four, -1 without one. Sets of adjacent windows are a column
// of four rows, which are the window of the row above and of the one below.
func (d *CodeDepthwise) tap(set, j int) int {
	if d.adjacent {
		if j -= set % 2; j < 0 || j > 2 {
			return -1
		}
		return 3*j + set/2
	}
	if t := 4*set + j; t < d.kernel.H*d.kernel.W {
		return t
	}
	return -1
}

type codeDepthwiseArgs struct {
	dst, x, w, start, scale unsafe.Pointer
	taps                    unsafe.Pointer
	groups                  int
	rows, cols, n           int
	dstRow, dstPix          int
	xRow, xPix              int
	phases                  int
	zero, lo, hi            int32
}

// Run computes all of dst. The first window begins at the first pixel of x, every window lies within it, and Slack
// codes lie behind it.
func (d *CodeDepthwise) Run(dst, x Pixels[uint8]) {
	rows, ok := windows(d.kernel, dst, x)
	if !ok || dst.C != d.n || rows > 0 && len(x.Data) < x.need(x.C)+Slack {
		panic(fmt.Sprintf("kernels: depthwise %+v of %d channels from %dx%dx%d, %d codes, into %dx%dx%d", d.kernel, d.n, x.H, x.W, x.C, len(x.Data), dst.H, dst.W, dst.C))
	}
	if rows == 0 {
		return
	}
	k := d.kernel
	if d.s.code == nil {
		d.portable(dst, x)
		return
	}
	taps := make([]int64, (k.H*k.W+3)/4*4)
	for i := range k.H * k.W {
		taps[i] = int64(i/k.W*k.DilationH*x.Row + i%k.W*k.DilationW*x.Pixel)
	}
	args := codeDepthwiseArgs{
		w: at(d.w), start: at(d.start), scale: at(d.scale), taps: at(taps), groups: len(taps) / 4, cols: dst.W, n: d.n,
		dstRow: dst.Row, dstPix: dst.Pixel, xRow: x.Row * k.StrideH, xPix: x.Pixel * k.StrideW, phases: d.phases,
		zero: d.codes.Zero, lo: int32(d.codes.Lo), hi: int32(d.codes.Hi),
	}
	fn := fnQdepth
	if d.adjacent && dst.Pixel == d.n && x.Pixel == d.n {
		fn = fnQdepth3
	} else if d.adjacent {
		panic("kernels: a depthwise convolution of pixels that are not adjacent")
	}
	step := max(2, convWork/(dst.W*k.H*k.W*(d.n+15)/4)/2*2)
	for y := 0; y < dst.H; y += step {
		args.rows = min(step, dst.H-y)
		args.dst, args.x = unsafe.Pointer(&dst.Data[y*dst.Row]), unsafe.Pointer(&x.Data[y*args.xRow])
		d.s.code.call(fn, unsafe.Pointer(&args))
	}
}

func (d *CodeDepthwise) portable(dst, x Pixels[uint8]) {
	k := d.kernel
	for i := range dst.H {
		for j := range dst.W {
			to := dst.Data[i*dst.Row+j*dst.Pixel:][:d.n]
			for c := range to {
				sum := d.start[c]
				for ky := range k.H {
					for kx := range k.W {
						v := x.Data[(i*k.StrideH+ky*k.DilationH)*x.Row+(j*k.StrideW+kx*k.DilationW)*x.Pixel+c]
						sum += int32(v) * int32(d.w[(c*k.H+ky)*k.W+kx])
					}
				}
				to[c] = d.codes.of(sum, d.scale[c])
			}
		}
	}
}
