// Package calib turns the values that flow along an edge of a network into the range that integers shall
// cover. Values are seen once, a batch at a time, and kept as counts: memory does not grow with them.
//
//	h := calib.NewHistogram()
//	for batch := range batches {
//		err := h.Add(batch) // ErrNotFinite for NaN and infinities
//	}
//	lo, hi := calib.Range(h, calib.MSE, calib.Uint8)
//	p := calib.Uint8.Affine(lo, hi) // the scale and the zero point
//
// Ranges always include zero, since padding and ReLU need a code that means exactly zero.
//
// Histogram, Extremes and Channels give the same answer whatever the order of the values and however
// they are cut into batches; MovingAverage depends on both, as its definition says.
package calib
