package distill

import (
	"math"

	"github.com/pare-dev/pare/internal/kernels"
)

// rmsNorm is y = x r g with r = (mean x^2 + eps)^-1/2 of each row, which is kept for the way back. Rows
// of x and y hold len(g) numbers.
func rmsNorm[T number](y, x kernels.Dense[T], g, r []T, eps float32) {
	for i := range x.Rows {
		xi, yi := x.Row(i), y.Row(i)
		r[i] = T(1 / math.Sqrt(dot(xi, xi)/float64(len(xi))+float64(eps)))
		for j, v := range xi {
			yi[j] = v * r[i] * g[j]
		}
	}
}

// rmsNormBack adds to dx what dy gives: with u = dy g, dx += r u - (r^3/n) x <u,x>.
func rmsNormBack[T number](dx, dy, x kernels.Dense[T], g, r []T) {
	for i := range x.Rows {
		xi, dyi, dxi := x.Row(i), dy.Row(i), dx.Row(i)
		var s float64
		for j, v := range xi {
			s += float64(float64(dyi[j]*g[j]) * float64(v))
		}
		ri := r[i]
		c := T(s/float64(len(xi))) * ri * ri * ri
		for j, v := range xi {
			dxi[j] += T(ri*dyi[j]*g[j]) - T(c*v)
		}
	}
}

// rmsNormGain adds to dg, for columns [lo,hi), the sum over rows of dy x r, in float64 by row order.
func rmsNormGain[T number](dg []T, dy, x kernels.Dense[T], r []T, lo, hi int) {
	sum := make([]float64, hi-lo)
	for i := range x.Rows {
		xi, dyi := x.Row(i)[lo:hi], dy.Row(i)[lo:hi]
		for j, v := range xi {
			sum[j] += float64(dyi[j] * v * r[i])
		}
	}
	for j, v := range sum {
		dg[lo+j] += T(v)
	}
}
