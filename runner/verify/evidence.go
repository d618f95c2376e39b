package verify

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/student"
)

// risk is the probability of a wrong verdict that a gate aims at, for a package at its limit. It is met
// where chunks differ as normal or moderately skewed figures do; TestGateCoverage holds what else was
// simulated.
const risk = 0.05

// fewest are the samples that a verdict needs: fewer do not show how skewed they are.
const fewest = 8

// Evidence is what is known about a figure that a gate limits.
type Evidence struct {
	Value float64 `json:"value"`
	// Resamples are the values of the figure in resampled data, or evenly spaced quantiles of its
	// confidence distribution, sorted.
	Resamples []float64 `json:"resamples,omitempty"`
	// Units is the number of independent samples behind it, chunks of text or rounds of timing; 0 says
	// that the figure is exact, as a size is.
	Units int `json:"units,omitempty"`
	// Looks is how often a verdict may be tried while samples are still added. The looks share the
	// risk, or a package on its limit would pass sooner or later. 0 means 1.
	Looks int `json:"looks,omitempty"`
	// Noise is how far equal things differ when they are measured, as a fraction of the smaller: a value
	// closer to the limit than that decides nothing.
	Noise float64 `json:"noise,omitempty"`
}

// Exact is the evidence of a figure without error.
func Exact(value float64) Evidence { return Evidence{Value: value} }

// agree is the probability that all samples lie on the same side of the truth by chance. No verdict
// can be surer than that, whatever else is computed; and below the fewest samples there is none.
func (m *Evidence) agree() float64 {
	if m.Units < fewest {
		return 1
	}
	return math.Exp2(-float64(m.Units))
}

// shares are the parts of the resamples that speak against the limit and for it, as probabilities of
// being wrong: never 0, since their number has an end.
func (m *Evidence) shares(within func(float64) bool) (beyond, inside float64) {
	if len(m.Resamples) == 0 {
		return 1, 1
	}
	n := 0
	for _, x := range m.Resamples {
		if within(x) {
			n++
		}
	}
	share := func(n int) float64 { return max(m.agree(), float64(n+1)/float64(len(m.Resamples)+1)) }
	return share(len(m.Resamples) - n), share(n)
}

// bound is the value that the resamples fall short of, or exceed, with probability r only.
func (m *Evidence) bound(r float64, lower bool) float64 {
	n := len(m.Resamples)
	at := min(int(r*float64(n)), n-1)
	if !lower {
		at = n - 1 - at
	}
	return m.Resamples[at]
}

// estimate is a figure's standard error, and its confidence distribution as evenly spaced quantiles:
// the bound that the truth exceeds with probability r is the one at 1-r. It is empty when there are
// too few chunks to know any.
type estimate struct {
	se float64
	at []float64
}

const (
	// quantiles are enough that an eighth of the risk still is 25 of them.
	quantiles = 3999
	// caution multiplies the skewness that the chunks show. A few chunks rarely hold the rare bad ones,
	// so they look less skewed than the text is: of 16 from exp of a normal figure, by two thirds.
	// TestGateCoverage shows what follows from 2.
	caution = 2
)

// estimateMean is the mean over all tokens. Its error comes from the differences between chunks by
// Student's t, corrected for skewness with Hall's transformation (Hall 1992, "On the removal of
// skewness by transformation"); no side is narrower than without the correction.
func estimateMean(chunks []chunk, of func(*chunk) float64) estimate {
	sums, counts := make([]float64, len(chunks)), make([]float64, len(chunks))
	for i := range chunks {
		sums[i], counts[i] = of(&chunks[i]), float64(chunks[i].n)
	}
	return estimateRatio(sums, counts)
}

func estimateRatio(sums, counts []float64) estimate {
	n := float64(len(sums))
	if n < 2 {
		return estimate{}
	}
	var s, c float64
	for i := range sums {
		s += sums[i]
		c += counts[i]
	}
	mean := s / c
	var square, cube float64
	for i := range sums {
		d := (sums[i] - mean*counts[i]) * n / c // a longer chunk weighs more
		square += d * d
		cube += d * d * d
	}
	e := estimate{se: math.Sqrt(square / (n - 1) / n), at: make([]float64, quantiles)}
	skew := 0.0
	if n > 2 && square > 0 {
		skew = caution * cube / n / math.Pow(square/n, 1.5) * math.Sqrt(n*(n-1)) / (n - 2)
	}
	for i, t := range student.Quantiles(len(sums)-1, quantiles) {
		x := -hall(-t, skew, n) // the truth lies as far above the mean as the mean below the truth
		if t < 0 {
			x = min(x, t)
		} else {
			x = max(x, t)
		}
		e.at[i] = mean + e.se*x
	}
	return e
}

// hall is the studentized mean of n skewed samples that a symmetric one, t, corresponds to: the
// inverse of t + k t^2 + k^2 t^3 / 3 + skew / (6 sqrt(n)) with k = skew / (3 sqrt(n)).
func hall(t, skew, n float64) float64 {
	k := skew / (3 * math.Sqrt(n))
	if math.Abs(k) < 1e-9 {
		return t
	}
	return (math.Cbrt(1+3*k*(t-k/2)) - 1) / k
}

// estimateQuantile is the q-quantile of all tokens, q near 1: values hold the same number of tokens for
// every chunk, one chunk after the other. What is uncertain is how many tokens lie above it (Woodruff
// 1952): where they may be 10 more than there are, the quantile may be where 10 fewer lie.
func estimateQuantile(values []float32, chunks int, q float64) estimate {
	if chunks < 2 {
		return estimate{}
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	value := float32(quantile(sorted, q))
	per := len(values) / chunks
	above, counts := make([]float64, chunks), make([]float64, chunks)
	share := 0.0
	for i, v := range values[:per*chunks] {
		counts[i/per]++
		if v > value {
			above[i/per]++
			share += 1 / float64(per*chunks)
		}
	}
	e := estimateRatio(above, counts)
	for i, x := range e.at {
		e.at[i] = quantile(sorted, min(1, max(0, q+x-share)))
	}
	return e
}

// within keeps the distribution to values that the figure can have.
func (e estimate) within(lo, hi float64) estimate {
	for i, x := range e.at {
		e.at[i] = min(max(x, lo), hi)
	}
	return e
}

// bounds are the standard error and the one-sided 95 % bounds of a figure. Of one chunk nothing is
// known.
func (e estimate) bounds() (se, lower, upper Bound) {
	if len(e.at) == 0 {
		unknown := Bound(math.NaN())
		return unknown, unknown, unknown
	}
	m := Evidence{Resamples: e.at}
	return Bound(e.se), Bound(m.bound(risk, true)), Bound(m.bound(risk, false))
}
