package kernels

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// Ranges are exact and squares are those of double precision up to rounding, at every level and any number of columns
// and rows; all levels give the same bits. NaN shows in the squares alone.
func TestSpread(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, cols := range []int{1, 3, 4, 8, 15, 16, 17, 33, 64, 100} {
		for _, rows := range []int{0, 1, 2, 3, 50, 1001} {
			x := make([]float32, rows*cols)
			for i := range x {
				x[i] = float32(rng.NormFloat64() * 3)
			}
			if rows == 50 {
				x[cols*7] = float32(math.NaN())
			}
			lo, hi, want := make([]float32, cols), make([]float32, cols), make([]float64, cols)
			for i, v := range x {
				if j := i % cols; v == v {
					lo[j], hi[j] = min(lo[j], v), max(hi[j], v)
				}
				want[i%cols] += float64(v) * float64(v)
			}
			var first []float32
			for _, s := range All() {
				a, b, sq := make([]float32, cols), make([]float32, cols), make([]float32, cols)
				s.Spread(a, b, sq, x)
				if !slices.Equal(a, lo) || !slices.Equal(b, hi) {
					t.Fatalf("%s: %d rows of %d: ranges %v to %v, they are %v to %v", s.Level(), rows, cols, a, b, lo, hi)
				}
				for j, v := range sq {
					if math.IsNaN(want[j]) != (v != v) || math.Abs(float64(v)-want[j]) > 1e-5*want[j] {
						t.Fatalf("%s: %d rows of %d: squares %v, they are %v", s.Level(), rows, cols, v, want[j])
					}
				}
				if first == nil {
					first = sq
				}
				for j := range sq {
					if math.Float32bits(sq[j]) != math.Float32bits(first[j]) && sq[j] == sq[j] {
						t.Fatalf("%s: %d rows of %d: squares differ from those of %s", s.Level(), rows, cols, All()[0].Level())
					}
				}
			}
		}
	}
}
