package verify

import (
	"math"
	"slices"
	"sort"
)

// risk is the probability of a wrong verdict that a gate may take: a package at its limit passes, or
// fails, no more often.
const risk = 0.05

// Evidence is what is known about a figure that a gate limits.
type Evidence struct {
	Value float64 `json:"value"`
	// Resamples are the values of the figure in resampled data, sorted.
	Resamples []float64 `json:"resamples,omitempty"`
	// Units is the number of independent samples behind it, chunks of text or rounds of timing; 0 says
	// that the figure is exact, as a size is.
	Units int `json:"units,omitempty"`
	// Looks is how often a verdict may be tried while samples are still added. The looks share the
	// risk, or a package on its limit would pass sooner or later. 0 means 1.
	Looks int `json:"looks,omitempty"`
	// Noise is how far equal things differ when they are measured, as a fraction: a value closer to
	// the limit than that decides nothing.
	Noise float64 `json:"noise,omitempty"`
}

// Exact is the evidence of a figure without error.
func Exact(value float64) Evidence { return Evidence{Value: value} }

// agree is the probability that all samples lie on the same side of the truth by chance. No verdict
// can be surer than that, whatever resampling says: of two chunks nothing follows.
func (m *Evidence) agree() float64 { return math.Exp2(-float64(m.Units)) }

// shares are the parts of the resamples that speak against the limit and for it, as probabilities of
// being wrong: never 0, since there is an end to resampling.
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

const resamples = 10000

// draws calls fn with the chunks of every resample. The generator is fixed, so that a verdict never
// flaps.
func draws(n int, fn func(picked []int)) {
	picked := make([]int, n)
	state := uint64(0x9E3779B97F4A7C15)
	for range resamples {
		for i := range picked {
			// splitmix64: small, known, and the same everywhere
			state += 0x9E3779B97F4A7C15
			z := state
			z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
			z = (z ^ z>>27) * 0x94D049BB133111EB
			z ^= z >> 31
			picked[i] = int(z % uint64(n)) // n is far below 2^64: the bias is below 1e-15
		}
		fn(picked)
	}
}

// bootstrap resamples whole chunks and returns the sorted means over tokens; nil when there are too
// few chunks to resample.
func bootstrap(chunks []chunk, of func(*chunk) float64) []float64 {
	n := len(chunks)
	if n < 2 {
		return nil
	}
	sums, counts := make([]float64, n), make([]float64, n)
	for i := range chunks {
		sums[i], counts[i] = of(&chunks[i]), float64(chunks[i].n)
	}
	means := make([]float64, 0, resamples)
	draws(n, func(picked []int) {
		var s, c float64
		for _, k := range picked {
			s += sums[k]
			c += counts[k]
		}
		means = append(means, s/c)
	})
	slices.Sort(means)
	return means
}

// bootstrapQuantile does the same for the q-quantile of all tokens, q near 1: values hold the same
// number of tokens for every chunk, one chunk after the other.
func bootstrapQuantile(values []float32, chunks int, q float64) []float64 {
	if chunks < 2 {
		return nil
	}
	out := make([]float64, 0, resamples)
	resampled(values, chunks, q, func(x float64) { out = append(out, x) })
	slices.Sort(out)
	return out
}

// resampled calls fn with the quantile of every resample. Only the tokens above it are visited, from
// the largest down.
func resampled(values []float32, chunks int, q float64, fn func(float64)) {
	per := len(values) / chunks
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(i, j int) bool { return values[order[i]] > values[order[j]] })
	// the quantile lies between two neighbours of the resample, counted from its largest
	at := q * float64(len(values)-1)
	rank := len(values) - 1 - int(at)
	f := at - math.Floor(at)
	times := make([]int, chunks)
	draws(chunks, func(picked []int) {
		clear(times)
		for _, k := range picked {
			times[k]++
		}
		lower, upper := 0.0, 0.0
		for seen, i := 0, 0; i < len(order); i++ {
			n := times[order[i]/per]
			if n == 0 {
				continue
			}
			v := float64(values[order[i]])
			if seen <= rank-1 {
				upper = v // the last value that begins before rank stays
			}
			if seen += n; seen > rank {
				lower = v
				break
			}
		}
		fn(lower*(1-f) + upper*f)
	})
}

// bounds are the standard error and the one-sided 95 % bounds of a figure. Of one chunk nothing is
// known.
func bounds(sorted []float64) (se, lower, upper Bound) {
	if len(sorted) == 0 {
		unknown := Bound(math.NaN())
		return unknown, unknown, unknown
	}
	var mean, square float64
	for _, x := range sorted {
		mean += x
	}
	mean /= float64(len(sorted))
	for _, x := range sorted {
		square += (x - mean) * (x - mean)
	}
	m := Evidence{Resamples: sorted}
	return Bound(math.Sqrt(square / float64(len(sorted)))), Bound(m.bound(risk, true)), Bound(m.bound(risk, false))
}
