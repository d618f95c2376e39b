// Package student has the quantiles of Student's t distribution, from which confidence bounds of
// means of few samples are made.
package student

import (
	"math"
	"slices"
	"sync"
)

// made are quantiles by degrees of freedom and number.
var made sync.Map

// Quantiles are n evenly spaced quantiles of t with df degrees of freedom, at i/(n+1) for i in 1..n.
// n is odd, so that the middle one is 0; they are symmetric around it.
//
// They come from summing the density: with t = sqrt(df) tan(a) that of the angle a is cos(a)^(df-1). With
// n = 3999, those from 0.5 % to 99.5 % are right to four digits.
func Quantiles(df, n int) []float64 {
	key := [2]int{df, n}
	t, ok := made.Load(key)
	if !ok {
		t, _ = made.LoadOrStore(key, compute(df, n))
	}
	return slices.Clone(t.([]float64))
}

func compute(df, n int) []float64 {
	const steps = 1 << 13
	upto := make([]float64, steps+1) // the integral from 0
	for i := range steps {
		a := (float64(i) + 0.5) * math.Pi / 2 / steps
		upto[i+1] = upto[i] + math.Pow(math.Cos(a), float64(df-1))
	}
	t := make([]float64, n)
	for i, at := 0, 0; i < n/2; i++ {
		want := 2 * float64(i+1) / float64(n+1) * upto[steps]
		for upto[at+1] < want {
			at++
		}
		a := (float64(at) + (want-upto[at])/(upto[at+1]-upto[at])) * math.Pi / 2 / steps
		x := math.Sqrt(float64(df)) * math.Tan(a)
		t[n/2+1+i], t[n/2-1-i] = x, -x
	}
	return t
}
