package kernels

import "math"

// Double-precision exp for sums of probabilities: Cody-Waite reduction by ln 2 in two parts, then
// the Taylor polynomial of degree 13 on |r| <= ln(2)/2, whose remainder is below 5e-18.
const (
	ln2Hi64 = 6.93147180369123816490e-01 // 0x3fe62e42fee00000
	ln2Lo64 = 1.90821492927058770002e-10 // 0x3dea39ef35793c76
	expLo64 = -708                       // below: 0
)

var expCoef64 = [...]float64{
	1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880, 1. / 40320, 1. / 5040,
	1. / 720, 1. / 120, 1. / 24, 1. / 6, 1. / 2, 1, 1,
}

// exp64 is exp(x) for x <= 0, within 2 units in the last place; 0 below -708.
func exp64(x float64) float64 {
	if !(x >= expLo64) {
		if x != x {
			return x
		}
		return 0
	}
	n := math.RoundToEven(x * log2e)
	r := x - float64(n*ln2Hi64)
	r -= float64(n * ln2Lo64)
	p := expCoef64[0]
	for _, c := range expCoef64[1:] {
		p = float64(p*r) + c
	}
	return p * math.Float64frombits(uint64(int64(n)+1023)<<52)
}

// log64 is ln(x), within 2 units in the last place. It exists because math.Log is assembly on some
// machines and fuses steps on others, and Portable promises the same bits on all.
//
// x = f 2^e with f in [sqrt(1/2), sqrt(2)); ln f = 2 atanh(s) with s = (f-1)/(f+1), |s| < 0.172, whose
// series is cut where terms fall below 1e-17.
func log64(x float64) float64 {
	if !(x > 0) || math.IsInf(x, 1) {
		return math.Log(x) // exact answers: -Inf, +Inf, NaN
	}
	f, e := math.Frexp(x)
	if f < math.Sqrt2/2 {
		f *= 2
		e--
	}
	s := (f - 1) / (f + 1)
	z := float64(s * s)
	p := 1. / 23
	for d := 21; d >= 3; d -= 2 {
		p = float64(p*z) + 1/float64(d)
	}
	p = float64(float64(p*z)*s) + s
	return (float64(2*p) + float64(float64(e)*ln2Lo64)) + float64(float64(e)*ln2Hi64)
}

func sumExpPortable(x []float32, top float32) float64 {
	var s float64
	for _, v := range x {
		s += exp64(float64(v) - float64(top))
	}
	return s
}

// sumExpPairPortable gives the sums of exp(p-topP) and exp(q-topQ), and of exp(p-topP)*(p-q).
func sumExpPairPortable(p, q []float32, topP, topQ float32) (sp, sq, cross float64) {
	q = q[:len(p)]
	for i, v := range p {
		e := exp64(float64(v) - float64(topP))
		sp += e
		sq += exp64(float64(q[i]) - float64(topQ))
		if e != 0 { // -Inf - -Inf would be NaN; an impossible outcome adds nothing
			cross += float64(e * (float64(v) - float64(q[i])))
		}
	}
	return sp, sq, cross
}

func deviationPortable(x, y []float32) (d Deviation) {
	y = y[:len(x)]
	for i, v := range x {
		a, b := float64(v), float64(y[i])
		e := a - b
		d.Signal += float64(a * a)
		d.Other += float64(b * b)
		d.Dot += float64(a * b)
		d.Noise += float64(e * e)
		d.Max = max(d.Max, math.Abs(e))
	}
	return d
}
