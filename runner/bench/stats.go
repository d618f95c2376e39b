package bench

import (
	"math"
	"math/rand/v2"
	"slices"
)

// quantile is the q-quantile of x, 0 <= q <= 1, by linear interpolation between the two nearest
// values (NumPy's default); 0 when x is empty. x stays as it is.
func quantile(x []float64, q float64) float64 {
	if len(x) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(x))
	return sortedQuantile(s, q)
}

func sortedQuantile(s []float64, q float64) float64 {
	at := q * float64(len(s)-1)
	lo := int(at)
	if lo+1 >= len(s) {
		return s[len(s)-1]
	}
	f := at - float64(lo)
	return s[lo]*(1-f) + s[lo+1]*f
}

func median(x []float64) float64 { return quantile(x, 0.5) }

const resamples = 10000

// Ratios are the sorted ratios median(a)/median(b) in 10000 bootstrap resamples of the rounds. a[i]
// and b[i] were measured one after the other, so a round is drawn with both; nil without rounds.
func Ratios(a, b []float64) []float64 {
	n := min(len(a), len(b))
	if n == 0 {
		return nil
	}
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a fixed seed: the same figures give the same bounds
	x, y := make([]float64, n), make([]float64, n)
	ratios := make([]float64, resamples)
	for r := range ratios {
		for i := range n {
			k := rng.IntN(n)
			x[i], y[i] = a[k], b[k]
		}
		slices.Sort(x)
		slices.Sort(y)
		ratios[r] = sortedQuantile(x, 0.5) / sortedQuantile(y, 0.5)
	}
	slices.Sort(ratios)
	return ratios
}

// ratioBounds are one-sided 95 % bounds of median(a)/median(b).
func ratioBounds(a, b []float64) (lower, upper float64) {
	ratios := Ratios(a, b)
	if ratios == nil {
		return 0, 0
	}
	return sortedQuantile(ratios, 0.05), sortedQuantile(ratios, 0.95)
}

// noise is how far a measurement differs from itself: the ratio of the medians of its even and odd
// rounds, as a distance from 1. A difference between two models below it means nothing.
func noise(x []float64) float64 {
	var half [2][]float64
	for i, v := range x {
		half[i%2] = append(half[i%2], v)
	}
	if len(half[1]) == 0 {
		return 0
	}
	return math.Abs(median(half[0])/median(half[1]) - 1)
}
