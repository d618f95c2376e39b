package kernels

import "math"

func axpyPortable(y []float32, a float32, x []float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += float32(a * x[i])
	}
}

func scalePortable(y []float32, a float32) {
	for i := range y {
		y[i] *= a
	}
}

func addPortable(y, x []float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += x[i]
	}
}

func mulPortable(y, x []float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] *= x[i]
	}
}

func maxPortable(x []float32) float32 {
	m := float32(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

// softmaxPortable sums in four lanes, as dotPortable does.
func softmaxPortable(x []float32) {
	m := maxPortable(x)
	if math.IsInf(float64(m), -1) {
		m = 0 // a row of -Inf has no maximum to take away; it becomes NaN below, as it should
	}
	var s [4]float32
	for i, v := range x {
		e := exp32(v - m)
		x[i] = e
		s[i&3] += e
	}
	scalePortable(x, 1/((s[0]+s[2])+(s[1]+s[3])))
}

func rmsNormPortable(dst, x, weight []float32, eps float32) {
	r := rmsFactor(dotPortable(x, x), len(x), eps)
	x, weight = x[:len(dst)], weight[:len(dst)]
	for i := range dst {
		dst[i] = float32(x[i]*r) * weight[i]
	}
}

// rmsFactor is 1/sqrt(sum/n + eps). The root is taken in double precision, where it is correctly
// rounded on every machine, and rounded once more.
func rmsFactor(sum float32, n int, eps float32) float32 {
	return float32(1 / math.Sqrt(float64(sum/float32(n)+eps)))
}

func siluMulPortable(dst, gate, up []float32) {
	gate, up = gate[:len(dst)], up[:len(dst)]
	for i := range dst {
		g := gate[i]
		dst[i] = float32(g/(1+exp32(-g))) * up[i]
	}
}

func ropePortable(x, cos, sin []float32) {
	h := len(x) / 2
	lo, hi := x[:h], x[h:2*h]
	cos, sin = cos[:h], sin[:h]
	for i := range lo {
		a, b := lo[i], hi[i]
		lo[i] = float32(a*cos[i]) - float32(b*sin[i])
		hi[i] = float32(b*cos[i]) + float32(a*sin[i])
	}
}

// Coefficients of exp on |r| <= ln(2)/2, Cephes expf (Moshier): exp(r) = 1 + r + r^2 P(r).
const (
	log2e   = 1.44269504088896340736
	ln2Hi32 = 0.693359375 // 9 bits: n*ln2Hi32 is exact for every n that matters
	ln2Lo32 = -2.12194440e-4
	// exp32 is 0 below and +Inf above; results are never subnormal, so no level flushes differently.
	expLo32 = -87.336544
	expHi32 = 88.722839
)

func exp32(x float32) float32 {
	switch {
	case x != x:
		return x
	case x < expLo32:
		return 0
	case x > expHi32:
		return float32(math.Inf(1))
	}
	n := float32(math.RoundToEven(float64(float32(x * log2e))))
	r := x - float32(n*ln2Hi32)
	r -= float32(n * ln2Lo32)
	p := float32(1.9875691500e-4*r) + 1.3981999507e-3
	p = float32(p*r) + 8.3334519073e-3
	p = float32(p*r) + 4.1665795894e-2
	p = float32(p*r) + 1.6666665459e-1
	p = float32(p*r) + 5.0000001201e-1
	p = float32(p*float32(r*r)) + r
	p++
	// 2^n in two factors: n reaches 128, which one float cannot hold
	k := int32(n)
	h := k >> 1
	return p * math.Float32frombits(uint32(h+127)<<23) * math.Float32frombits(uint32(k-h+127)<<23)
}

func expPortable(dst, x []float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] = exp32(x[i])
	}
}
