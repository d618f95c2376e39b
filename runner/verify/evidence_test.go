package verify

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/student"
)

// Packages exactly at their limit, with chunks that differ as drawn, must hardly ever get a verdict:
// the truth is known by formula, the chunks go the way of measured ones. The rates allowed are in
// percent, of passes and of failures; 1000 tries tell them to 0.7.
func TestGateCoverage(t *testing.T) {
	const tries, per = 1000, 255
	type rates struct{ pass, fail float64 }
	for _, c := range []struct {
		name   string
		draw   func(z float64) float64
		truth  float64
		chunks []int
		most   rates
	}{
		{"normal", func(z float64) float64 { return 1 + .3*z }, 1, []int{8, 16, 64}, rates{6, 6}},
		{"lognormal 0.5", func(z float64) float64 { return math.Exp(z / 2) }, math.Exp(.125), []int{16, 64}, rates{6, 6}},
		{"lognormal 0.5", func(z float64) float64 { return math.Exp(z / 2) }, math.Exp(.125), []int{8}, rates{8, 6}},
		{"lognormal 1", math.Exp, math.Exp(.5), []int{8, 16, 64}, rates{10, 6}},
	} {
		for _, n := range c.chunks {
			got := map[Verdict]float64{}
			chunks := make([]chunk, n)
			for seed := range uint64(tries) {
				rng := rand.New(rand.NewPCG(seed, 7))
				for i := range chunks {
					chunks[i] = chunk{n: per, kl: per * c.draw(rng.NormFloat64())}
				}
				kl := func(x *chunk) float64 { return x.kl }
				m := Evidence{Value: ratio(chunks, kl), Resamples: estimateMean(chunks, kl).at, Units: n}
				got[Evaluate(Limits{"kl_mean": c.truth}, map[string]Evidence{"kl_mean": m}).Verdict] += 100. / tries
			}
			t.Logf("%s, %d chunks: %.1f %% pass, %.1f %% fail", c.name, n, got[Pass], got[Fail])
			if got[Pass] > c.most.pass || got[Fail] > c.most.fail {
				t.Errorf("%s, %d chunks: %.1f %% pass and %.1f %% fail, no more than %v expected", c.name, n, got[Pass], got[Fail], c.most)
			}
		}
	}
}

// The same for the 99th percentile. The KL of a token is lognormal, around a level of its chunk that
// is lognormal too, so the percentile over all text is exp(2.3263 s) with the s of both. One standard
// deviation of 400 tries is 1.1 %.
func TestQuantileCoverage(t *testing.T) {
	const tries, per = 400, 255
	for _, c := range []struct {
		chunks int
		spread float64 // of the levels of chunks
	}{{16, 0}, {16, .5}, {64, .5}, {16, 1}} {
		truth := math.Exp(2.326348 * math.Hypot(c.spread, 1.5))
		got := map[Verdict]float64{}
		values := make([]float32, c.chunks*per)
		for seed := range uint64(tries) {
			rng := rand.New(rand.NewPCG(seed, 8))
			level := 0.0
			for i := range values {
				if i%per == 0 {
					level = c.spread * rng.NormFloat64()
				}
				values[i] = float32(math.Exp(level + 1.5*rng.NormFloat64()))
			}
			m := Evidence{Resamples: estimateQuantile(values, c.chunks, .99).at, Units: c.chunks}
			got[Evaluate(Limits{"kl_p99": truth}, map[string]Evidence{"kl_p99": m}).Verdict] += 100. / tries
		}
		t.Logf("levels %v, %d chunks: %.1f %% pass, %.1f %% fail", c.spread, c.chunks, got[Pass], got[Fail])
		if got[Pass] > 6.5 || got[Fail] > 7 {
			t.Errorf("levels %v, %d chunks: %.1f %% pass and %.1f %% fail of 5 %% each", c.spread, c.chunks, got[Pass], got[Fail])
		}
	}
}

// A bound is the quantile of its level: Student's t against a printed table (NIST/SEMATECH e-Handbook,
// 1.3.6.7.2).
func TestBound(t *testing.T) {
	for _, c := range []struct {
		df    int
		p, at float64
	}{{1, .95, 6.314}, {7, .95, 1.895}, {7, .99, 2.998}, {15, .95, 1.753}, {15, .975, 2.131}, {63, .99, 2.387}, {100, .999, 3.174}} {
		q := student.Quantiles(c.df, quantiles)
		m := Evidence{Resamples: q}
		if lo, hi := m.bound(1-c.p, true), m.bound(1-c.p, false); math.Abs(hi-c.at) > .005*c.at || lo != -hi {
			t.Errorf("%d degrees of freedom: %v and %v, want %v", c.df, lo, hi, c.at)
		}
		if !slices.IsSorted(q) {
			t.Errorf("%d degrees of freedom: out of order", c.df)
		}
	}
}

// Hall's transformation, written out, takes back what hall does.
func TestHall(t *testing.T) {
	for _, skew := range []float64{-3, -.5, 0, 1e-12, .5, 3} {
		for _, want := range []float64{-4, -1.645, 0, 1, 3} {
			const n = 16
			x := hall(want, skew, n)
			a := skew / 3
			if got := x + a*x*x/math.Sqrt(n) + a*a*x*x*x/3/n + skew/6/math.Sqrt(n); math.Abs(got-want) > 1e-9 {
				t.Errorf("skewness %v: %v comes back as %v", skew, want, got)
			}
		}
	}
}

// A package that differs nowhere is known exactly, and few or equal chunks give no nonsense.
func TestEstimateEdges(t *testing.T) {
	kl := func(x *chunk) float64 { return x.kl }
	if e := estimateMean(make([]chunk, 1), kl); e.at != nil {
		t.Errorf("one chunk: %v", e.at)
	}
	for n := 2; n < 12; n++ {
		chunks := make([]chunk, n)
		for i := range chunks {
			chunks[i] = chunk{n: 4, kl: 8}
		}
		if e := estimateMean(chunks, kl); e.se != 0 || e.at[0] != 2 || e.at[len(e.at)-1] != 2 {
			t.Errorf("%d equal chunks: %v, %v .. %v", n, e.se, e.at[0], e.at[len(e.at)-1])
		}
		chunks[0].kl = 80
		e := estimateMean(chunks, kl)
		if !slices.IsSorted(e.at) || math.IsNaN(e.at[0]) || math.IsInf(e.at[0], 0) || math.IsInf(e.at[len(e.at)-1], 0) {
			t.Errorf("%d chunks: not finite and ascending", n)
		}
		if q := estimateQuantile(make([]float32, 5*n), n, .99); q.at[0] != 0 || q.at[len(q.at)-1] != 0 {
			t.Errorf("%d chunks without a difference: %v .. %v", n, q.at[0], q.at[len(q.at)-1])
		}
	}
}

// Looks at too few chunks for a verdict cost nothing.
func TestLooks(t *testing.T) {
	l := Limits{"kl_mean": 1}
	for _, c := range []struct{ first, most, want int }{{16, 128, 4}, {16, 16, 1}, {6, 16, 2}, {4, 16, 2}, {1, 4, 1}, {0, 9, 1}, {12, 24, 2}, {16, 20, 2}, {64, 10, 1}} {
		if got := looks(c.first, c.most, l); got != c.want {
			t.Errorf("from %d to %d: %d looks, want %d", c.first, c.most, got, c.want)
		}
	}
	if got := looks(16, 128, Limits{"size_ratio": 1}); got != 1 {
		t.Errorf("%d looks at a size", got)
	}
}
