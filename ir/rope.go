package ir

import "math"

// RopeSpeeds are the HeadDim/2 rotation speeds in radians per position, computed in float32 step by
// step as transformers does (modeling_rope_utils.py), since position times speed amplifies the last
// bit of a speed. RopeFactors count where the scaling that they come from is not known: dividing by
// them gives other last bits, and a model and its own GGUF shall rotate alike.
func (d *Decoder) RopeSpeeds() []float32 {
	f := speeds(d.RopeTheta, d.HeadDim)
	s := d.RopeScaling
	if s == nil || s.Kind != "llama3" {
		for i, by := range d.RopeFactors {
			f[i] /= by
		}
	}
	switch {
	case s == nil:
	case s.Kind == "linear": // beside factors, too: llama.cpp applies both
		for i := range f {
			f[i] /= float32(s.Factor)
		}
	case s.Kind == "llama3":
		long, short := float32(float64(s.Original)/s.LowFreq), float32(float64(s.Original)/s.HighFreq)
		for i, v := range f {
			wave := float32(2*math.Pi) / v
			switch {
			case wave > long:
				f[i] = v / float32(s.Factor)
			case wave >= short:
				smooth := s.smooth(wave)
				f[i] = float32(float32(1-smooth)*v)/float32(s.Factor) + float32(smooth*v)
			}
		}
	}
	return f
}

// smooth is the share of the unscaled speed for a wavelength between those that are scaled and those
// that stay.
func (s *RopeScaling) smooth(wave float32) float32 {
	return (float32(s.Original)/wave - float32(s.LowFreq)) / float32(s.HighFreq-s.LowFreq)
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
			smooth := s.smooth(wave)
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
