package runner

import (
	"math"

	"github.com/pare-dev/pare/ir"
)

// invFreqs are the HeadDim/2 rotation speeds in radians per position, computed in float32 step by
// step as transformers does (modeling_rope_utils.py), since position times speed amplifies the last
// bit of a speed.
func invFreqs(d *ir.Decoder) []float32 {
	half := d.HeadDim / 2
	f := make([]float32, half)
	for i := range f {
		f[i] = 1 / float32(power(d.RopeTheta, float32(2*i)/float32(d.HeadDim)))
	}
	if d.RopeFactors != nil {
		for i := range f {
			f[i] /= d.RopeFactors[i]
		}
		return f
	}
	s := d.RopeScaling
	if s == nil {
		return f
	}
	switch s.Kind {
	case "linear":
		for i := range f {
			f[i] /= float32(s.Factor)
		}
	case "llama3":
		original := float64(s.Original)
		longest, shortest := float32(original/s.LowFreq), float32(original/s.HighFreq) // wavelengths
		for i, v := range f {
			wave := float32(2*math.Pi) / v
			switch {
			case wave > longest:
				f[i] = v / float32(s.Factor)
			case wave >= shortest:
				smooth := (float32(original)/wave - float32(s.LowFreq)) / float32(s.HighFreq-s.LowFreq)
				f[i] = float32(float32(1-smooth)*v)/float32(s.Factor) + float32(smooth*v)
			}
		}
	}
	return f
}

// power is base^e for e in [0,1). It multiplies the square roots base^(1/2), base^(1/4), ... that the
// binary digits of e name; both operations round alike on every machine, which math.Pow does not
// promise.
func power(base float64, e float32) float64 {
	p, root := 1.0, base
	for rest := float64(e); rest > 0; {
		root = math.Sqrt(root)
		rest *= 2
		if rest >= 1 {
			p *= root
			rest--
		}
	}
	return p
}

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
