package verify

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/pare-dev/pare/internal/kernels"
)

func logs(p ...float64) []float32 {
	x := make([]float32, len(p))
	for i, v := range p {
		x[i] = float32(math.Log(v)) + 3 // a constant shift of logits changes nothing
	}
	return x
}

// The metrics are tested first: a metric that lies makes every other test lie.
func TestCompareByHand(t *testing.T) {
	for _, k := range kernels.All() {
		t.Run(string(k.Level()), func(t *testing.T) { compareByHand(t, k) })
	}
}

func compareByHand(t *testing.T, k *kernels.Set) {
	p := compare(k, logs(.5, .5), logs(.9, .1), 1)
	if want := 0.5108256; math.Abs(p.kl-want) > 1e-6 { // 0.5 ln(.5/.9) + 0.5 ln(.5/.1)
		t.Errorf("KL = %v, want %v", p.kl, want)
	}
	if math.Abs(p.nllA-math.Ln2) > 1e-6 || math.Abs(p.nllB-math.Log(10)) > 1e-6 {
		t.Errorf("nll = %v, %v, want ln 2 and ln 10", p.nllA, p.nllB)
	}
	if !p.same { // a tie goes to index 0, which is also B's first
		t.Error("first ranks differ")
	}
	if q := compare(k, logs(.2, .8), logs(.8, .2), 0); q.same {
		t.Error("first ranks agree")
	}
	x := logs(.1, .2, .3, .4)
	if q := compare(k, x, x, 2); q.kl != 0 {
		t.Errorf("KL of a row with itself = %v", q.kl)
	}
	uniform := make([]float32, 4096)
	if q := compare(k, uniform, uniform, 17); math.Abs(math.Exp(q.nllA)-4096) > 1e-6 {
		t.Errorf("perplexity of a uniform guess over 4096 tokens = %v", math.Exp(q.nllA))
	}
	if h := entropy(uniform); math.Abs(h-math.Log(4096)) > 1e-9 {
		t.Errorf("entropy of a uniform row = %v", h)
	}
}

func TestQuantile(t *testing.T) {
	x := []float32{1, 2, 3, 4}
	for _, c := range []struct{ q, want float64 }{{0, 1}, {1, 4}, {.5, 2.5}, {.9, 3.7}} {
		if got := quantile(x, c.q); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("quantile(%v) = %v, want %v", c.q, got, c.want)
		}
	}
}

// The bootstrap's standard error of a mean of independent chunks is sd/sqrt(n).
func TestBootstrap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 400
	chunks := make([]chunk, n)
	var sum, square float64
	for i := range chunks {
		v := rng.NormFloat64() + 5
		chunks[i] = chunk{n: 255, kl: v * 255}
		sum += v
		square += v * v
	}
	mean := sum / n
	want := math.Sqrt((square/n - mean*mean) / n)
	se, lo, hi := bootstrap(chunks, func(c *chunk) float64 { return c.kl })
	if math.Abs(se-want) > 0.05*want {
		t.Errorf("standard error %v, want %v", se, want)
	}
	if math.Abs((hi-mean)/se-1.645) > 0.1 || math.Abs((mean-lo)/se-1.645) > 0.1 {
		t.Errorf("bounds %v, %v around %v are not the 5 %% and 95 %% points (se %v)", lo, hi, mean, se)
	}
}

// Algorithms for gates promise: comparing a model with an equally good one passes, a planted
// regression of twice the margin fails.
func TestGateDoesNotFlap(t *testing.T) {
	const margin = 0.01
	run := func(seed uint64, shift float64) Verdict {
		rng := rand.New(rand.NewPCG(seed, 9))
		chunks := make([]chunk, 64)
		for i := range chunks {
			chunks[i] = chunk{n: 255, nllB: (shift + 0.01*rng.NormFloat64()) * 255}
		}
		diff := func(c *chunk) float64 { return c.nllB - c.nllA }
		r := &Result{}
		r.Perplexity.LogRatio = ratio(chunks, diff)
		r.Perplexity.LogRatioSE, r.Perplexity.Lower95, r.Perplexity.Upper95 = bootstrap(chunks, diff)
		return Evaluate(r, Limits{"perplexity_increase": margin}, nil).Verdict
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

func TestEvaluate(t *testing.T) {
	r := &Result{KL: KL{Mean: .04, Lower95: .035, Upper95: .045}, Top1: Top1{Agreement: .9, Lower95: .88, Upper95: .92}, Bytes: Bytes{100, 31}}
	for _, c := range []struct {
		name  string
		limit float64
		want  Verdict
	}{
		{"kl_mean", .05, Pass},
		{"kl_mean", .041, Inconclusive},
		{"kl_mean", .03, Fail},
		{"top1", .85, Pass},
		{"top1", .89, Inconclusive},
		{"top1", .95, Fail},
		{"size_ratio", .31, Pass},
		{"size_ratio", .30, Fail},
		{"decode_speedup", 1.2, Pass},
		{"decode_speedup", 2, Fail},
		{"prefill_speedup", 1, Inconclusive}, // not measured
	} {
		g := Evaluate(r, Limits{c.name: c.limit}, map[string][3]float64{"decode_speedup": {1.5, 1.4, 1.6}})
		if g.Verdict != c.want {
			t.Errorf("%s %v: %s, want %s (%+v)", c.name, c.limit, g.Verdict, c.want, g.Checks)
		}
	}
	if g := Evaluate(r, nil, nil); g.Verdict != None {
		t.Errorf("no limits: %s", g.Verdict)
	}
	if err := CheckLimits(Limits{"kl_maen": 1}); err == nil {
		t.Error("unknown gate accepted")
	}
	if err := CheckLimits(Limits{"top1": 93}); err == nil {
		t.Error("top1 of 93 accepted: it is a fraction")
	}
}

func TestRepetition(t *testing.T) {
	for _, c := range []struct {
		ids  []int32
		want float64
	}{
		{[]int32{1, 2, 3}, 0},
		{[]int32{1, 2, 3, 4, 5, 6, 7}, 0},
		{[]int32{1, 2, 3, 4, 1, 2, 3, 4}, 0.2}, // the fifth of five sequences is the first again
		{[]int32{9, 9, 9, 9, 9}, 0.5},
	} {
		if got := repetition(c.ids); got != c.want {
			t.Errorf("repetition(%v) = %v, want %v", c.ids, got, c.want)
		}
	}
}
