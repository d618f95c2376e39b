package bench

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/student"
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

const (
	// quantiles are enough that an eighth of 5 % still is 25 of them.
	quantiles = 3999
	// trimmed is the share of the rounds that is left out of a mean at either end: those that something
	// else on the machine disturbed.
	trimmed = 0.2
)

// Ratios are evenly spaced quantiles of the confidence distribution of the ratio of a to b, sorted.
// a[i] and b[i] were measured one after the other, so what a round knows is the logarithm of its own
// ratio, in which a slower minute of the machine cancels. Their trimmed mean follows Student's t with
// the winsorized variance (Yuen 1974, "The two-sample trimmed t for unequal population variances", for
// pairs). The ratio of the medians, which is the figure that is shown, lies within any bounds. nil for
// fewer than two rounds, which bound nothing.
func Ratios(a, b []float64) []float64 {
	n := min(len(a), len(b))
	if n < 2 {
		return nil
	}
	logs := make([]float64, n)
	for i := range logs {
		logs[i] = math.Log(a[i] / b[i])
	}
	slices.Sort(logs)
	cut := int(trimmed * float64(n))
	kept := n - 2*cut
	mean, winsor := 0.0, 0.0
	for i, x := range logs {
		if i >= cut && i < n-cut {
			mean += x / float64(kept)
		}
		logs[i] = min(max(x, logs[cut]), logs[n-1-cut])
		winsor += logs[i] / float64(n)
	}
	square := 0.0
	for _, x := range logs {
		square += (x - winsor) * (x - winsor)
	}
	se := math.Sqrt(square / float64(kept*(kept-1)))
	shown := median(a[:n]) / median(b[:n])
	ratios := student.Quantiles(kept-1, quantiles)
	for i, t := range ratios {
		ratios[i] = math.Exp(mean + se*t)
		switch {
		case t < 0:
			ratios[i] = min(ratios[i], shown)
		case t > 0:
			ratios[i] = max(ratios[i], shown)
		}
	}
	return ratios
}

// ratioBounds are one-sided 95 % bounds of the ratio of a to b; 0 when nothing is known.
func ratioBounds(a, b []float64) (lower, upper float64) {
	ratios := Ratios(a, b)
	if ratios == nil {
		return 0, 0
	}
	at := len(ratios) / 20
	return ratios[at], ratios[len(ratios)-1-at]
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
