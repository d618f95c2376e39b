package qgraph

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

// Channels have the extremes and squares that a loop over their elements finds, in whatever order those lie.
func TestRecord(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, c := range []struct {
		shape  []int
		axis   int
		pixels bool
	}{
		{[]int{2, 3, 5, 7}, 1, false},
		{[]int{2, 3, 5, 7}, 1, true},
		{[]int{1, 40, 9, 9}, 1, true},
		{[]int{1, 20, 300}, 1, false},
		{[]int{4, 6, 5}, -1, false},
		{[]int{70, 50}, -1, false},
		{[]int{3, 11, 13}, 0, false},
	} {
		r := &record{axis: c.axis}
		var lo, hi, squares []float64
		for range 3 {
			x := graph.New(graph.Float32, c.shape...)
			for i := range graph.Of[float32](x) {
				graph.Of[float32](x)[i] = float32(rng.NormFloat64()*2 + 1)
			}
			if _, _, err := r.look(kernels.For(cpu.Best()), x, c.pixels); err != nil {
				t.Fatal(err)
			}
			channels, of := 1, func(int) int { return 0 }
			switch {
			case c.axis == -1 || c.pixels:
				channels = c.shape[len(c.shape)-1]
				if c.pixels {
					channels = c.shape[1]
				}
				of = func(i int) int { return i % channels }
			case c.axis == 1:
				channels = c.shape[1]
				of = func(i int) int { return i / graph.Elems(c.shape[2:]) % channels }
			}
			if lo == nil {
				lo, hi, squares = make([]float64, channels), make([]float64, channels), make([]float64, channels)
			}
			for i, v := range graph.Of[float32](x) {
				k := of(i)
				lo[k], hi[k] = min(lo[k], float64(v)), max(hi[k], float64(v))
				squares[k] += float64(v) * float64(v)
			}
		}
		for k := range lo {
			if len(r.lo) != len(lo) || float64(r.lo[k]) != lo[k] || float64(r.hi[k]) != hi[k] || math.Abs(r.squares[k]-squares[k]) > 1e-5*squares[k] {
				t.Fatalf("%+v, channel %d of %d: [%v, %v] %v, want [%v, %v] %v", c, k, len(r.lo), r.lo[k], r.hi[k], r.squares[k], lo[k], hi[k], squares[k])
			}
		}
		bad := graph.New(graph.Float32, c.shape...)
		graph.Of[float32](bad)[5] = float32(math.Inf(1))
		if _, _, err := r.look(kernels.For(cpu.Best()), bad, c.pixels); err == nil {
			t.Errorf("%+v: an infinity passes", c)
		}
	}
}
