package calib

import "math"

// entropyBins is the resolution of the search: finer histograms are merged to at most this.
const entropyBins = 2048

// entropy is the threshold t on magnitudes for which the clipped distribution P, and what remains of it on
// the grid's levels Q, are nearest: the least Kullback-Leibler divergence KL(P||Q), the last of equal
// ones. For i bins within the threshold, P is those with the clipped mass in the last; Q has the counts of
// each level's bins spread evenly over those that are not empty. The bin at zero counts as much as its
// neighbour, since zeros are exact whatever the scale. Both are smoothed, so that clipped mass on an empty bin costs much and
// not infinitely much: the plain rule never clips a lone outlier.
//
// Values of one sign have all levels on their side, others half of them.
func (h *Histogram) entropy(g Grid) (lo, hi float64) {
	levels := (g.Max - g.Min + 1) / 2
	if g.Zero == nil && (h.Min >= 0 || h.Max <= 0) {
		levels *= 2
	}
	return h.entropyAt(levels)
}

// entropyAt is entropy with a number of levels for magnitudes.
func (h *Histogram) entropyAt(levels int) (lo, hi float64) {
	mags := h.magnitudes()
	w := h.Width()
	for len(mags) > entropyBins {
		w *= 2
		half := make([]float64, (len(mags)+1)/2)
		for i, n := range mags {
			half[i/2] += n
		}
		mags = half
	}
	if len(mags) <= levels {
		return h.Extremes.Range()
	}
	if mags[1] > 0 {
		mags[0] = mags[1]
	}
	var total float64
	for _, n := range mags {
		total += n
	}
	step := max(levels/16, 1)
	best, at := math.Inf(1), len(mags)
	q := make([]float64, len(mags))
	var inside float64
	done := 0
	for i := levels; ; i = min(i+step, len(mags)) {
		for ; done < i; done++ {
			inside += mags[done]
		}
		if d := divergence(mags[:i], q[:i], total-inside, levels); d <= best {
			best, at = d, i
		}
		if i == len(mags) {
			break
		}
	}
	t := float64(at) * w
	return h.clip(-t, t)
}

// divergence is KL(P||Q) of smoothed distributions: counts within the threshold plus outliers in the last.
func divergence(counts, q []float64, outliers float64, levels int) float64 {
	n := len(counts)
	for l := range levels {
		lo, hi := l*n/levels, (l+1)*n/levels
		var sum, filled float64
		for _, c := range counts[lo:hi] {
			if sum += c; c > 0 {
				filled++
			}
		}
		for i := lo; i < hi; i++ {
			if q[i] = 0; counts[i] > 0 {
				q[i] = sum / filled
			}
		}
	}
	var ps, qs, pn, qn float64
	for i, c := range counts {
		if i == n-1 {
			c += outliers
		}
		ps, qs = ps+c, qs+q[i]
		if c > 0 {
			pn++
		}
		if q[i] > 0 {
			qn++
		}
	}
	// Empty bins get a small count, taken from the others in equal parts.
	const eps = 1e-4
	pd, qd := eps*(float64(n)-pn)/max(pn, 1), eps*(float64(n)-qn)/max(qn, 1)
	if pn == 0 || qn == 0 || pd >= 1 || qd >= 1 {
		return math.Inf(1)
	}
	smooth := func(c, take float64) float64 {
		if c > 0 {
			return max(c-take, eps)
		}
		return eps
	}
	var kl float64
	for i, c := range counts {
		if i == n-1 {
			c += outliers
		}
		p := smooth(c, pd) / ps
		kl += p * math.Log(p/(smooth(q[i], qd)/qs))
	}
	return kl
}
