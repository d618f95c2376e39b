package ir

import "math"

// RopeSpeeds are the HeadDim/2 rotation speeds in radians per position, in float32 as transformers
// computes them, since position times speed amplifies the last bit of a speed. A model and its GGUF,
// which holds the factors, rotate by the same bits.
func (d *Decoder) RopeSpeeds() []float32 {
	f := speeds(d.RopeTheta, d.HeadDim)
	factors := d.RopeFactors
	if factors == nil {
		factors = d.RopeScaling.Factors(d.RopeTheta, d.HeadDim)
	}
	for i, by := range factors {
		f[i] /= by
	}
	if s := d.RopeScaling; factors == nil && s != nil && s.Kind == "linear" {
		for i := range f {
			f[i] /= float32(s.Factor)
		}
	}
	return f
}

// speeds are those without scaling: theta^(-2i/headDim).
func speeds(theta float64, headDim int) []float32 {
	f := make([]float32, headDim/2)
	for i := range f {
		f[i] = 1 / float32(power(theta, float32(2*i)/float32(headDim)))
	}
	return f
}

// Factors are the divisors of the headDim/2 RoPE frequencies that the scaling amounts to, in
// float32: what GGUF stores as rope_freqs.weight. A nil receiver and kinds other than llama3 give
// nil.
//
// A frequency whose wavelength is longer than Original/LowFreq positions is divided by Factor, one
// shorter than Original/HighFreq stays, and those between go over smoothly (transformers'
// modeling_rope_utils.py; the order of operations is that of llama.cpp's converter).
func (s *RopeScaling) Factors(theta float64, headDim int) []float32 {
	if s == nil || s.Kind != "llama3" {
		return nil
	}
	long, short := float64(s.Original)/s.LowFreq, float64(s.Original)/s.HighFreq
	f := speeds(theta, headDim)
	for i, speed := range f {
		wave := float32(2*math.Pi) / speed
		switch {
		case float64(wave) < short:
			f[i] = 1
		case float64(wave) > long:
			f[i] = float32(s.Factor)
		default:
			smooth := (float32(s.Original)/wave - float32(s.LowFreq)) / float32(s.HighFreq-s.LowFreq)
			f[i] = 1 / (float32((1-smooth)/float32(s.Factor)) + smooth)
		}
	}
	return f
}

// power is base^e for e in [0,1). It multiplies the square roots base^(1/2), base^(1/4), ... that
// the binary digits of e name: both operations round alike on every machine, unlike math.Pow, and
// the result ends up in files.
func power(base float64, e float32) float64 {
	p, root := 1.0, base
	for rest := float64(e); rest > 0; {
		root = math.Sqrt(root)
		if rest *= 2; rest >= 1 {
			p *= root
			rest--
		}
	}
	return p
}
