package verify

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Comparing a model with an equally good one passes, a planted regression of twice the margin fails.
func TestGateDoesNotFlap(t *testing.T) {
	const margin = 0.01
	run := func(seed uint64, shift float64) Verdict {
		rng := rand.New(rand.NewPCG(seed, 9))
		chunks := make([]chunk, 64)
		for i := range chunks {
			chunks[i] = chunk{n: 255, nllB: (shift + 0.01*rng.NormFloat64()) * 255}
		}
		diff := func(c *chunk) float64 { return c.nllB - c.nllA }
		m := Evidence{Value: ratio(chunks, diff), Resamples: estimateMean(chunks, diff).at, Units: len(chunks)}
		return Evaluate(Limits{"perplexity_increase": margin}, map[string]Evidence{"perplexity_increase": m}).Verdict
	}
	var passes, fails int
	for seed := range uint64(100) {
		if run(seed, 0) == Pass {
			passes++
		}
		if run(seed, 2*margin) == Fail {
			fails++
		}
	}
	if passes < 99 || fails < 95 {
		t.Errorf("%d of 100 equal models pass, %d of 100 regressions fail", passes, fails)
	}
}

// A package that lies exactly on its limits is let through, and is refused, in one case of twenty at
// most, however often the sample is doubled and however many limits there are. The binomial bound
// for 1000 tries at 5 % is 64 (97.5 %); deciding each look and each limit at 5 % gives far more. The
// bounds are exact here; TestGateCoverage is about those that chunks give.
func TestGateKeepsItsRisk(t *testing.T) {
	const tries, most, limit = 1000, 64, 0.02
	standard := around(0, 1).Resamples
	seen := func(x []float64, looks int) Evidence { // of a figure whose samples have deviation 1
		var m Evidence
		for _, v := range x {
			m.Value += v / float64(len(x))
		}
		m.Units, m.Looks, m.Resamples = len(x), looks, make([]float64, len(standard))
		for i, z := range standard {
			m.Resamples[i] = m.Value + z/math.Sqrt(float64(len(x)))
		}
		return m
	}
	sample := func(rng *rand.Rand, n int) []float64 {
		x := make([]float64, n)
		for i := range x {
			x[i] = limit + rng.NormFloat64()
		}
		return x
	}
	for _, c := range []struct {
		looks   int
		careful bool
	}{{4, true}, {1, false}} {
		got := map[Verdict]int{}
		for seed := range uint64(tries) {
			x := sample(rand.New(rand.NewPCG(seed, 3)), 128)
			for n := 16; ; n *= 2 {
				v := Evaluate(Limits{"kl_mean": limit}, map[string]Evidence{"kl_mean": seen(x[:n], c.looks)}).Verdict
				if v != Inconclusive || n == len(x) {
					got[v]++
					break
				}
			}
		}
		if c.careful != (got[Pass] <= most && got[Fail] <= most) {
			t.Errorf("four looks, planned %d: %v of %d", c.looks, got, tries)
		}
	}
	many := map[Verdict]int{}
	alone := 0
	for seed := range uint64(tries) {
		rng := rand.New(rand.NewPCG(seed, 4))
		l, have, fails := Limits{}, map[string]Evidence{}, false
		for _, name := range []string{"kl_mean", "kl_p99", "perplexity_increase", "top1"} {
			l[name], have[name] = limit, seen(sample(rng, 64), 1)
			fails = fails || Evaluate(Limits{name: limit}, have).Verdict == Fail
		}
		many[Evaluate(l, have).Verdict]++
		if fails {
			alone++
		}
	}
	if many[Pass] > most || many[Fail] > most || alone <= 2*most {
		t.Errorf("four limits: %v of %d; each alone would fail %d", many, tries, alone)
	}
}

// A machine on which equal models differ by more than a factor of two can still tell a million.
func TestNoise(t *testing.T) {
	m := around(1, .01)
	m.Noise = 1.2
	for _, c := range []struct {
		limit float64
		want  Verdict
	}{{1e6, Fail}, {2.3, Fail}, {2.1, Inconclusive}, {1, Inconclusive}, {.5, Inconclusive}, {.4, Pass}, {1e-6, Pass}} {
		if got := Evaluate(map[string]float64{"decode_speedup": c.limit}, map[string]Evidence{"decode_speedup": m}); got.Verdict != c.want {
			t.Errorf("limit %v: %s, want %s", c.limit, got.Verdict, c.want)
		}
	}
}

// around is evidence that looks normal, with 95 % bounds 1.645 standard errors away.
func around(value, se float64) Evidence {
	x := make([]float64, 9999)
	for i := range x {
		p := (float64(i) + 0.5) / float64(len(x))
		x[i] = value + se*math.Sqrt2*math.Erfinv(2*p-1)
	}
	return Evidence{Value: value, Resamples: x, Units: 64}
}

func TestEvaluate(t *testing.T) {
	noisy := around(1.5, 0.01)
	noisy.Noise = 0.1
	few := around(.04, .0001)
	few.Units = 4 // 2^-4 is more than 5 %
	have := map[string]Evidence{
		"kl_mean": around(.04, .003), "kl_p99": few, "top1": around(.9, .012), "size_ratio": Exact(.31),
		"decode_speedup": noisy,
	}
	for _, c := range []struct {
		name  string
		limit float64
		want  Verdict
		bound float64
	}{
		{"kl_mean", .05, Pass, .04 + 1.645*.003},
		{"kl_mean", .041, Inconclusive, .04 + 1.645*.003},
		{"kl_mean", .03, Fail, .04 - 1.645*.003},
		{"kl_p99", 1, Inconclusive, .04 + 1.645*.0001},
		{"kl_p99", .001, Inconclusive, .04 + 1.645*.0001},
		{"top1", .85, Pass, .9 - 1.645*.012},
		{"top1", .89, Inconclusive, .9 - 1.645*.012},
		{"top1", .95, Fail, .9 + 1.645*.012},
		{"size_ratio", .31, Pass, .31},
		{"size_ratio", .30, Fail, .31},
		{"decode_speedup", 1.2, Pass, 1.5 - 1.645*.01},
		{"decode_speedup", 1.4, Inconclusive, 1.5 - 1.645*.01}, // nearer than the noise, though surely above
		{"decode_speedup", 1.6, Inconclusive, 1.5 - 1.645*.01},
		{"decode_speedup", 2, Fail, 1.5 + 1.645*.01},
		{"prefill_speedup", 1, Inconclusive, 0}, // not measured
	} {
		g := Evaluate(Limits{c.name: c.limit}, have)
		k := g.Checks[0]
		if g.Verdict != c.want || math.Abs(k.Bound-c.bound) > 0.002*math.Abs(c.bound) {
			t.Errorf("%s %v: %s, want %s with bound %v (%+v)", c.name, c.limit, g.Verdict, c.want, c.bound, k)
		}
		explained := c.want == Inconclusive && (c.name == "kl_p99" || c.name == "decode_speedup" || c.name == "prefill_speedup")
		if explained != (k.Note != "") {
			t.Errorf("%s %v: note %q", c.name, c.limit, k.Note)
		}
	}
	if g := Evaluate(nil, have); g.Verdict != None {
		t.Errorf("no limits: %s", g.Verdict)
	}
	if err := CheckLimits(Limits{"kl_maen": 1}); err == nil {
		t.Error("unknown gate accepted")
	}
	if err := CheckLimits(Limits{"top1": 93}); err == nil {
		t.Error("top1 of 93 accepted: it is a fraction")
	}
}

// Holm by hand: with probabilities 0.01, 0.02 and 0.04 of being within their limits, three limits at
// 5 % need 0.05/3, 0.05/2 and 0.05: all fail. With 0.02, 0.02, 0.02 the first is above 0.05/3 and
// none fails, though each alone would.
func TestEvaluateIsHolm(t *testing.T) {
	names := []string{"kl_mean", "kl_p99", "perplexity_increase"}
	for _, c := range []struct {
		p    [3]float64
		want Verdict
	}{{[3]float64{.01, .02, .04}, Fail}, {[3]float64{.02, .02, .02}, Inconclusive}} {
		l, have := Limits{}, map[string]Evidence{}
		for i, name := range names {
			x := make([]float64, 9999)
			for j := range x {
				x[j] = float64(j) / float64(len(x)) // uniform: within the limit p are p of them
			}
			l[name], have[name] = c.p[i], Evidence{Value: .5, Resamples: x, Units: 64}
		}
		for _, k := range Evaluate(l, have).Checks {
			if k.Verdict != c.want {
				t.Errorf("%v: %s is %s, want %s", c.p, k.Name, k.Verdict, c.want)
			}
		}
	}
}
