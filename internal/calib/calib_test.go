package calib

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
)

//go:embed testdata/reference.json
var referenceJSON []byte

// values are the distributions of testdata/make_reference.py.
func values(name string) []float32 {
	const n = 20000
	quantile := func(f func(p float64) float64) []float32 {
		out := make([]float32, n)
		for i := range out {
			out[i] = float32(f((float64(i) + 0.5) / n))
		}
		return out
	}
	normal := func(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }
	switch name {
	case "relu":
		return quantile(func(p float64) float64 { return max(normal(p), 0) })
	case "laplace":
		return quantile(func(p float64) float64 { return math.Copysign(-math.Log(1-2*math.Abs(p-0.5)), p-0.5) })
	case "exponential":
		return quantile(func(p float64) float64 { return -math.Log(1 - p) })
	case "skewed":
		return quantile(func(p float64) float64 { return -math.Log(1-p) - 0.5 })
	case "uniform":
		return quantile(func(p float64) float64 { return 2*p - 1 })
	case "outlier":
		return append(quantile(normal), 100)
	}
	return quantile(normal)
}

func histogram(t testing.TB, x []float32) *Histogram {
	t.Helper()
	h := NewHistogram()
	if err := h.Add(x); err != nil {
		t.Fatal(err)
	}
	return h
}

func near(got, want, tol float64) bool { return math.Abs(got-want) <= tol }

// Ranges agree with what others choose (testdata/make_reference.py) up to the bins of both, which have
// different edges.
func TestReference(t *testing.T) {
	var reference map[string]map[string]json.RawMessage
	if err := json.Unmarshal(referenceJSON, &reference); err != nil {
		t.Fatal(err)
	}
	if len(reference) != 7 {
		t.Fatalf("%d distributions", len(reference))
	}
	for name, want := range reference {
		x := values(name)
		h := histogram(t, x)
		pair := func(key string) (r [2]float64) {
			if err := json.Unmarshal(want[key], &r); err != nil {
				t.Fatal(name, key, err)
			}
			return r
		}
		number := func(key string) (r float64) {
			if err := json.Unmarshal(want[key], &r); err != nil {
				t.Fatal(name, key, err)
			}
			return r
		}
		if float64(h.Min) != number("min") || float64(h.Max) != number("max") {
			t.Errorf("%s: extremes %v %v, want %v %v", name, h.Min, h.Max, number("min"), number("max"))
		}
		reach := max(-float64(h.Min), float64(h.Max))
		edge := reach/2048*2 + h.Width()
		for _, p := range []float64{99.873, 99.971} {
			for kind, g := range map[string]Grid{"symmetric": Int8Sym, "asymmetric": Uint8} {
				r := pair(fmt.Sprintf("percentile %v %s", p, kind))
				lo, hi := Range(h, Percentile, g, p)
				if g.Zero == nil && h.Min >= 0 {
					// Values of one sign lose both halves of the cut at their one end here.
					r[1] = float64(slices.Sorted(slices.Values(x))[int(math.Ceil(p/100*float64(len(x))))-1])
				}
				wantLo, wantHi := min(max(r[0], float64(h.Min)), 0), min(r[1], float64(h.Max))
				if !near(lo, wantLo, edge) || !near(hi, wantHi, edge) {
					t.Errorf("%s: percentile %v %s: [%v, %v], want [%v, %v] ± %v", name, p, kind, lo, hi, wantLo, wantHi, edge)
				}
			}
		}
		// The reference has 2048 bins to the maximum and tries every one from the 128th on. The candidates here
		// are a sixteenth of the levels apart, and the minimum is flat.
		lo, hi := h.entropyAt(128)
		first := 128 * (2*h.Width() - reach/2048)
		if got, want := max(-lo, hi), number("entropy"); !near(got, want, 0.13*want+max(first, 0)+edge) {
			t.Errorf("%s: entropy %v, want %v", name, got, want)
		}
		// The range of least error is not unique; its error is.
		lo, hi = Range(h, MSE, Uint8, 0)
		var sum float64
		a := Uint8.Affine(lo, hi)
		for _, v := range x {
			d := float64(v - a.Dequantize(Uint8.Quantize(a, v)))
			sum += d * d
		}
		if got, want := sum/float64(len(x)), number("mse"); got > want*1.02 {
			t.Errorf("%s: mean squared error %v over [%v, %v], the best is %v", name, got, lo, hi, want)
		}
	}
}

// The checks of the literature: uniform values are never clipped, a lone outlier always is.
func TestMethods(t *testing.T) {
	u := histogram(t, values("uniform"))
	for m := MinMax; m <= Average; m++ {
		for _, g := range []Grid{Uint8, Int8, Int8Sym} {
			lo, hi := Range(u, m, g, 99.99)
			if !near(lo, -1, 0.011) || !near(hi, 1, 0.011) {
				t.Errorf("uniform, %v: [%v, %v]", m, lo, hi)
			}
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, 200000, 200001)
	for i := range x {
		x[i] = float32(math.Abs(rng.NormFloat64()))
	}
	h := histogram(t, append(x, 100))
	for m, want := range map[Method][2]float64{MinMax: {100, 100}, Percentile: {3.7, 4.0}, Entropy: {3, 16.1}} {
		if _, hi := Range(h, m, Uint8, 99.99); hi < want[0] || hi > want[1] {
			t.Errorf("outlier, %v: %v, want %v", m, hi, want)
		}
	}
	if lo, hi := Range(NewHistogram(), MSE, Uint8, 0); lo != 0 || hi != 0 {
		t.Errorf("nothing seen: [%v, %v]", lo, hi)
	}
	for m, x := range map[Method][]float32{MinMax: {3}, MSE: {3}, Percentile: {0}, Entropy: {-2}} {
		lo, hi := Range(histogram(t, x), m, Uint8, 0)
		if wantLo, wantHi := min(float64(x[0]), 0), max(float64(x[0]), 0); !near(lo, wantLo, 0.01) || !near(hi, wantHi, 0.01) {
			t.Errorf("one value %v, %v: [%v, %v]", x, m, lo, hi)
		}
	}
}

// Counts depend on neither order nor batches nor on how histograms were merged.
func TestOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	x := make([]float32, 5000)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * math.Exp2(float64(rng.IntN(40)-30)))
	}
	want := histogram(t, x)
	var n uint64
	for i, c := range want.counts {
		n += c
		lo := float64(i-Bins) * want.Width()
		var exact uint64
		for _, v := range x {
			if float64(v) >= lo && float64(v) < lo+want.Width() {
				exact++
			}
		}
		if c != exact {
			t.Fatalf("bin at %v: %d, want %d", lo, c, exact)
		}
	}
	if n != uint64(len(x)) {
		t.Fatalf("%d values of %d", n, len(x))
	}
	for round := range 20 {
		rng.Shuffle(len(x), func(i, j int) { x[i], x[j] = x[j], x[i] })
		got, other := NewHistogram(), NewHistogram()
		for lo := 0; lo < len(x); {
			hi := min(len(x), lo+1+rng.IntN(700))
			h := got
			if rng.IntN(2) == 0 {
				h = other
			}
			if err := h.Add(x[lo:hi]); err != nil {
				t.Fatal(err)
			}
			lo = hi
		}
		got.Merge(other)
		if got.exp != want.exp || !slices.Equal(got.counts, want.counts) || got.Extremes != want.Extremes {
			t.Fatalf("round %d: another histogram", round)
		}
	}
}

func TestAffine(t *testing.T) {
	for _, c := range []struct {
		name   string
		g      Grid
		lo, hi float64
		scale  float32
		zero   int
	}{
		{"pixels", Uint8, 0, 255, 1, 0},
		{"zero is included", Uint8, 3, 255, 1, 0},
		{"asymmetric", Uint8, -1, 3, float32(4.0 / 255), 64},
		{"signed after ReLU", Int8, 0, 255, 1, -128},
		{"symmetric weights", Int8Sym, -127, 3, 1, 0},
		{"symmetric, unsigned", Uint8Sym, -12.8, 12, 0.1, 128},
		{"seven bits", Int7Sym, -32, 0, 0.5, 0},
		{"sixteen bits", Uint16, 0, 65535, 1, 0},
		{"nothing", Uint8, 0, 0, 1, 0},
		{"power of two, up", Grid{Min: -128, Max: 127, Zero: code(0), PowerOfTwo: true}, -1, 1, 1.0 / 64, 0},
	} {
		a := c.g.Affine(c.lo, c.hi)
		if a.Scale != c.scale || a.Zero != c.zero {
			t.Errorf("%s: %v, want %v %v", c.name, a, c.scale, c.zero)
		}
		if q := c.g.Quantize(a, 0); a.Dequantize(q) != 0 {
			t.Errorf("%s: zero is not exact", c.name)
		}
	}
	a := Affine{Scale: 2, Zero: 128} // the example of ONNX's QuantizeLinear
	x := []float32{0, 2, 4, 1000, -254, -1000}
	for i, want := range []int{128, 129, 130, 255, 1, 0} {
		if q := Uint8.Quantize(a, x[i]); q != want {
			t.Errorf("QuantizeLinear of %v is %d, want %d", x[i], q, want)
		}
	}
}

// A channel that counts three times is one that was added three times, on one goroutine and on two.
func TestCountRows(t *testing.T) {
	for _, times := range []int{1, 4000} {
		x := slices.Repeat([]float32{1, -3, 2, 40, 5, 0.25, 6, -80}, times) // channels 0 1
		h, want := NewHistogram(), NewHistogram()
		h.Cover(Extremes{Min: -80, Max: 40, Count: uint64(len(x))})
		if err := h.CountRows(context.Background(), x, []uint64{3, 1}); err != nil {
			t.Fatal(err)
		}
		for _, part := range [][]float32{x, slices.Repeat([]float32{1, 2, 5, 6}, 2*times)} {
			if err := want.Add(part); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(h.counts, want.counts) || h.Min != -80 || h.Max != 40 || h.Count != uint64(len(x)) {
			t.Errorf("%+v, %v", h.Extremes, h.exp)
		}
	}
}

func TestObservers(t *testing.T) {
	var m MovingAverage
	for _, b := range [][]float32{{-1, 10}, {-3, 20}, {0, 0}} {
		if err := m.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	// by hand: 10, then 10 + (20-10)/100, then * 0.99
	if lo, hi := m.Range(); !near(lo, -1.02*0.99, 1e-9) || !near(hi, 10.1*0.99, 1e-9) {
		t.Errorf("moving average [%v, %v]", lo, hi)
	}
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		h := NewHistogram()
		for name, err := range map[string]error{
			"histogram": h.Add([]float32{1, bad, 2}), "extremes": new(Extremes).Add([]float32{bad}),
			"average": new(MovingAverage).Add([]float32{0, bad}),
		} {
			if !errors.Is(err, fault.ErrNotFinite) {
				t.Errorf("%s: %v gives %v", name, bad, err)
			}
		}
	}
	for i, n := range MethodNames() {
		if m, err := LookupMethod(n); err != nil || m != Method(i) {
			t.Errorf("%s: %v %v", n, m, err)
		}
	}
	if _, err := LookupMethod("max"); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("unknown method: %v", err)
	}
}

func FuzzHistogram(f *testing.F) {
	f.Add([]byte{0, 0, 128, 63, 1, 0, 0, 0, 255, 255, 127, 127})
	f.Fuzz(func(t *testing.T, b []byte) {
		h := NewHistogram()
		var n uint64
		for ; len(b) >= 4; b = b[4:] {
			v := math.Float32frombits(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24)
			if h.Add([]float32{v}) == nil {
				n++
			}
		}
		if h.Count != n {
			t.Fatalf("%d values of %d", h.Count, n)
		}
		for m := MinMax; m <= Average; m++ {
			lo, hi := Range(h, m, Uint8, 0)
			if a := Uint8.Affine(lo, hi); !(lo <= 0 && hi >= 0 && a.Scale > 0) || math.IsInf(float64(a.Scale), 0) {
				t.Fatalf("%v: [%v, %v] scale %v", m, lo, hi, a.Scale)
			}
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	x := values("normal")
	h := NewHistogram()
	b.SetBytes(int64(4 * len(x)))
	for b.Loop() {
		_ = h.Add(x)
	}
}

// Extremes are those that a loop over all values finds, wherever they lie; what is not finite is found anywhere, too.
func TestExtremesAnywhere(t *testing.T) {
	for n := 1; n < 40; n++ {
		for at := range n {
			x := make([]float32, n)
			for i := range x {
				x[i] = float32(i%5) - 2
			}
			x[at] = 7
			var e Extremes
			if err := e.Add(x); err != nil {
				t.Fatal(err)
			}
			lo, hi := x[0], x[0]
			for _, v := range x {
				lo, hi = min(lo, v), max(hi, v)
			}
			if e.Min != lo || e.Max != hi || e.Count != uint64(n) {
				t.Fatalf("%v: %+v", x, e)
			}
			for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
				x[at] = float32(bad)
				if err := e.Add(x); !errors.Is(err, fault.ErrNotFinite) {
					t.Fatalf("%v at %d of %d: %v", bad, at, n, err)
				}
			}
		}
	}
}
