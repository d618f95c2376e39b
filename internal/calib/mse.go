package calib

import "math"

// mse is the range with the least sum of counts * (c - fq(c))^2 over the centres c of the bins, fq being
// rounding to the grid with the scale and zero point that the range gives. The whole range is shrunk
// first, then each side on its own, until neither gains.
func (h *Histogram) mse(g Grid) (lo, hi float64) {
	bins := h.filled()
	w := h.Width()
	lo, hi = h.Extremes.Range()
	best := g.loss(bins, w, lo, hi)
	try := func(a, b float64) {
		if e := g.loss(bins, w, a, b); e < best {
			best, lo, hi = e, a, b
		}
	}
	const steps = 60 // down to a quarter: what lies beyond loses more by clipping than rounding can gain
	ratio := math.Pow(0.25, 1.0/steps)
	shrink := func(a, b float64) {
		f := 1.0
		for range steps {
			f *= ratio
			try(a*f, b*f)
		}
	}
	full, top := lo, hi
	shrink(full, top)
	// Farther than a quarter: one outlier in a hundred thousand values may lie at any distance.
	for i := 0; i < 12 && (lo == full*math.Pow(ratio, steps) || hi == top*math.Pow(ratio, steps)); i++ {
		full, top = lo, hi
		shrink(full, top)
	}
	if lo == 0 || hi == 0 || g.Zero != nil {
		return lo, hi
	}
	for range 4 {
		before := best
		a, b := lo, hi
		first, last := h.Extremes.Range()
		for f := 0.5; f <= 2; f *= 1.04 {
			try(max(a*f, first), b)
		}
		a, b = lo, hi
		for f := 0.5; f <= 2; f *= 1.04 {
			try(a, min(b*f, last))
		}
		if best == before {
			break
		}
	}
	return lo, hi
}

// loss is the squared error of rounding the values to the grid over [lo, hi].
func (g Grid) loss(bins []bin, width, lo, hi float64) float64 {
	a := g.Affine(lo, hi)
	s := float64(a.Scale)
	from, to := g.Span(a)
	var sum float64
	// Where a step is about as fine as a bin, a bin's centre says nothing about its values' rounding
	// errors, which are then uniform over a step.
	fine := s < 2*width
	for _, b := range bins {
		c := b.mid
		var d float64
		switch {
		case c < from:
			d = (c - from) * (c - from)
		case c > to:
			d = (c - to) * (c - to)
		case fine:
			d = s * s / 12
		default:
			d = c - s*math.RoundToEven(c/s)
			d *= d
		}
		sum += b.n * d
	}
	return sum
}
