package kernels

import (
	"fmt"
	"math"
	"unsafe"
)

// rowArgs serves every kernel on rows: up to four rows, a length, one number in and one out.
type rowArgs struct {
	a, b, c, d unsafe.Pointer
	n          int
	in, out    float32
}

func same(op string, n int, others ...int) {
	for _, m := range others {
		if m != n {
			panic(fmt.Sprintf("kernels: %s of rows of %d and %d numbers", op, n, m))
		}
	}
}

// Exp sets dst[i] to e^x[i], within 2 units in the last place. Results that would be subnormal are
// 0 (x < -87.33); x > 88.72 gives +Inf; NaN stays. dst may be x.
func (s *Set) Exp(dst, x []float32) {
	same("exp", len(dst), len(x))
	if s.code == nil {
		expPortable(dst, x)
		return
	}
	args := rowArgs{a: at(dst), b: at(x), n: len(dst)}
	s.code.call(fnExp, unsafe.Pointer(&args))
}

// Max is the largest number of x, -Inf when x is empty. NaN is passed over.
func (s *Set) Max(x []float32) float32 {
	if s.code == nil {
		return maxPortable(x)
	}
	args := rowArgs{a: at(x), n: len(x)}
	s.code.call(fnMax, unsafe.Pointer(&args))
	return args.out
}

// Softmax turns a row of scores into probabilities, in place: e^(x[i]-max) over their sum. Scores
// of -Inf become 0; a row of nothing else becomes NaN.
func (s *Set) Softmax(x []float32) {
	if s.code == nil {
		softmaxPortable(x)
		return
	}
	if len(x) == 0 {
		return
	}
	m := s.Max(x)
	if math.IsInf(float64(m), -1) {
		m = 0
	}
	args := rowArgs{a: at(x), n: len(x), in: m}
	s.code.call(fnSoftmaxExp, unsafe.Pointer(&args))
	s.Scale(x, 1/args.out)
}

// RMSNorm sets dst[i] to x[i] / sqrt(mean(x^2) + eps) * weight[i]. dst may be x.
func (s *Set) RMSNorm(dst, x, weight []float32, eps float32) {
	same("rmsnorm", len(dst), len(x), len(weight))
	if s.code == nil {
		rmsNormPortable(dst, x, weight, eps)
		return
	}
	args := rowArgs{a: at(dst), b: at(x), c: at(weight), n: len(dst)}
	s.code.call(fnSumSquares, unsafe.Pointer(&args))
	args.in = rmsFactor(args.out, len(x), eps)
	s.code.call(fnRmsScale, unsafe.Pointer(&args))
}

// SiLUMul sets dst[i] to gate[i] * sigmoid(gate[i]) * up[i]. dst may be either input.
func (s *Set) SiLUMul(dst, gate, up []float32) {
	same("silu", len(dst), len(gate), len(up))
	if s.code == nil {
		siluMulPortable(dst, gate, up)
		return
	}
	args := rowArgs{a: at(dst), b: at(gate), c: at(up), n: len(dst)}
	s.code.call(fnSiluMul, unsafe.Pointer(&args))
}

// RoPE rotates the pairs (x[i], x[i+h]) of one head by the angles whose cosines and sines are given;
// h = len(x)/2 = len(cos) = len(sin). The half-split pairing is that of Llama checkpoints in the
// Hugging Face layout.
func (s *Set) RoPE(x, cos, sin []float32) {
	same("rope", len(x)/2, len(cos), len(sin))
	if s.code == nil {
		ropePortable(x, cos, sin)
		return
	}
	h := len(x) / 2
	args := rowArgs{a: at(x), b: at(x[h:]), c: at(cos), d: at(sin), n: h}
	s.code.call(fnRope, unsafe.Pointer(&args))
}

// Axpy adds a*x to y.
func (s *Set) Axpy(y []float32, a float32, x []float32) {
	same("axpy", len(y), len(x))
	if s.code == nil {
		axpyPortable(y, a, x)
		return
	}
	args := rowArgs{a: at(y), b: at(x), n: len(y), in: a}
	s.code.call(fnAxpy, unsafe.Pointer(&args))
}

// Scale multiplies y by a.
func (s *Set) Scale(y []float32, a float32) {
	if s.code == nil {
		scalePortable(y, a)
		return
	}
	args := rowArgs{a: at(y), n: len(y), in: a}
	s.code.call(fnScale, unsafe.Pointer(&args))
}

// Add adds x to y.
func (s *Set) Add(y, x []float32) {
	same("add", len(y), len(x))
	if s.code == nil {
		addPortable(y, x)
		return
	}
	args := rowArgs{a: at(y), b: at(x), n: len(y)}
	s.code.call(fnAdd, unsafe.Pointer(&args))
}

// Mul multiplies y by x, element by element.
func (s *Set) Mul(y, x []float32) {
	same("mul", len(y), len(x))
	if s.code == nil {
		mulPortable(y, x)
		return
	}
	args := rowArgs{a: at(y), b: at(x), n: len(y)}
	s.code.call(fnMul, unsafe.Pointer(&args))
}
