package distill

import (
	"math"

	"github.com/pare-dev/pare/internal/kernels"
)

// number is what a network computes in: float32 to train, float64 to check gradients.
type number interface{ float32 | float64 }

// reals gives the float32 view of x when that is what it is.
func reals[T number](x []T) ([]float32, bool) {
	f, ok := any(x).([]float32)
	return f, ok
}

// exp is the element-wise exponential, in place.
func exp[T number](k *kernels.Set, x []T) {
	if f, ok := reals(x); ok {
		k.Exp(f, f)
		return
	}
	for i, v := range x {
		x[i] = T(math.Exp(float64(v)))
	}
}

// sigmoid is 1/(1+exp(-x)).
func sigmoid[T number](k *kernels.Set, dst, x []T) {
	if f, ok := reals(x); ok {
		d, _ := reals(dst)
		k.Sigmoid(d, f)
		return
	}
	for i, v := range x {
		dst[i] = T(1 / (1 + math.Exp(-float64(v))))
	}
}

// add is y += x.
func add[T number](k *kernels.Set, y, x []T) {
	if f, ok := reals(x); ok {
		d, _ := reals(y)
		k.Add(d, f)
		return
	}
	for i, v := range x {
		y[i] += v
	}
}

// dot sums products in float64.
func dot[T number](a, b []T) (s float64) {
	for i, v := range a {
		s += float64(float64(v) * float64(b[i]))
	}
	return s
}

// largest is the maximum of x, which is not empty.
func largest[T number](k *kernels.Set, x []T) T {
	if f, ok := reals(x); ok {
		return T(k.Max(f))
	}
	m := x[0]
	for _, v := range x {
		m = max(m, v)
	}
	return m
}

// softmax replaces x by exp(x)/sum(exp(x)).
func softmax[T number](k *kernels.Set, x []T) {
	if f, ok := reals(x); ok {
		k.Softmax(f)
		return
	}
	top := largest(k, x)
	var sum float64
	for i, v := range x {
		x[i] = T(math.Exp(float64(v - top)))
		sum += float64(x[i])
	}
	for i := range x {
		x[i] /= T(sum)
	}
}

// logSoftmax replaces x by x - ln(sum(exp(x))); scratch is as long.
func logSoftmax[T number](k *kernels.Set, x, scratch []T) {
	top := largest(k, x)
	for i, v := range x {
		scratch[i] = v - top
	}
	exp(k, scratch)
	var sum float64
	for _, v := range scratch {
		sum += float64(v)
	}
	shift := top + T(math.Log(sum))
	for i := range x {
		x[i] -= shift
	}
}
