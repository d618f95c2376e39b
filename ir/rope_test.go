package ir

import (
	"math"
	"slices"
	"testing"
)

func TestFactors(t *testing.T) {
	var none *RopeScaling
	if none.Factors(10000, 64) != nil || (&RopeScaling{Kind: "linear", Factor: 2}).Factors(10000, 64) != nil {
		t.Error("only llama3 scaling has factors")
	}
	// Llama 3.1: the fastest pairs turn as before, the slowest an eighth as fast.
	f := (&RopeScaling{Kind: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, Original: 8192}).Factors(500000, 128)
	if len(f) != 64 || f[0] != 1 || f[28] != 1 || f[29] <= 1 || f[35] != 8 || f[63] != 8 {
		t.Errorf("%v", f)
	}
}

func TestPower(t *testing.T) {
	for _, base := range []float64{10000, 500000, 1e6, 2} {
		for i := range 128 {
			e := float32(i) / 128
			got, want := power(base, e), math.Pow(base, float64(e))
			if math.Abs(got/want-1) > 1e-14 {
				t.Errorf("%v^%v = %v, want %v", base, e, got, want)
			}
		}
	}
}

// Expected speeds: the formulas of modeling_rope_utils.py worked out in double precision. For llama3
// with original 32, low 1, high 4, factor 8 the wavelengths 32 and 8 part the three cases.
func TestRopeSpeeds(t *testing.T) {
	d := &Decoder{HeadDim: 32, RopeTheta: 500000, RopeScaling: &RopeScaling{Kind: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, Original: 32}}
	cases := [3]int{}
	for i, got := range d.RopeSpeeds() {
		f := math.Pow(500000, -float64(2*i)/32)
		wave := 2 * math.Pi / f
		want := f
		switch {
		case wave > 32:
			want = f / 8
			cases[2]++
		case wave >= 8:
			smooth := (32/wave - 1) / (4 - 1)
			want = (1-smooth)*f/8 + smooth*f
			cases[1]++
		default:
			cases[0]++
		}
		if math.Abs(float64(got)/want-1) > 1e-6 {
			t.Errorf("speed %d is %v, want %v", i, got, want)
		}
	}
	if cases[0] == 0 || cases[1] == 0 || cases[2] == 0 {
		t.Errorf("cases %v: one is not tried", cases)
	}
	plain := (&Decoder{HeadDim: 8, RopeTheta: 10000}).RopeSpeeds()
	linear := (&Decoder{HeadDim: 8, RopeTheta: 10000, RopeScaling: &RopeScaling{Kind: "linear", Factor: 4}}).RopeSpeeds()
	factors := (&Decoder{HeadDim: 8, RopeTheta: 10000, RopeFactors: []float32{1, 2, 4, 8}}).RopeSpeeds()
	both := (&Decoder{HeadDim: 8, RopeTheta: 10000, RopeFactors: []float32{1, 2, 4, 8}, RopeScaling: &RopeScaling{Kind: "linear", Factor: 4}}).RopeSpeeds()
	for i, want := range []float64{1, 0.1, 0.01, 0.001} {
		if math.Abs(float64(plain[i])/want-1) > 1e-7 {
			t.Errorf("speed %d is %v, want %v", i, plain[i], want)
		}
		if linear[i] != plain[i]/4 {
			t.Errorf("linear speed %d is %v, want a quarter of %v", i, linear[i], plain[i])
		}
		if both[i] != factors[i]/4 {
			t.Errorf("speed %d with factors and linear scaling is %v, want a quarter of %v", i, both[i], factors[i])
		}
		if factors[i] != plain[i]/float32(int(1)<<i) {
			t.Errorf("speed %d with factor %d is %v, plain %v", i, 1<<i, factors[i], plain[i])
		}
	}
	// Factors alone give the same speeds but for the last bits; with the scaling beside them, as GGUF
	// files are read, all bits are the same.
	packed := *d
	packed.RopeFactors = d.RopeScaling.Factors(d.RopeTheta, d.HeadDim)
	if got, want := packed.RopeSpeeds(), d.RopeSpeeds(); !slices.Equal(got, want) {
		t.Errorf("with factors %v, by scaling %v", got, want)
	}
	packed.RopeScaling = nil
	for i, got := range packed.RopeSpeeds() {
		if want := d.RopeSpeeds()[i]; math.Abs(float64(got/want-1)) > 3e-7 {
			t.Errorf("speed %d by factors is %v, by scaling %v", i, got, want)
		}
	}
}
