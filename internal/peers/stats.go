package main

import (
	"math"
	"slices"
)

// Spread is a median with the tenth and ninetieth percentile of what was measured.
type Spread struct {
	Median float64   `json:"median"`
	P10    float64   `json:"p10"`
	P90    float64   `json:"p90"`
	All    []float64 `json:"all"` // in the order measured
}

func spreadOf(x []float64) *Spread {
	if len(x) == 0 {
		return nil
	}
	return &Spread{Median: quantile(x, .5), P10: quantile(x, .1), P90: quantile(x, .9), All: x}
}

// exactly is a figure that is not a sample, such as a size.
func exactly(v float64) *Spread { return spreadOf([]float64{v}) }

// quantile interpolates linearly between the two nearest of the sorted values; NaN for none.
func quantile(x []float64, p float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(x))
	at := p * float64(len(s)-1)
	i := int(at)
	if i+1 == len(s) {
		return s[i]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

// each applies f to what two series hold at the same place, the round in which both were measured.
func each(a, b []float64, f func(a, b float64) float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = f(a[i], b[i])
	}
	return out
}

func divide(a, b float64) float64 { return a / b }

// perSecond turns seconds for n things into things a second.
func perSecond(seconds []float64, n float64) []float64 {
	out := make([]float64, len(seconds))
	for i, s := range seconds {
		out[i] = n / s
	}
	return out
}

func scaled(x []float64, by float64) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v * by
	}
	return out
}

func sum(x []float64) float64 {
	s := 0.0
	for _, v := range x {
		s += v
	}
	return s
}

// slope is the Theil-Sen estimate of dy/dx: the median of the slopes of all pairs of points, which a
// few disturbed measurements do not move.
func slope(x, y []float64) float64 {
	var all []float64
	for i := range x {
		for j := range i {
			if x[i] != x[j] {
				all = append(all, (y[i]-y[j])/(x[i]-x[j]))
			}
		}
	}
	return quantile(all, .5)
}

// line is the least-squares fit y = a + b*x of relative errors: sizes that are a hundred times apart weigh
// the same.
func line(x, y []float64) (a, b float64) {
	var w, wx, wxx, wy, wxy float64
	for i := range x {
		k := 1 / (y[i] * y[i])
		w += k
		wx += k * x[i]
		wxx += k * x[i] * x[i]
		wy += k * y[i]
		wxy += k * x[i] * y[i]
	}
	b = (w*wxy - wx*wy) / (w*wxx - wx*wx)
	return (wy - b*wx) / w, b
}
