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

// The bounds hold the true ratio in about 90 of 100 experiments (5 % on either side), and a model
// against itself gives 1.
func TestRatioBounds(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	draw := func(n int, mean float64) []float64 {
		x := make([]float64, n)
		for i := range x {
			x[i] = mean * (1 + 0.05*rng.NormFloat64())
		}
		return x
	}
	const experiments = 60
	inside := 0
	for range experiments {
		lower, upper := ratioBounds(draw(20, 30), draw(20, 20))
		if lower > upper {
			t.Fatalf("bounds %v > %v", lower, upper)
		}
		if lower <= 1.5 && 1.5 <= upper {
			inside++
		}
	}
	// 54 expected, standard deviation 2.3; the bootstrap of a median is somewhat wide
	if inside < 46 {
		t.Errorf("the truth lies within the bounds in %d of %d experiments", inside, experiments)
	}
	x := draw(20, 1)
	if lower, upper := ratioBounds(x, x); lower != 1 || upper != 1 {
		t.Errorf("a model against itself: [%v, %v]", lower, upper)
	}
	if lower, upper := ratioBounds(nil, nil); lower != 0 || upper != 0 {
		t.Error("bounds from nothing")
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
