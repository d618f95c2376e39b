package distill

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
)

// Kind is what is made small between teacher p and student q.
type Kind string

// Kinds of divergence.
const (
	Forward Kind = "kl"         // sum p ln(p/q): the student covers all that the teacher says
	Reverse Kind = "reverse-kl" // sum q ln(q/p): it says nothing that the teacher would not
	Jensen  Kind = "js"         // half of each against their mean
)

// Kinds lists them.
func Kinds() []Kind { return []Kind{Forward, Reverse, Jensen} }

// Loss is what a token costs: (1-CrossEntropy) Temperature^2 D(p,q) + CrossEntropy (-ln q(next)), p and q
// at the temperature.
type Loss struct {
	Kind         Kind    // empty: Forward
	Temperature  float64 // 0: 1
	CrossEntropy float64 // share of the text itself, 0 to 1
}

// Check refuses what has no meaning.
func (l Loss) Check() error {
	switch {
	case l.Kind != "" && !slices.Contains(Kinds(), l.Kind):
		return fault.As(fault.ErrMisuse, fmt.Errorf("no divergence is called %q", l.Kind))
	case !(l.Temperature >= 0) || math.IsInf(l.Temperature, 0):
		return fault.As(fault.ErrMisuse, fmt.Errorf("a temperature of %v", l.Temperature))
	case !(l.CrossEntropy >= 0 && l.CrossEntropy <= 1):
		return fault.As(fault.ErrMisuse, fmt.Errorf("a share of %v of cross-entropy", l.CrossEntropy))
	}
	return nil
}

// lossRow turns the student's logits z of one token into the gradient of weight times its loss, in place,
// and returns the divergence (without Temperature^2) and the cross-entropy at temperature 1. p are the
// teacher's logits, which are overwritten; nil when only the text counts. next < 0: there is no next
// token. s is scratch of three times the length.
func lossRow[T number](k *kernels.Set, l Loss, z, p []T, next int32, weight float64, s []T) (div, ce float64) {
	n := len(z)
	a, b, text := s[:n], s[n:2*n], s[2*n:3*n]
	tau, mix := l.Temperature, l.CrossEntropy
	if tau == 0 {
		tau = 1
	}
	if p == nil {
		mix = 1
	}
	clear(text)
	if next >= 0 {
		copy(text, z)
		logSoftmax(k, text, a)
		ce = -float64(text[next])
		exp(k, text)
		text[next]--
		for i := range text {
			text[i] *= T(mix * weight)
		}
	} else if p != nil {
		mix = 0
	}
	if p == nil {
		copy(z, text)
		return 0, ce
	}
	if tau != 1 {
		for i := range z {
			z[i] /= T(tau)
			p[i] /= T(tau)
		}
	}
	logSoftmax(k, z, a) // ln q
	logSoftmax(k, p, a) // ln p
	copy(b, z)
	exp(k, b) // q
	if l.Kind != Reverse {
		copy(a, p)
		exp(k, a) // p
	}
	w := T((1 - mix) * tau * weight)
	switch l.Kind {
	case Reverse:
		for i, q := range b {
			div += float64(float64(q) * float64(z[i]-p[i]))
		}
		for i, q := range b {
			z[i] = T(w*q*(z[i]-p[i]-T(div))) + text[i]
		}
	case Jensen:
		var kq float64 // KL(q|m)
		for i, v := range a {
			m := T(math.Log(max(float64(v+b[i])/2, math.SmallestNonzeroFloat64)))
			q := float64(float64(b[i]) * float64(z[i]-m))
			div += float64(float64(v)*float64(p[i]-m))/2 + q/2
			kq += q
			a[i] = m
		}
		for i, q := range b {
			z[i] = T(w/2*q*(z[i]-a[i]-T(kq))) + text[i]
		}
	default:
		for i, v := range a {
			div += float64(float64(v) * float64(p[i]-z[i]))
			z[i] = T(w*(b[i]-v)) + text[i]
		}
	}
	return div, ce
}

// Sums are what a batch cost.
type Sums struct {
	Tokens       int     // rows that counted
	Divergence   float64 // sum over them, nats
	CrossEntropy float64 // sum over the tokens that have a next one, nats
	Next         int     // these tokens
}

// headBand is the number of tokens whose logits are held at once.
const headBand = 512

// bands are what Score needs for one band, kept from call to call.
type bands[T number] struct {
	norm, dnorm, r, logits []T
	divs, ces              []float64
	scratch                [][]T // one a worker
}

// Score computes the loss of hidden states x [tokens,Hidden] that Forward gave, against a teacher's, tx,
// unless it is nil, and the gradient by x into dx unless that is empty; each token weighs weight in it.
// Sequences have one length; the token after each is the next of the sequence, and where the text says
// what is learned, a token counts whose next one is.
func (n *Net[T]) Score(ctx context.Context, l Loss, text Text, x, dx kernels.Dense[T], teacher *Net[T], tx kernels.Dense[T], weight float64) (sum Sums, err error) {
	length, h, vocab := len(text.IDs[0]), n.d.Hidden, n.head.Rows
	b := &n.bands
	norm, dnorm, r := need(&b.norm, headBand*h), need(&b.dnorm, headBand*h), need(&b.r, headBand)
	logits := need(&b.logits, headBand*vocab)
	divs, ces := need(&b.divs, headBand), need(&b.ces, headBand)
	scratch := need(&b.scratch, n.workers)
	head := linear[T]{w: n.head}
	var thead linear[T]
	var others, tnorm, tr []T
	if teacher != nil {
		thead.w = teacher.head
		t := &teacher.bands
		others, tnorm, tr = need(&t.logits, headBand*vocab), need(&t.norm, headBand*teacher.d.Hidden), need(&t.r, headBand)
	}
	// next is the token that row at should give, -1 at the end; counts says whether the row matters
	next := func(at int) (id int32, counts bool) {
		i, j := at/length, at%length+1
		if j == length {
			return -1, text.Learn == nil && teacher != nil
		}
		return text.IDs[i][j], text.learns(i, j)
	}
	for lo := 0; lo < x.Rows; lo += headBand {
		hi := min(lo+headBand, x.Rows)
		t := hi - lo
		y, z := kernels.View(norm, t, h), kernels.View(logits, t, vocab)
		rmsNorm(y, x.Slice(lo, hi, 0, h), n.finalNorm.W, r, n.d.NormEps)
		if err := head.forward(ctx, n, z, y, nil); err != nil {
			return sum, err
		}
		var p kernels.Dense[T]
		if teacher != nil {
			th := teacher.d.Hidden
			ty := kernels.View(tnorm, t, th)
			rmsNorm(ty, tx.Slice(lo, hi, 0, th), teacher.finalNorm.W, tr, teacher.d.NormEps)
			p = kernels.View(others, t, vocab)
			if err := thead.forward(ctx, teacher, p, ty, nil); err != nil {
				return sum, err
			}
		}
		err := n.eachRow(ctx, t, func(worker, i int) {
			s := need(&scratch[worker], 3*vocab)
			id, counts := next(lo + i)
			if !counts {
				clear(z.Row(i))
				return
			}
			var pi []T
			if teacher != nil {
				pi = p.Row(i)
			}
			divs[i], ces[i] = lossRow(n.k, l, z.Row(i), pi, id, weight, s)
		})
		if err != nil {
			return sum, err
		}
		for i := range t {
			id, counts := next(lo + i)
			if !counts {
				continue
			}
			sum.Tokens++
			sum.Divergence += divs[i]
			sum.CrossEntropy += ces[i]
			if id >= 0 {
				sum.Next++
			}
		}
		if dx.Rows == 0 {
			continue
		}
		dy := kernels.View(dnorm, t, h)
		if err := head.backward(ctx, n, dy, z, y, nil, false); err != nil {
			return sum, err
		}
		for i := lo; i < hi; i++ {
			clear(dx.Row(i))
		}
		rmsNormBack(dx.Slice(lo, hi, 0, h), dy, x.Slice(lo, hi, 0, h), n.finalNorm.W, r)
		if g := n.finalNorm.Grad; g != nil {
			rmsNormGain(g, dy, x.Slice(lo, hi, 0, h), r, 0, h)
		}
	}
	return sum, nil
}
