package kernels

import (
	"fmt"
	"math"
	"unsafe"
)

// Codes are integers of 8 bits that stand for numbers, scale*(code-zero). Kernels take activations as unsigned
// codes; signed ones are the unsigned ones of a zero point 128 higher, with the highest bit turned over (Signed).
// Weights are signed with a zero point of 0.

// Signed is what turns signed codes into unsigned ones, and back.
const Signed = 0x80

// Codes says how sums become codes: rounded to even, moved by Zero, and cut to [Lo,Hi].
type Codes struct {
	Zero   int32 // 0..255
	Lo, Hi uint8
}

// of is the code of a sum.
func (c Codes) of(sum int32, scale float32) uint8 {
	v := int32(math.RoundToEven(float64(float32(sum)*scale))) + c.Zero
	return uint8(min(max(v, int32(c.Lo)), int32(c.Hi)))
}

// codeLimit bounds sums times their factors, so that kernels may round them to integers of 32 bits before they
// cut them.
const codeLimit = 1 << 30

// fits reports whether no sum of activations with these weights overflows 32 bits, and no factor makes too
// much of it.
func fits(weights []int8, start int32, scale float32) bool {
	most := math.Abs(float64(start))
	for _, w := range weights {
		most += 255 * math.Abs(float64(w))
	}
	return most < math.MaxInt32 && most*math.Abs(float64(scale)) < codeLimit
}

// alignedCodes makes n codes that begin on a cache line.
func alignedCodes(n int) []int8 {
	buf := make([]int8, n+64)
	return buf[-uintptr(at(buf))%64:][:n:n]
}

type codesArgs struct {
	dst, x         unsafe.Pointer
	n              int
	scale, inverse float32
	zero, flip     int32
}

// codesMost is how many numbers one call of a kernel takes.
const codesMost = 1 << 16

// Codes sets dst to the codes of x: round(x/scale), ties to even, moved by zero and cut to 0..255, then with
// the bits of flip turned over. NaN becomes zero.
func (s *Set) Codes(dst []uint8, x []float32, scale float32, zero int32, flip uint8) {
	if len(dst) != len(x) {
		panic(fmt.Sprintf("kernels: %d codes of %d numbers", len(dst), len(x)))
	}
	for i := 0; i < len(x); i += codesMost {
		n := min(codesMost, len(x)-i)
		if s.code == nil {
			for j, v := range x[i : i+n] {
				dst[i+j] = asCode(v/scale, zero) ^ flip
			}
			continue
		}
		args := codesArgs{at(dst[i:]), at(x[i:]), n, scale, inverse(scale), zero, int32(flip)}
		s.code.call(fnCodesOf, unsafe.Pointer(&args))
	}
}

// inverse is 1/scale where it is as exact as kernels need it, otherwise 0.
func inverse(scale float32) float32 {
	if scale < 0x1p-100 || scale > 0x1p100 {
		return 0
	}
	return 1 / scale
}

// asCode is a quotient as a code.
func asCode(v float32, zero int32) uint8 {
	z := float32(zero)
	if v != v {
		v = 0
	}
	return uint8(int32(math.RoundToEven(float64(min(max(v, -z), 255-z)))) + zero)
}

type realsArgs struct {
	dst, x     unsafe.Pointer
	n          int
	scale      float32
	zero, flip int32
}

// Reals sets dst to the numbers that codes stand for, scale*(code-zero), after the bits of flip are turned over.
func (s *Set) Reals(dst []float32, x []uint8, scale float32, zero int32, flip uint8) {
	if len(dst) != len(x) {
		panic(fmt.Sprintf("kernels: %d numbers of %d codes", len(dst), len(x)))
	}
	for i := 0; i < len(x); i += codesMost {
		n := min(codesMost, len(x)-i)
		if s.code == nil {
			for j, v := range x[i : i+n] {
				dst[i+j] = float32(int32(v^flip)-zero) * scale
			}
			continue
		}
		args := realsArgs{at(dst[i:]), at(x[i:]), n, scale, zero, int32(flip)}
		s.code.call(fnCodesReal, unsafe.Pointer(&args))
	}
}

type lookupArgs struct {
	dst, x, table unsafe.Pointer
	n             int
}

// Lookup sets dst to what a table has for every code.
func (s *Set) Lookup(dst []float32, x []uint8, table *[256]float32) {
	if len(dst) != len(x) {
		panic(fmt.Sprintf("kernels: %d numbers of %d codes", len(dst), len(x)))
	}
	for i := 0; i < len(x); i += codesMost {
		n := min(codesMost, len(x)-i)
		if s.code == nil {
			for j, v := range x[i : i+n] {
				dst[i+j] = table[v]
			}
			continue
		}
		args := lookupArgs{at(dst[i:]), at(x[i:]), unsafe.Pointer(table), n}
		s.code.call(fnCodesLookup, unsafe.Pointer(&args))
	}
}

// Recode sets dst to the codes that a table has for those of x. dst may be x.
func (s *Set) Recode(dst, x []uint8, table *[256]uint8) {
	if len(dst) != len(x) {
		panic(fmt.Sprintf("kernels: %d codes of %d", len(dst), len(x)))
	}
	for i := 0; i < len(x); i += codesMost {
		n := min(codesMost, len(x)-i)
		if s.code == nil {
			for j, v := range x[i : i+n] {
				dst[i+j] = table[v]
			}
			continue
		}
		args := lookupArgs{at(dst[i:]), at(x[i:]), unsafe.Pointer(table), n}
		s.code.call(fnCodesRecode, unsafe.Pointer(&args))
	}
}

// Affine is what codes stand for: Scale*(code-Zero).
type Affine struct {
	Scale float32
	Zero  int32
}

func (a Affine) real(code uint8) float32 { return float32(int32(code)-a.Zero) * a.Scale }

type bothArgs struct {
	dst, x, y             unsafe.Pointer
	n                     int
	xScale, yScale, scale float32
	inverse               float32
	xZero, yZero, zero    int32
}

// AddCodes sets dst to the codes of sums, each step rounded to float32 as Reals, + and Codes round it. dst may be x or y.
func (s *Set) AddCodes(dst, x, y []uint8, dstIs, xIs, yIs Affine) {
	s.pairOf(fnCodesAdd, dst, x, y, dstIs, xIs, yIs, func(a, b float32) float32 { return a + b })
}

// MulCodes does the same with products.
func (s *Set) MulCodes(dst, x, y []uint8, dstIs, xIs, yIs Affine) {
	s.pairOf(fnCodesMul, dst, x, y, dstIs, xIs, yIs, func(a, b float32) float32 { return a * b })
}

func (s *Set) pairOf(fn int, dst, x, y []uint8, dstIs, xIs, yIs Affine, op func(a, b float32) float32) {
	if len(x) != len(dst) || len(y) != len(dst) {
		panic(fmt.Sprintf("kernels: %d codes of %d and %d", len(dst), len(x), len(y)))
	}
	for i := 0; i < len(x); i += codesMost {
		n := min(codesMost, len(x)-i)
		if s.code == nil {
			for j := i; j < i+n; j++ {
				dst[j] = asCode(op(xIs.real(x[j]), yIs.real(y[j]))/dstIs.Scale, dstIs.Zero)
			}
			continue
		}
		args := bothArgs{at(dst[i:]), at(x[i:]), at(y[i:]), n, xIs.Scale, yIs.Scale, dstIs.Scale, inverse(dstIs.Scale), xIs.Zero, yIs.Zero, dstIs.Zero}
		s.code.call(fn, unsafe.Pointer(&args))
	}
}

type codesPoolArgs struct {
	dst, x         unsafe.Pointer
	kh, kw         int
	rows, cols, n  int
	dstRow, dstPix int
	xRow, xPix     int
	tapRow, tapPix int
}

// MaxCodes sets every code of dst to the largest of its window, as MaxPool does.
func (s *Set) MaxCodes(k Kernel, dst, x Pixels[uint8]) {
	rows, ok := windows(k, dst, x)
	if !ok || k.H < 1 || k.W < 1 {
		panic(fmt.Sprintf("kernels: pool %+v from %dx%dx%d into %dx%dx%d", k, x.H, x.W, x.C, dst.H, dst.W, dst.C))
	}
	if rows == 0 {
		return
	}
	args := codesPoolArgs{
		kh: k.H, kw: k.W, cols: dst.W, n: dst.C, dstRow: dst.Row, dstPix: dst.Pixel,
		xRow: x.Row * k.StrideH, xPix: x.Pixel * k.StrideW, tapRow: x.Row * k.DilationH, tapPix: x.Pixel * k.DilationW,
	}
	step := max(1, convWork/(dst.W*k.H*k.W*(dst.C+15)/4))
	for y := 0; y < dst.H; y += step {
		args.rows = min(step, dst.H-y)
		if s.code == nil {
			args.portable(dst.At(y, 0, args.rows, dst.W), x.Data[y*args.xRow:])
			continue
		}
		args.dst, args.x = unsafe.Pointer(&dst.Data[y*dst.Row]), unsafe.Pointer(&x.Data[y*args.xRow])
		s.code.call(fnCodesMax, unsafe.Pointer(&args))
	}
}

func (a *codesPoolArgs) portable(dst Pixels[uint8], x []uint8) {
	for i := range dst.H {
		for j := range dst.W {
			to := dst.Data[i*dst.Row+j*dst.Pixel:][:dst.C]
			for c := range to {
				from := x[i*a.xRow+j*a.xPix+c:]
				m := from[0]
				for t := 1; t < a.kh*a.kw; t++ {
					m = max(m, from[t/a.kw*a.tapRow+t%a.kw*a.tapPix])
				}
				to[c] = m
			}
		}
	}
}
