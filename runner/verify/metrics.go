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
