package calib

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
)

// Bins is the number of bins on each side of zero. The largest magnitude falls into the upper half of
// them, so that at least Bins/2 resolve the range.
const Bins = 4096

// Histogram counts values in bins of one width, a power of two: bin i holds [i*width, (i+1)*width).
// When a value lies outside, the width doubles and neighbours merge. Bins of width 2w are pairs of bins of
// width w, so counts depend on the values alone: neither on their order nor on batches nor on merges.
type Histogram struct {
	Extremes
	exp    int      // width = 2^exp
	counts []uint64 // 2*Bins; bin i is at i+Bins
}

// NewHistogram has seen nothing.
func NewHistogram() *Histogram { return &Histogram{exp: math.MinInt32} }

// width that a magnitude needs: the least power of two with m < Bins * width.
func exponent(m float64) int {
	_, e := math.Frexp(m) // m < 2^e
	return max(e, -126) - bits
}

const bits = 12 // Bins = 1 << bits

// Add counts a batch.
func (h *Histogram) Add(x []float32) error {
	var e Extremes
	if err := e.Add(x); err != nil || e.Count == 0 {
		return err
	}
	h.join(e)
	inv := math.Ldexp(1, -h.exp) // a power of two: the product is exact
	// Neighbours often fall into one bin, the zeros behind a Relu for one: two sets of counts do not wait for each other.
	var other [2 * Bins]uint32
	counts := h.counts[:2*Bins]
	for ; len(x) >= 2 && len(x) < math.MaxUint32; x = x[2:] {
		counts[uint(int(math.Floor(float64(x[0])*inv))+Bins)%(2*Bins)]++
		other[uint(int(math.Floor(float64(x[1])*inv))+Bins)%(2*Bins)]++
	}
	for _, v := range x {
		counts[int(math.Floor(float64(v)*inv))+Bins]++
	}
	for i, n := range other {
		counts[i] += uint64(n)
	}
	return nil
}

// Cover widens the range to that of e, and takes its number of values as seen, without counting any.
func (h *Histogram) Cover(e Extremes) {
	if e.Count > 0 {
		h.join(e)
	}
}

// CountRows counts rows of a value for each of the weights, which are how often a value of that channel counts: where
// errors of some channels matter more than those of others, or where values stand for several. The histogram covers them
// already.
func (h *Histogram) CountRows(ctx context.Context, x []float32, weights []uint64) error {
	const least = 1 << 13 // elements that are worth a goroutine
	rows := len(x) / len(weights)
	// Neighbours often fall into one bin, the zeros behind a Relu for one: two tables do not wait for each other.
	var tables [4]*[2 * Bins]uint64
	tables[0] = (*[2 * Bins]uint64)(h.counts)
	parts := 1 + min(len(x)/least, 1)
	for i := 1; i < 2*parts; i++ {
		tables[i] = counters.Get().(*[2 * Bins]uint64)
		clear(tables[i][:])
	}
	inv := math.Ldexp(1, -h.exp) // a power of two: the product is exact
	err := par.Range(ctx, parts, parts, 1, func(_, i, _ int) error {
		a, b := tables[2*i], tables[2*i+1]
		for r := i * rows / parts; r < (i+1)*rows/parts; r++ {
			// moved to where all are positive, so that the fraction can be cut off
			for c, v := range x[r*len(weights) : (r+1)*len(weights)] {
				a[uint(int(float64(v)*inv+Bins))%(2*Bins)] += weights[c]
			}
			a, b = b, a
		}
		return nil
	})
	for i := 1; i < 2*parts; i++ {
		for k, n := range tables[i] {
			h.counts[k] += n
		}
		counters.Put(tables[i])
	}
	return err
}

var counters = sync.Pool{New: func() any { return new([2 * Bins]uint64) }}

// join widens the range to that of e.
func (h *Histogram) join(e Extremes) {
	if h.Count == 0 {
		h.Extremes = e
		h.counts = make([]uint64, 2*Bins)
	} else {
		h.Min, h.Max = min(h.Min, e.Min), max(h.Max, e.Max)
		h.Count += e.Count
	}
	h.widen(exponent(max(-float64(h.Min), float64(h.Max), 0)))
}

func (h *Histogram) widen(exp int) {
	if h.exp == math.MinInt32 {
		h.exp = exp
	}
	for ; h.exp < exp; h.exp++ {
		for i := range Bins / 2 { // from zero outwards: what is read has not been written
			h.counts[Bins+i] = h.counts[Bins+2*i] + h.counts[Bins+2*i+1]
			h.counts[Bins-1-i] = h.counts[Bins-1-2*i] + h.counts[Bins-2-2*i]
		}
		clear(h.counts[Bins+Bins/2:])
		clear(h.counts[:Bins/2])
	}
}

// Merge adds what another histogram has seen.
func (h *Histogram) Merge(o *Histogram) {
	if o.Count == 0 {
		return
	}
	h.join(o.Extremes)
	c := Histogram{exp: o.exp, counts: append([]uint64(nil), o.counts...)}
	c.widen(h.exp)
	for i, n := range c.counts {
		h.counts[i] += n
	}
}

// Width of a bin.
func (h *Histogram) Width() float64 { return math.Ldexp(1, h.exp) }

// bin is a range of values with a count.
type bin struct {
	lo, mid float64
	n       float64
}

// filled lists the bins that hold something, in ascending order.
func (h *Histogram) filled() []bin {
	var out []bin
	w := h.Width()
	for i, n := range h.counts {
		if n > 0 {
			lo := float64(i-Bins) * w
			out = append(out, bin{lo, lo + w/2, float64(n)})
		}
	}
	return out
}

// magnitudes folds the histogram at zero: element i counts |x| in [i*width, (i+1)*width), up to the last
// bin that holds something.
func (h *Histogram) magnitudes() []float64 {
	out := make([]float64, Bins)
	last := 0
	for i := range Bins {
		out[i] = float64(h.counts[Bins+i] + h.counts[Bins-1-i])
		if out[i] > 0 {
			last = i
		}
	}
	return out[:last+1]
}

// Method says how a range is chosen from a histogram.
type Method int

// Methods.
const (
	MinMax     Method = iota // everything
	Percentile               // all but the outermost values
	Entropy                  // the least Kullback-Leibler divergence
	MSE                      // the least mean squared error
	Average                  // the extremes of each sample, followed slowly: see MovingAverage
)

var methodNames = []string{"minmax", "percentile", "entropy", "mse", "average"}

// String is the method's name in recipes.
func (m Method) String() string { return methodNames[m] }

// MethodNames lists the methods.
func MethodNames() []string { return append([]string(nil), methodNames...) }

// LookupMethod finds a method by name.
func LookupMethod(name string) (Method, error) {
	for i, n := range methodNames {
		if n == name {
			return Method(i), nil
		}
	}
	return 0, fault.As(fault.ErrMisuse, fmt.Errorf("no calibration method is called %q: they are %v", name, methodNames))
}

// Range is the range that a method chooses for a grid. percent is for Percentile: 99.99 keeps that share
// of the values (of the magnitudes on a symmetric grid); 0 means 99.99. Of Average, the histogram holds the ends
// of the range that was followed.
func Range(h *Histogram, m Method, g Grid, percent float64) (lo, hi float64) {
	if h.Count == 0 {
		return 0, 0
	}
	switch m {
	case Percentile:
		if percent == 0 {
			percent = 99.99
		}
		return h.percentile(percent/100, g.Zero != nil)
	case Entropy:
		return h.entropy(g)
	case MSE:
		return h.mse(g)
	}
	return h.Extremes.Range()
}

// clip holds a range to what was seen, and includes zero.
func (h *Histogram) clip(lo, hi float64) (float64, float64) {
	a, b := h.Extremes.Range()
	return min(max(lo, a), 0), max(min(hi, b), 0)
}

// percentile cuts (1-p)/2 of the values on each side, or 1-p of the magnitudes, at edges of bins.
func (h *Histogram) percentile(p float64, symmetric bool) (lo, hi float64) {
	w := h.Width()
	if symmetric || h.Min >= 0 || h.Max <= 0 {
		// One-sided values are cut at the one side that they have.
		var sum float64
		for i, n := range h.magnitudes() {
			if sum += n; sum >= p*float64(h.Count) {
				t := float64(i+1) * w
				return h.clip(-t, t)
			}
		}
		return h.Extremes.Range()
	}
	cut := (1 - p) / 2 * float64(h.Count)
	bins := h.filled()
	var below, above float64
	for _, b := range bins {
		if below+b.n > cut {
			lo = b.lo
			break
		}
		below += b.n
	}
	for i := len(bins) - 1; i >= 0; i-- {
		if above+bins[i].n > cut {
			hi = bins[i].lo + w
			break
		}
		above += bins[i].n
	}
	return h.clip(lo, hi)
}
