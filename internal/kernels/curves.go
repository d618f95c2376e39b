package kernels

import (
	"fmt"
	"math"
	"unsafe"
)

// curveArgs serves every kernel on rows of numbers and functions of them.
type curveArgs struct {
	dst, x, y, z unsafe.Pointer
	n            int
	a, b, out    float32
	_            float32
}

// curve computes dst[i] = f(x[i]); dst may be x.
func (s *Set) curve(fn int, dst, x []float32, a, b float32, f func(float32) float32) {
	same("function", len(dst), len(x))
	if s.code == nil {
		for i, v := range x {
			dst[i] = f(v)
		}
		return
	}
	args := curveArgs{dst: at(dst), x: at(x), n: len(dst), a: a, b: b}
	s.code.call(fn, unsafe.Pointer(&args))
}

// Functions of every number of x, which dst may be. Errors are in units in the last place (ulp) of the
// result, or where a result may cancel, of 1.

// Tanh is within 3 ulp.
func (s *Set) Tanh(dst, x []float32) { s.curve(fnTanh, dst, x, 0, 0, tanh32) }

// Sigmoid is 1/(1+e^-x), within 4 ulp; it is 0 where e^-x is beyond float32.
func (s *Set) Sigmoid(dst, x []float32) { s.curve(fnSigmoid, dst, x, 0, 0, sigmoid32) }

// Erf is the error function, within 3 ulp.
func (s *Set) Erf(dst, x []float32) { s.curve(fnErf, dst, x, 0, 0, erf32) }

// SiLU is x*sigmoid(x), within 5 ulp.
func (s *Set) SiLU(dst, x []float32) { s.curve(fnSilu, dst, x, 0, 0, silu32) }

// GELU is x/2 * (1+erf(x/sqrt(2))), within 3 ulp of max(|x|, 1).
func (s *Set) GELU(dst, x []float32) { s.curve(fnGelu, dst, x, 0, 0, gelu32) }

// GELUTanh is x/2 * (1+tanh(sqrt(2/pi)*(x+0.044715*x^3))), within 3 ulp of max(|x|, 1).
func (s *Set) GELUTanh(dst, x []float32) { s.curve(fnGeluTanh, dst, x, 0, 0, geluTanh32) }

// Clip clips to [lo,hi]; NaN stays NaN.
func (s *Set) Clip(dst, x []float32, lo, hi float32) {
	s.curve(fnClip, dst, x, lo, hi, func(v float32) float32 { return clip32(v, lo, hi) })
}

// HardSigmoid is slope*x + at, clipped to [0,1].
func (s *Set) HardSigmoid(dst, x []float32, slope, at float32) {
	s.curve(fnHardSigmoid, dst, x, slope, at, func(v float32) float32 { return clip32(float32(v*slope)+at, 0, 1) })
}

// HardSwish is x times HardSigmoid of it.
func (s *Set) HardSwish(dst, x []float32, slope, at float32) {
	s.curve(fnHardSwish, dst, x, slope, at, func(v float32) float32 { return v * clip32(float32(v*slope)+at, 0, 1) })
}

// LeakyReLU is slope*x below 0 and x elsewhere.
func (s *Set) LeakyReLU(dst, x []float32, slope float32) {
	s.curve(fnLeaky, dst, x, slope, 0, func(v float32) float32 {
		if v < 0 {
			return v * slope
		}
		return v
	})
}

func sigmoid32(x float32) float32 { return 1 / (1 + exp32(-x)) }
func silu32(x float32) float32    { return x / (1 + exp32(-x)) }

func gelu32(x float32) float32 {
	return float32(0.5*x) * (1 + erf32(x*0.70710678118654752))
}

func geluTanh32(x float32) float32 {
	u := (float32(float32(float32(x*x)*x)*0.044715) + x) * 1.5957691216057308
	return x / (1 + exp32(-u))
}

// tanh32 is an odd polynomial near 0 (Cephes tanhf, Moshier) and 1 - 2/(e^2x + 1) elsewhere.
func tanh32(x float32) float32 {
	a := math.Float32frombits(math.Float32bits(x) & 0x7fffffff)
	if a < 0.625 {
		z := x * x
		q := poly32(z, -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
		return float32(float32(q*z)*x) + x
	}
	return signed32(1-2/(exp32(a+a)+1), x)
}

// erf32 is an odd polynomial below 1, and 1 - e^-q(x) beyond, where q is a polynomial for -ln(erfc(x)).
// Both were fitted for the least largest error.
func erf32(x float32) float32 {
	a := math.Float32frombits(math.Float32bits(x) & 0x7fffffff)
	switch {
	case x != x:
		return x
	case a < 1:
		z := x * x
		q := poly32(z, 7.889021732e-5, -8.020811921e-4, 5.189532032e-3, -2.685444287e-2, 1.128360014e-1, -3.761262713e-1, 1.283791659e-1)
		return float32(q*x) + x
	}
	b := min(a, 3.95)
	r := poly32(b, -1.876286329e-4, 2.960339821e-3, -2.189051323e-2, 1.032199581e-1, 6.380102659e-1, 1.127172784, 3.203043675e-4)
	return signed32(1-exp32(-r), x)
}

// poly32 is a polynomial, the highest coefficient first.
func poly32(x float32, c ...float32) float32 {
	q := c[0]
	for _, k := range c[1:] {
		q = float32(q*x) + k
	}
	return q
}

// signed32 is x, which is not negative, with the sign of another number.
func signed32(x, of float32) float32 {
	return math.Float32frombits(math.Float32bits(x) | math.Float32bits(of)&(1<<31))
}

// AddTo sets dst to x+y, number by number; dst may be either. A y of one number meets all of x.
func (s *Set) AddTo(dst, x, y []float32) {
	s.both(fnAddTo, dst, x, y, func(a, b float32) float32 { return a + b })
}

// MulTo sets dst to x*y, as AddTo.
func (s *Set) MulTo(dst, x, y []float32) {
	s.both(fnMulTo, dst, x, y, func(a, b float32) float32 { return a * b })
}

// SubTo sets dst to x-y, as AddTo.
func (s *Set) SubTo(dst, x, y []float32) {
	if len(y) == 1 {
		s.AddTo(dst, x, []float32{-y[0]})
		return
	}
	s.both(fnSubTo, dst, x, y, func(a, b float32) float32 { return a - b })
}

// SubFrom sets dst to y-x for one number y.
func (s *Set) SubFrom(dst []float32, y float32, x []float32) {
	s.both(fnSubTo, dst, x, []float32{y}, func(a, b float32) float32 { return b - a })
}

// DivTo sets dst to x/y, as AddTo.
func (s *Set) DivTo(dst, x, y []float32) {
	s.both(fnDivTo, dst, x, y, func(a, b float32) float32 { return a / b })
}

func (s *Set) both(fn int, dst, x, y []float32, f func(a, b float32) float32) {
	one := len(y) == 1
	if len(dst) != len(x) || !one && len(y) != len(x) {
		panic(fmt.Sprintf("kernels: %d and %d numbers into %d", len(x), len(y), len(dst)))
	}
	if s.code == nil {
		for i, v := range x {
			if one {
				dst[i] = f(v, y[0])
			} else {
				dst[i] = f(v, y[i])
			}
		}
		return
	}
	args := curveArgs{dst: at(dst), x: at(x), n: len(x)}
	if one {
		args.a = y[0]
	} else {
		args.y = at(y)
	}
	s.code.call(fn, unsafe.Pointer(&args))
}

// Sum is the sum of a row.
func (s *Set) Sum(x []float32) float32 {
	if s.code == nil {
		var l [4]float32
		for i, v := range x {
			l[i&3] += v
		}
		return (l[0] + l[2]) + (l[1] + l[3])
	}
	args := curveArgs{x: at(x), n: len(x)}
	s.code.call(fnRowSum, unsafe.Pointer(&args))
	return args.out
}

// LayerNorm sets dst to (x-mean)/sqrt(variance+eps)*weight + bias, over the row; dst may be x. bias may be
// nil. The variance is the mean square of what is left of x without the mean.
func (s *Set) LayerNorm(dst, x, weight, bias []float32, eps float32) {
	same("norm", len(dst), len(x), len(weight))
	if bias != nil {
		same("norm", len(dst), len(bias))
	}
	if len(x) == 0 {
		return
	}
	mean := s.Sum(x) / float32(len(x))
	if s.code == nil {
		var l [4]float32
		for i, v := range x {
			v -= mean
			l[i&3] += float32(v * v)
		}
		r := rmsFactor((l[0]+l[2])+(l[1]+l[3]), len(x), eps)
		for i, v := range x {
			dst[i] = float32(float32((v-mean)*r) * weight[i])
			if bias != nil {
				dst[i] += bias[i]
			}
		}
		return
	}
	args := curveArgs{dst: at(dst), x: at(x), y: at(weight), z: at(bias), n: len(x), a: mean}
	s.code.call(fnRowSpread, unsafe.Pointer(&args))
	args.b = rmsFactor(args.out, len(x), eps)
	s.code.call(fnRowNorm, unsafe.Pointer(&args))
}

type lstmArgs struct {
	h, c, gates, before unsafe.Pointer
	n                   int
}

// LSTM is the end of a step of an LSTM: gates are the sums for input, output, forget and cell gate, one
// after the other. It writes state h and cell c; before is the cell before the step, which may be c.
func (s *Set) LSTM(h, c, gates, before []float32) {
	n := len(h)
	same("lstm", n, len(c), len(before), len(gates)/4)
	if s.code == nil {
		for i := range h {
			v := float32(sigmoid32(gates[2*n+i])*before[i]) + float32(sigmoid32(gates[i])*tanh32(gates[3*n+i]))
			c[i] = v
			h[i] = sigmoid32(gates[n+i]) * tanh32(v)
		}
		return
	}
	args := lstmArgs{at(h), at(c), at(gates), at(before), n}
	s.code.call(fnLstm, unsafe.Pointer(&args))
}

type gruArgs struct {
	h, x, r, before unsafe.Pointer
	n               int
}

// GRU is the end of a step of a GRU that resets after the product with the state (linear_before_reset):
// x has the sums of the input for update, reset and hidden gate, r those of the state. It writes the state
// h; before is the state before the step, which may be h.
func (s *Set) GRU(h, x, r, before []float32) {
	n := len(h)
	same("gru", n, len(before), len(x)/3, len(r)/3)
	if s.code == nil {
		for i := range h {
			z, reset := sigmoid32(x[i]+r[i]), sigmoid32(x[n+i]+r[n+i])
			t := tanh32(float32(reset*r[2*n+i]) + x[2*n+i])
			h[i] = float32(z*(before[i]-t)) + t
		}
		return
	}
	args := gruArgs{at(h), at(x), at(r), at(before), n}
	s.code.call(fnGru, unsafe.Pointer(&args))
}

type transposeArgs struct {
	dst, src                 unsafe.Pointer
	rows, cols, dstLd, srcLd int
}

// Transpose sets dst to the transpose of src, with which it must not overlap.
func (s *Set) Transpose(dst, src Matrix) {
	dst.check("dst")
	src.check("src")
	if dst.Rows != src.Cols || dst.Cols != src.Rows {
		panic(fmt.Sprintf("kernels: transpose of %dx%d into %dx%d", src.Rows, src.Cols, dst.Rows, dst.Cols))
	}
	if src.Rows == 0 || src.Cols == 0 {
		return
	}
	if s.code == nil {
		for i := range src.Rows {
			for j, v := range src.Row(i) {
				dst.Data[j*dst.Stride+i] = v
			}
		}
		return
	}
	args := transposeArgs{cols: src.Cols, dstLd: dst.Stride, srcLd: src.Stride}
	step := max(4, convWork/src.Cols&^3)
	for i := 0; i < src.Rows; i += step {
		args.rows = min(step, src.Rows-i)
		args.dst, args.src = unsafe.Pointer(&dst.Data[i]), unsafe.Pointer(&src.Data[i*src.Stride])
		s.code.call(fnTranspose4, unsafe.Pointer(&args))
	}
}
