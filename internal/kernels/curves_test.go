package kernels

import (
	"fmt"
	"math"
	"testing"
)

// ulp is the distance of float32 numbers around v.
func ulp(v float64) float64 {
	f := float32(math.Abs(v))
	return float64(math.Nextafter32(f, float32(math.Inf(1)))) - float64(f)
}

// Functions are as near to those of package math, in double precision, as their comments say.
func TestCurves(t *testing.T) {
	sigmoid := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	gelu := func(x float64) float64 { return x / 2 * math.Erfc(-x/math.Sqrt2) }
	geluTanh := func(x float64) float64 {
		return x * sigmoid(2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))
	}
	relative := func(ulps float64) func(x, want float64) float64 {
		return func(_, want float64) float64 { return max(ulps*ulp(want), 2e-38) }
	}
	absolute := func(ulps float64) func(x, want float64) float64 {
		return func(x, _ float64) float64 { return ulps * ulp(max(math.Abs(x), 1)) }
	}
	cases := []struct {
		name string
		run  func(s *Set, dst, x []float32)
		want func(float64) float64
		tol  func(x, want float64) float64
	}{
		{"tanh", (*Set).Tanh, math.Tanh, relative(3)},
		{"sigmoid", (*Set).Sigmoid, sigmoid, relative(4)},
		{"erf", (*Set).Erf, math.Erf, relative(3)},
		{"silu", (*Set).SiLU, func(x float64) float64 { return x * sigmoid(x) }, relative(5)},
		{"gelu", (*Set).GELU, gelu, absolute(3)},
		{"gelu by tanh", (*Set).GELUTanh, geluTanh, absolute(3)},
		{"clip", func(s *Set, dst, x []float32) { s.Clip(dst, x, -1, 6) }, func(x float64) float64 { return min(max(x, -1), 6) }, relative(0)},
		{"hard sigmoid", func(s *Set, dst, x []float32) { s.HardSigmoid(dst, x, 0.25, 0.5) }, func(x float64) float64 { return min(max(x/4+0.5, 0), 1) }, absolute(1)},
		{"hard swish", func(s *Set, dst, x []float32) { s.HardSwish(dst, x, 0.25, 0.5) }, func(x float64) float64 { return x * min(max(x/4+0.5, 0), 1) }, absolute(1)},
		{"leaky", func(s *Set, dst, x []float32) { s.LeakyReLU(dst, x, 0.25) }, func(x float64) float64 { return max(x, x/4) }, relative(0)},
	}
	var x []float32
	for b := uint32(0); b < math.Float32bits(80); b += 9973 {
		x = append(x, math.Float32frombits(b), -math.Float32frombits(b))
	}
	wants := make([][]float64, len(cases)) // once for all levels, which an emulated processor notices
	for k, c := range cases {
		for _, v := range x {
			wants[k] = append(wants[k], c.want(float64(v)))
		}
	}
	levels(t, func(t *testing.T, s *Set) {
		y := make([]float32, len(x))
		for k, c := range cases {
			c.run(s, y, x)
			for i, v := range x {
				want := wants[k][i]
				if tol := c.tol(float64(v), want); !(math.Abs(float64(y[i])-want) <= tol) { // the text of each costs more than its value
					near(t, fmt.Sprint(c.name, " of ", v), float64(y[i]), want, tol)
				}
			}
			for _, n := range sizes() { // every place of a row, NaN everywhere
				row, check := guarded(n)
				for i := range row {
					row[i] = float32(math.NaN())
				}
				c.run(s, row, row)
				check(t)
				for i, v := range row {
					if v == v {
						t.Fatalf("%s of NaN is %v, at %d of %d", c.name, v, i, n)
					}
				}
				for i := range row {
					row[i] = float32(i%7) - 3
				}
				c.run(s, row, row)
				check(t)
				for i, v := range row {
					in := float64(i%7) - 3
					near(t, c.name, float64(v), c.want(in), c.tol(in, c.want(in)))
				}
			}
		}
	})
}

func TestArithmetic(t *testing.T) {
	ops := []struct {
		run func(s *Set, dst, x, y []float32)
		f   func(a, b float32) float32
	}{
		{(*Set).AddTo, func(a, b float32) float32 { return a + b }},
		{(*Set).SubTo, func(a, b float32) float32 { return a - b }},
		{(*Set).MulTo, func(a, b float32) float32 { return a * b }},
		{(*Set).DivTo, func(a, b float32) float32 { return a / b }},
		{func(s *Set, dst, x, y []float32) { s.SubFrom(dst, y[0], x) }, nil},
	}
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, n := range sizes() {
			for o, op := range ops {
				for _, one := range []bool{false, true} {
					if n == 0 || op.f == nil && !one {
						continue
					}
					x, y := random(rng, n), random(rng, n)
					if one {
						y = y[:1]
					}
					dst, check := guarded(n)
					op.run(s, dst, x, y)
					check(t)
					for i, v := range x {
						b := y[0]
						if !one {
							b = y[i]
						}
						want := b - v
						if op.f != nil {
							want = op.f(v, b)
						}
						if dst[i] != want {
							t.Fatalf("operation %d: %v and %v make %v", o, v, b, dst[i])
						}
					}
				}
			}
		}
	})
}

func TestLayerNormAndSum(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, n := range sizes()[1:] {
			x, w, b := random(rng, n), random(rng, n), random(rng, n)
			var sum, size, spread float64
			for i := range x {
				x[i] += 5
				sum += float64(x[i])
				size += math.Abs(float64(x[i]))
			}
			near(t, "sum", float64(s.Sum(x)), sum, 1e-6*size)
			mean := sum / float64(n)
			for _, v := range x {
				spread += (float64(v) - mean) * (float64(v) - mean)
			}
			r := 1 / math.Sqrt(spread/float64(n)+1e-3)
			dst, check := guarded(n)
			for _, bias := range [][]float32{b, nil} {
				s.LayerNorm(dst, x, w, bias, 1e-3)
				check(t)
				for i, v := range x {
					want := (float64(v) - mean) * r * float64(w[i])
					if bias != nil {
						want += float64(bias[i])
					}
					near(t, fmt.Sprint("norm of ", n), float64(dst[i]), want, 1e-5*(math.Abs(float64(w[i]))+math.Abs(float64(b[i]))*0.1)*max(1, r))
				}
			}
		}
	})
}

// Cells follow the equations of ONNX's LSTM and GRU (linear_before_reset = 1) in double precision.
func TestCells(t *testing.T) {
	sigmoid := func(x float32) float64 { return 1 / (1 + math.Exp(-float64(x))) }
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, n := range sizes()[1:] {
			gates, before := random(rng, 4*n), random(rng, n)
			h, checkH := guarded(n)
			c, checkC := guarded(n)
			s.LSTM(h, c, gates, before)
			checkH(t)
			checkC(t)
			for i := range h {
				want := sigmoid(gates[2*n+i])*float64(before[i]) + sigmoid(gates[i])*math.Tanh(float64(gates[3*n+i]))
				near(t, "cell", float64(c[i]), want, 2e-6)
				near(t, "state", float64(h[i]), sigmoid(gates[n+i])*math.Tanh(want), 2e-6)
			}
			x, r := random(rng, 3*n), random(rng, 3*n)
			s.GRU(h, x, r, before)
			checkH(t)
			for i := range h {
				z, reset := sigmoid(x[i]+r[i]), sigmoid(x[n+i]+r[n+i])
				hidden := math.Tanh(float64(x[2*n+i]) + reset*float64(r[2*n+i]))
				near(t, "gru", float64(h[i]), (1-z)*hidden+z*float64(before[i]), 2e-6)
			}
		}
	})
}
