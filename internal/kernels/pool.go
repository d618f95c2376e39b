package kernels

import (
	"fmt"
	"unsafe"
)

type poolArgs struct {
	dst, x         unsafe.Pointer
	kh, kw         int
	rows, cols, n  int
	dstRow, dstPix int
	xRow, xPix     int
	tapRow, tapPix int
	factor         float32
}

// MaxPool sets every number of dst to the largest of its window; the first window begins at the first pixel
// of x, and every window lies within x. NaN in a window makes NaN.
func (s *Set) MaxPool(k Kernel, dst, x Image) {
	s.pool(fnPoolMax, k, dst, x, 1, func(m, v float32) float32 {
		if v > m || v != v {
			return v
		}
		return m
	})
}

// MeanPool sets every number of dst to the sum of its window, in the order of rows and pixels, times factor.
func (s *Set) MeanPool(k Kernel, dst, x Image, factor float32) {
	s.pool(fnPoolMean, k, dst, x, factor, func(m, v float32) float32 { return m + v })
}

func (s *Set) pool(fn int, k Kernel, dst, x Image, factor float32, join func(m, v float32) float32) {
	rows, ok := windows(k, dst, x)
	if !ok || k.H < 1 || k.W < 1 {
		panic(fmt.Sprintf("kernels: pool %+v from %dx%dx%d into %dx%dx%d", k, x.H, x.W, x.C, dst.H, dst.W, dst.C))
	}
	if rows == 0 {
		return
	}
	args := poolArgs{
		kh: k.H, kw: k.W, cols: dst.W, n: dst.C, dstRow: dst.Row, dstPix: dst.Pixel,
		xRow: x.Row * k.StrideH, xPix: x.Pixel * k.StrideW, tapRow: x.Row * k.DilationH, tapPix: x.Pixel * k.DilationW, factor: factor,
	}
	if s.code == nil {
		args.portable(dst, x, join)
		return
	}
	step := max(1, convWork/(dst.W*k.H*k.W*(dst.C+15)/4))
	for y := 0; y < dst.H; y += step {
		args.rows = min(step, dst.H-y)
		args.dst, args.x = unsafe.Pointer(&dst.Data[y*dst.Row]), unsafe.Pointer(&x.Data[y*args.xRow])
		s.code.call(fn, unsafe.Pointer(&args))
	}
}

func (a *poolArgs) portable(dst, x Image, join func(m, v float32) float32) {
	for i := range dst.H {
		for j := range dst.W {
			to := dst.Data[i*dst.Row+j*dst.Pixel:][:dst.C]
			for c := range to {
				from := x.Data[i*a.xRow+j*a.xPix+c:]
				m := from[0]
				for t := 1; t < a.kh*a.kw; t++ {
					m = join(m, from[t/a.kw*a.tapRow+t%a.kw*a.tapPix])
				}
				to[c] = m * a.factor
			}
		}
	}
}
