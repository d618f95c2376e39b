package runner

import (
	"math"
	"testing"
)

// math.Sin and math.Cos are good to below one unit in the last place of a float64.
func TestSincos(t *testing.T) {
	for i := range 200_000 {
		x := float64(float32(i) * float32(i) * 1.7e-4) // 0 .. 6.8e6 with growing steps
		s, c := sincos(x)
		if ds, dc := math.Abs(s-math.Sin(x)), math.Abs(c-math.Cos(x)); ds > 3e-16 || dc > 3e-16 {
			t.Fatalf("x = %v: sine off by %g, cosine by %g", x, ds, dc)
		}
	}
}
