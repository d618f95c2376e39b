package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

func TestExp(t *testing.T) {
	inf := float32(math.Inf(1))
	levels(t, func(t *testing.T, s *Set) {
		// every 9973rd number from -90 to 90: all exponents, both signs
		var x []float32
		for b := uint32(0); b < math.Float32bits(90); b += 9973 {
			x = append(x, math.Float32frombits(b), -math.Float32frombits(b))
		}
		y := make([]float32, len(x))
		s.Exp(y, x)
		for i, v := range x {
			want := math.Exp(float64(v))
			if v < -87.33654 {
				want = 0
			}
			if v > 88.72283 {
				want = math.Inf(1)
			}
			near(t, fmt.Sprint("exp ", v), float64(y[i]), want, 4*eps*want)
		}
		for _, n := range sizes() { // special values at every place of a row
			x, y := make([]float32, n), make([]float32, n)
			special := []float32{inf, -inf, float32(math.NaN()), 0, 1000, -1000}
			want := []float64{math.Inf(1), 0, math.NaN(), 1, math.Inf(1), 0}
			for i := range x {
				x[i] = special[i%len(special)]
			}
			s.Exp(y, x)
			for i := range y {
				near(t, fmt.Sprint("exp ", x[i]), float64(y[i]), want[i%len(want)], 0)
			}
		}
	})
}

// exp of -x*ln2-ish arguments hits the reduction at its worst; the double version is checked in ulps.
func TestExp64(t *testing.T) {
	for x := 0.0; x > -708; x -= 0.0371 {
		want := math.Exp(x)
		if got := exp64(x); math.Abs(got-want) > 4e-16*want {
			t.Fatalf("exp(%v) = %v, want %v", x, got, want)
		}
	}
	if exp64(-709) != 0 || exp64(math.Inf(-1)) != 0 || !math.IsNaN(exp64(math.NaN())) {
		t.Error("wrong at the ends")
	}
}

func TestLog64(t *testing.T) {
	for x := 1e-300; x < 1e300; x *= 1.0173 {
		if got, want := log64(x), math.Log(x); math.Abs(got-want) > 5e-16*math.Abs(want) {
			t.Fatalf("ln(%v) = %v, want %v", x, got, want)
		}
	}
	for _, x := range []float64{1, 0, math.Inf(1), math.Nextafter(1, 0), math.Nextafter(1, 2), 3} {
		if got, want := log64(x), math.Log(x); got != want && math.Abs(got-want) > 5e-16*math.Abs(want) {
			t.Errorf("ln(%v) = %v, want %v", x, got, want)
		}
	}
	if !math.IsNaN(log64(-1)) || !math.IsNaN(log64(math.NaN())) {
		t.Error("ln of what has no logarithm is a number")
	}
}

func TestElementwise(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, n := range sizes() {
			x, y, z := random(rng, n), random(rng, n), random(rng, n)
			// run applies an operation to a guarded copy of y and checks each element
			run := func(name string, tol float64, op func(d []float32), want func(i int) float64) {
				d, check := guarded(n)
				copy(d, y)
				op(d)
				check(t)
				for i := range d {
					w := want(i)
					near(t, fmt.Sprintf("%s n=%d [%d]", name, n, i), float64(d[i]), w, tol*(math.Abs(w)+1))
				}
			}
			f := func(x []float32, i int) float64 { return float64(x[i]) }
			run("axpy", 4*eps, func(d []float32) { s.Axpy(d, 0.7, x) }, func(i int) float64 { return f(y, i) + float64(float32(0.7))*f(x, i) })
			run("scale", 2*eps, func(d []float32) { s.Scale(d, 0.5) }, func(i int) float64 { return f(y, i) / 2 })
			run("add", 2*eps, func(d []float32) { s.Add(d, x) }, func(i int) float64 { return f(y, i) + f(x, i) })
			run("mul", 2*eps, func(d []float32) { s.Mul(d, x) }, func(i int) float64 { return f(y, i) * f(x, i) })
			run("exp", 8*eps, func(d []float32) { s.Exp(d, d) }, func(i int) float64 { return math.Exp(f(y, i)) })
			silu := func(i int) float64 { return f(y, i) / (1 + math.Exp(-f(y, i))) * f(x, i) }
			run("silu", 16*eps, func(d []float32) { s.SiLUMul(d, d, x) }, silu)
			run("silu up", 16*eps, func(d []float32) { copy(d, x); s.SiLUMul(d, y, d) }, silu)
			ss, _ := dot64(y, y)
			r := 1 / math.Sqrt(ss/float64(n)+1e-5)
			run("rmsnorm", 16*eps, func(d []float32) { s.RMSNorm(d, d, z, 1e-5) }, func(i int) float64 { return f(y, i) * r * f(z, i) })
			top, sum := math.Inf(-1), 0.
			for i := range y {
				top = max(top, f(y, i))
				sum += math.Exp(f(y, i))
			}
			run("softmax", 16*eps, func(d []float32) { s.Softmax(d) }, func(i int) float64 { return math.Exp(f(y, i)) / sum })
			near(t, "max", float64(s.Max(y)), top, 0)
			if n%2 == 0 {
				h := n / 2
				run("rope", 8*eps, func(d []float32) { s.RoPE(d, x[:h], x[h:]) }, func(i int) float64 {
					if i < h {
						return f(y, i)*f(x, i) - f(y, i+h)*f(x, i+h)
					}
					return f(y, i)*f(x, i-h) + f(y, i-h)*f(x, i)
				})
			}
		}
	})
}

// Max passes over NaN wherever it stands, and finds the largest wherever that stands.
func TestMax(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	levels(t, func(t *testing.T, s *Set) {
		for _, n := range sizes() {
			x, _ := guarded(n)
			for at := range n {
				for i := range x {
					x[i] = -5
					if (i+at)%3 == 0 {
						x[i] = nan
					}
				}
				x[at] = -4
				if got := s.Max(x); got != -4 {
					t.Fatalf("n=%d, largest at %d: got %v, want -4", n, at, got)
				}
			}
			for i := range x {
				x[i] = nan
			}
			if got := s.Max(x); got != -inf {
				t.Fatalf("n=%d, nothing but NaN: got %v, want -Inf", n, got)
			}
		}
	})
}

// Extreme rows of attention scores: one place masked in, all masked, very large scores, NaN.
func TestSoftmaxExtremes(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	levels(t, func(t *testing.T, s *Set) {
		for _, n := range []int{1, 3, 16, 17, 40} {
			x := slices.Repeat([]float32{-inf}, n)
			x[n-1] = 3e38
			s.Softmax(x)
			for i, v := range x {
				if want := i == n-1; (v == 1) != want || !want && v != 0 {
					t.Fatalf("n=%d: one score left, got %v", n, x)
				}
			}
			for i := range x {
				x[i] = -inf
			}
			s.Softmax(x)
			if x[0] == x[0] {
				t.Fatalf("n=%d: no score left, got %v, want NaN", n, x)
			}
			clear(x)
			x[n/2] = nan
			s.Softmax(x)
			if x[0] == x[0] {
				t.Fatalf("n=%d: a NaN vanished: %v", n, x)
			}
		}
		s.Softmax(nil)
	})
}

func TestLogitStats(t *testing.T) {
	inf := float32(math.Inf(1))
	levels(t, func(t *testing.T, s *Set) {
		// by hand: KL({.5,.5} || {.9,.1}) is 0.5108 nats
		ln := func(p float64) float32 { return float32(math.Log(p)) }
		got := s.LogitPair([]float32{ln(.5), ln(.5)}, []float32{ln(.9), ln(.1)})
		near(t, "KL", got.KL, 0.5*math.Log(.5/.9)+0.5*math.Log(.5/.1), 1e-7)
		near(t, "KL", got.KL, 0.5108, 1e-4)
		// uniform over V: the log of the sum is ln V + the logit
		rng := newRand()
		for _, n := range append(sizes()[1:], 40000) {
			u := slices.Repeat([]float32{2.5}, n)
			st := s.LogitStats(u)
			near(t, "uniform", st.LogSumExp, 2.5+math.Log(float64(n)), 1e-12)
			if st.ArgMax != 0 || st.Max != 2.5 {
				t.Fatalf("n=%d: %+v", n, st)
			}
			p, q := random(rng, n), random(rng, n)
			for i := range p {
				p[i], q[i] = 8*p[i], 8*q[i]
			}
			if n > 8 {
				p[n/2], p[n-1] = 40, 40 // the first of two equal ones counts
				q[n/3] = -inf
				p[n/3] = -inf
			}
			got := s.LogitPair(p, q)
			lp, lq := logSumExp(p), logSumExp(q)
			near(t, "lse p", got.P.LogSumExp, lp, 1e-12*math.Abs(lp))
			near(t, "lse q", got.Q.LogSumExp, lq, 1e-12*math.Abs(lq)+1e-12)
			var kl float64
			for i := range p {
				if e := math.Exp(float64(p[i]) - lp); e > 0 {
					kl += e * ((float64(p[i]) - lp) - (float64(q[i]) - lq))
				}
			}
			near(t, fmt.Sprint("KL n=", n), got.KL, kl, 1e-11*(math.Abs(kl)+math.Abs(lq)+1))
			if n > 8 && got.P.ArgMax != n/2 {
				t.Fatalf("n=%d: argmax %d, want %d", n, got.P.ArgMax, n/2)
			}
			if same := s.LogitPair(p, p); same.KL != 0 || same.P != same.Q || same.P != s.LogitStats(p) {
				t.Fatalf("n=%d: a row against itself: %+v", n, same)
			}
			p[n-1] = float32(math.NaN())
			if bad := s.LogitPair(p, q); bad.KL == bad.KL || bad.P.LogSumExp == bad.P.LogSumExp {
				t.Fatalf("n=%d: a NaN vanished: %+v", n, bad)
			}
		}
		if st := s.LogitStats(nil); st.ArgMax != -1 || !math.IsInf(st.LogSumExp, -1) {
			t.Errorf("empty row: %+v", st)
		}
		if st := s.LogitPair([]float32{0, 0}, []float32{0, -inf}); !math.IsInf(st.KL, 1) {
			t.Errorf("q denies what p expects: KL %v, want +Inf", st.KL)
		}
	})
}

func logSumExp(x []float32) float64 {
	top, sum := math.Inf(-1), 0.
	for _, v := range x {
		top = max(top, float64(v))
	}
	for _, v := range x {
		sum += math.Exp(float64(v) - top)
	}
	return top + math.Log(sum)
}

// The sums that are expected are made in another order than any kernel's, one product after the other.
func TestDeviation(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		// 1^2+2^2, 1^2+4^2, 1*1+2*4, (2-4)^2, |2-4|
		if got := s.Deviation([]float32{1, 2}, []float32{1, 4}); got != (Deviation{5, 17, 9, 4, 2}) {
			t.Errorf("by hand: %+v", got)
		}
		rng := newRand()
		for _, n := range append(sizes(), statsBlock+5) {
			x, y := random(rng, n), random(rng, n)
			var want Deviation
			for i := range x {
				a, b := float64(x[i]), float64(y[i])
				want.Signal += a * a
				want.Other += b * b
				want.Dot += a * b
				want.Noise += (a - b) * (a - b)
				want.Max = math.Max(want.Max, math.Abs(a-b))
			}
			got := s.Deviation(x, y)
			tol := 1e-14 * (want.Signal + want.Other + 1)
			near(t, fmt.Sprint("signal n=", n), got.Signal, want.Signal, tol)
			near(t, fmt.Sprint("other n=", n), got.Other, want.Other, tol)
			near(t, fmt.Sprint("dot n=", n), got.Dot, want.Dot, tol)
			near(t, fmt.Sprint("noise n=", n), got.Noise, want.Noise, 4*tol)
			near(t, fmt.Sprint("max n=", n), got.Max, want.Max, 0)
			if n > 0 {
				y[n-1] = float32(math.NaN())
				if bad := s.Deviation(x, y); bad.Noise == bad.Noise || bad.Max == bad.Max {
					t.Fatalf("n=%d: a NaN vanished: %+v", n, bad)
				}
			}
		}
	})
}
