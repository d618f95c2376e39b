package bench

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Expected values: numpy.quantile(x, q) with its default, linear interpolation.
func TestQuantile(t *testing.T) {
	x := []float64{7, 1, 3, 10}
	for q, want := range map[float64]float64{0: 1, 0.1: 1.6, 0.5: 5, 0.9: 9.1, 0.99: 9.91, 1: 10} {
		if got := quantile(x, q); math.Abs(got-want) > 1e-12 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if x[0] != 7 || quantile(nil, 0.5) != 0 || quantile([]float64{4}, 0.9) != 4 {
		t.Error("input sorted, or a short one wrong")
	}
}

// Bounds are on the wrong side of the truth as rarely as they say, few rounds or many, at 5 % and at the
// 1 % that a gate with several limits needs, whether the rounds differ by noise, by a machine that slows
// down and recovers, or by other work that hits one of the two now and then. One standard deviation of
// 1000 experiments is 0.7 % and 0.3 %.
func TestRatioCoverage(t *testing.T) {
	const experiments, truth, noise = 1000, 1.5, 0.05
	for _, c := range []struct {
		name  string
		draw  func(rng *rand.Rand, round int) (a, b float64)
		wider float64 // than the bounds of a known normal distribution, at most
	}{
		{"noise", func(rng *rand.Rand, _ int) (a, b float64) {
			return math.Exp(noise * rng.NormFloat64()), math.Exp(noise * rng.NormFloat64())
		}, 1.25},
		{"a machine that slows down", func(rng *rand.Rand, round int) (a, b float64) {
			slow := 1 - 0.4*math.Sin(float64(round))
			return slow * math.Exp(noise*rng.NormFloat64()), slow * math.Exp(noise*rng.NormFloat64())
		}, 1.5},
		{"other work", func(rng *rand.Rand, _ int) (a, b float64) {
			hit := func() float64 {
				if rng.IntN(8) == 0 {
					return 0.6
				}
				return 1
			}
			return hit() * math.Exp(noise*rng.NormFloat64()), hit() * math.Exp(noise*rng.NormFloat64())
		}, 3},
	} {
		for _, n := range []int{5, 20} {
			var below, above [2]int
			width := 0.
			for seed := range uint64(experiments) {
				rng := rand.New(rand.NewPCG(seed, 4))
				a, b := make([]float64, n), make([]float64, n)
				for i := range n {
					a[i], b[i] = c.draw(rng, i)
					a[i] *= truth
				}
				lower, upper := ratioBounds(a, b)
				if m := median(a) / median(b); lower > m || upper < m {
					t.Fatalf("%s, %d rounds: bounds %v and %v around %v", c.name, n, lower, upper, m)
				}
				for i, ratios, at := 0, Ratios(a, b), []int{quantiles / 20, quantiles / 100}; i < 2; i++ {
					if truth < ratios[at[i]] {
						below[i]++
					}
					if truth > ratios[quantiles-1-at[i]] {
						above[i]++
					}
				}
				width += math.Log(upper/lower) / experiments
			}
			t.Logf("%s, %d rounds: %d below, %d above, %.3f wide", c.name, n, below, above, width)
			if max(below[0], above[0]) > 70 || max(below[1], above[1]) > 20 {
				t.Errorf("%s, %d rounds: of %d experiments the truth lies below the bounds in %d, above in %d", c.name, n, experiments, below, above)
			}
			normal := 2 * 1.645 * noise * math.Sqrt(2/float64(n))
			if n == 20 && width > c.wider*normal {
				t.Errorf("%s, %d rounds: bounds are %.3f apart, %.3f would do", c.name, n, width, normal)
			}
		}
	}
}

func TestRatioBounds(t *testing.T) {
	x := []float64{30, 31, 29, 30.5, 28}
	if lower, upper := ratioBounds(x, x); lower != 1 || upper != 1 {
		t.Errorf("a model against itself: [%v, %v]", lower, upper)
	}
	// By hand: the logarithms are -2, -1, 0, 1, 2 tenths, the outer two count as the next, so the mean is 0,
	// the squares add up to 0.04, and t(2) at 95 % is 2.920: sqrt(0.04/(3*2)) 2.920 = 0.2384.
	b := make([]float64, 5)
	for i := range b {
		b[i] = 1
		x[i] = math.Exp(0.1 * float64(i-2))
	}
	if lower, upper := ratioBounds(x, b); math.Abs(math.Log(upper)-0.2384) > 3e-4 || math.Abs(math.Log(lower)+0.2384) > 3e-4 {
		t.Errorf("by hand: [%v, %v]", math.Log(lower), math.Log(upper))
	}
	for _, x := range [][]float64{nil, {5}} {
		if lower, upper := ratioBounds(x, x); lower != 0 || upper != 0 || Ratios(x, x) != nil {
			t.Errorf("bounds from %d rounds", len(x))
		}
	}
}

func TestNoise(t *testing.T) {
	if got := noise([]float64{2, 1, 2, 1, 2, 1}); got != 1 {
		t.Errorf("even rounds twice the odd ones: noise %v, want 1", got)
	}
	if noise([]float64{5}) != 0 || noise([]float64{5, 5, 5}) != 0 {
		t.Error("noise where there is none")
	}
}
