package runner

import "math"

// angles writes the cosines and sines of one position; cos and sin have one place per speed.
func angles(cos, sin, freqs []float32, pos int) {
	for i, f := range freqs {
		s, c := sincos(float64(float32(pos) * f))
		cos[i], sin[i] = float32(c), float32(s)
	}
}

// Pi/4 in three parts of 30, 29 and 53 bits, so that multiples below 2^23 subtract exactly, and the
// coefficients of the sine and cosine on |z| <= Pi/4 (Cephes, Moshier).
const (
	quarter1 = 7.85398125648498535156e-1
	quarter2 = 3.77489470793079817668e-8
	quarter3 = 2.69515142907905952645e-15
)

var (
	sinCoef = [...]float64{1.58962301576546568060e-10, -2.50507477628578072866e-8, 2.75573136213857245213e-6, -1.98412698295895385996e-4, 8.33333333332211858878e-3, -1.66666666666666307295e-1}
	cosCoef = [...]float64{-1.13585365213876817300e-11, 2.08757008419747316778e-9, -2.75573141792967388112e-7, 2.48015872888517045348e-5, -1.38888888888730564116e-3, 4.16666666666665929218e-2}
)

// sincos is sine and cosine of x >= 0 to about 2^-52, by the method of package math, with every
// product rounded before it is added: math.Sin may be fused on some machines and give other bits.
func sincos(x float64) (sin, cos float64) {
	if math.IsInf(x, 0) || math.IsNaN(x) || x > 1<<30 {
		return math.Sincos(x) // positions are far below this
	}
	j := uint64(x * (4 / math.Pi))
	j += j & 1 // the nearest even octant
	y := float64(j)
	z := ((x - float64(y*quarter1)) - float64(y*quarter2)) - float64(y*quarter3)
	zz := float64(z * z)
	s, c := sinCoef[0], cosCoef[0]
	for i := 1; i < len(sinCoef); i++ {
		s = float64(s*zz) + sinCoef[i]
		c = float64(c*zz) + cosCoef[i]
	}
	s = z + float64(float64(z*zz)*s)
	c = 1 - float64(0.5*zz) + float64(float64(zz*zz)*c)
	switch j & 7 {
	case 2:
		return c, -s
	case 4:
		return -s, -c
	case 6:
		return -c, s
	}
	return s, c
}
