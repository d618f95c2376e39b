package verify

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
)

// pair is what one scored position tells about two rows of logits.
type pair struct {
	nllA, nllB float64 // negative log likelihood of the target, nats
	kl         float64 // KL(A||B), nats
	same       bool    // both rank the same token first
}

// compare reads two rows of logits over the same vocabulary, original first.
//
//	KL(p||q) = sum_i p_i (ln p_i - ln q_i)
func compare(k *kernels.Set, a, b []float32, target int) pair {
	st := k.LogitPair(a, b)
	return pair{
		nllA: st.P.LogSumExp - float64(a[target]),
		nllB: st.Q.LogSumExp - float64(b[target]),
		kl:   st.KL,
		same: st.P.ArgMax == st.Q.ArgMax,
	}
}

// entropy of the softmax of a row, in nats.
func entropy(x []float32) float64 {
	m := float64(slices.Max(x))
	var z, s float64
	for _, v := range x {
		d := float64(v) - m
		e := math.Exp(d)
		z += e
		s += e * d
	}
	return math.Log(z) - s/z
}

// quantile of sorted values, linear between neighbours (numpy's default). q is in 0..1.
func quantile(sorted []float32, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	lo := int(at)
	if lo+1 >= len(sorted) {
		return float64(sorted[len(sorted)-1])
	}
	f := at - float64(lo)
	return float64(sorted[lo])*(1-f) + float64(sorted[lo+1])*f
}

// chunk sums what a chunk of tokens scored. Tokens of a chunk depend on each other, so chunks are
// the unit of every error estimate.
type chunk struct {
	n              int
	nllA, nllB, kl float64
	same           int
}

func (c *chunk) add(p pair) {
	c.n++
	c.nllA += p.nllA
	c.nllB += p.nllB
	c.kl += p.kl
	if p.same {
		c.same++
	}
}

// ratio is the mean of a quantity over all tokens of some chunks.
func ratio(chunks []chunk, of func(*chunk) float64) float64 {
	var sum, n float64
	for i := range chunks {
		sum += of(&chunks[i])
		n += float64(chunks[i].n)
	}
	return sum / n
}

// bootstrap resamples whole chunks and returns the standard error and the one-sided 95 % bounds
// of a mean over tokens. The generator is fixed, so that a verdict never flaps.
func bootstrap(chunks []chunk, of func(*chunk) float64) (se, lower, upper float64) {
	n := len(chunks)
	if n < 2 {
		return math.Inf(1), math.Inf(-1), math.Inf(1)
	}
	const resamples = 10000
	sums, counts := make([]float64, n), make([]float64, n)
	for i := range chunks {
		sums[i], counts[i] = of(&chunks[i]), float64(chunks[i].n)
	}
	means := make([]float64, resamples)
	state := uint64(0x9E3779B97F4A7C15)
	var mean, square float64
	for r := range means {
		var s, c float64
		for range n {
			// splitmix64: small, known, and the same everywhere
			state += 0x9E3779B97F4A7C15
			z := state
			z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
			z = (z ^ z>>27) * 0x94D049BB133111EB
			z ^= z >> 31
			k := int(z % uint64(n)) // n is far below 2^64: the bias is below 1e-15
			s += sums[k]
			c += counts[k]
		}
		means[r] = s / c
		mean += means[r]
		square += means[r] * means[r]
	}
	mean /= resamples
	se = math.Sqrt(max(0, square/resamples-mean*mean))
	slices.Sort(means)
	return se, means[resamples/20], means[resamples-1-resamples/20]
}
