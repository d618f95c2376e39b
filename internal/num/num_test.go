package num

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/pare-dev/pare/internal/kernels"
)

// spd is X^T X + I/10 of random X [n+5,n], which is symmetric and positive definite.
func spd(n int) []float64 {
	rng := rand.New(rand.NewPCG(3, uint64(n)))
	x := mat.NewDense(n+5, max(n, 1), nil)
	for i := range n + 5 {
		for j := range n {
			x.Set(i, j, rng.NormFloat64())
		}
	}
	var a mat.Dense
	a.Mul(x.T(), x)
	out := make([]float64, n*n)
	for i := range n {
		for j := range n {
			out[i*n+j] = a.At(i, j) / float64(n)
		}
		out[i*n+i] += 0.1
	}
	return out
}

// far is the largest distance between two matrices, relative to the largest element of the second.
func far(a, b []float64) float64 {
	var d, top float64
	for i := range a {
		d, top = max(d, math.Abs(a[i]-b[i])), max(top, math.Abs(b[i]))
	}
	return d / top
}

var sizes = []int{1, 2, 3, 17, 64, 127, 128, 129, 200, 256, 300}

func TestCholeskyAgainstGonum(t *testing.T) {
	for _, k := range kernels.All() {
		for _, n := range sizes {
			a := spd(n)
			var c mat.Cholesky
			if !c.Factorize(mat.NewSymDense(n, slices.Clone(a))) {
				t.Fatal("oracle failed")
			}
			var l mat.TriDense
			c.LTo(&l)
			want := make([]float64, n*n)
			for i := range n {
				for j := range i + 1 {
					want[i*n+j] = l.At(i, j)
				}
			}
			for i := range n { // the upper triangle is not read
				for j := i + 1; j < n; j++ {
					a[i*n+j] = math.NaN()
				}
			}
			if err := CholeskyLower(t.Context(), k, 2, a, n); err != nil {
				t.Fatal(err)
			}
			// the condition number of spd is below 100: 1e-12 leaves room for the order of sums
			if d := far(a, want); !(d < 1e-12) {
				t.Errorf("%s n=%d: L differs by %g", k.Level(), n, d)
			}
			var inv mat.TriDense
			if err := inv.InverseTri(&l); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				for j := range i + 1 {
					want[i*n+j] = inv.At(i, j)
				}
			}
			if err := InvertLower(t.Context(), k, 2, a, n); err != nil {
				t.Fatal(err)
			}
			if d := far(a, want); !(d < 1e-12) {
				t.Errorf("%s n=%d: inverse of L differs by %g", k.Level(), n, d)
			}
		}
	}
}

// By hand: H = [[2,1],[1,2]], inverse [[2,-1],[-1,2]]/3 = U^T U.
func TestInverseCholeskyUpperByHand(t *testing.T) {
	for _, k := range kernels.All() {
		h := []float64{2, 1, 1, 2}
		if err := InverseCholeskyUpper(t.Context(), k, 1, h, 2); err != nil {
			t.Fatal(err)
		}
		want := []float64{math.Sqrt(2. / 3), -math.Sqrt(1. / 6), 0, math.Sqrt(.5)}
		if d := far(h, want); !(d < 1e-15) {
			t.Errorf("%s: U = %v, want %v", k.Level(), h, want)
		}
	}
}

// U^T U H is the identity, U is upper triangular, and threads change no bit.
func TestInverseCholeskyUpper(t *testing.T) {
	for _, k := range kernels.All() {
		for _, n := range sizes {
			h := spd(n)
			u := slices.Clone(h)
			if err := InverseCholeskyUpper(t.Context(), k, 2, u, n); err != nil {
				t.Fatal(err)
			}
			var inv, id mat.Dense
			um := mat.NewDense(n, n, u)
			inv.Mul(um.T(), um)
			id.Mul(&inv, mat.NewDense(n, n, h))
			for i := range n {
				for j := range n {
					want := 0.
					if i == j {
						want = 1
					}
					if d := math.Abs(id.At(i, j) - want); !(d < 1e-11) {
						t.Fatalf("%s n=%d: (U^T U H)[%d,%d] is off by %g", k.Level(), n, i, j, d)
					}
					if j < i && u[i*n+j] != 0 {
						t.Fatalf("%s n=%d: U[%d,%d] = %g below the diagonal", k.Level(), n, i, j, u[i*n+j])
					}
				}
			}
			one := slices.Clone(h)
			if err := InverseCholeskyUpper(t.Context(), k, 1, one, n); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(one, u) {
				t.Errorf("%s n=%d: one thread and two differ", k.Level(), n)
			}
		}
	}
}

func TestNotPositiveDefinite(t *testing.T) {
	k := kernels.All()[0]
	for name, h := range map[string][]float64{
		"indefinite": {1, 2, 2, 1},
		"singular":   {1, 1, 1, 1},
		"zero":       {0, 0, 0, 0},
		"NaN":        {1, math.NaN(), math.NaN(), 1},
		"Inf":        {math.Inf(1), 0, 0, 1},
	} {
		for op, fn := range map[string]func() error{
			"chol": func() error { return CholeskyLower(t.Context(), k, 1, slices.Clone(h), 2) },
			"inv":  func() error { return InverseCholeskyUpper(t.Context(), k, 1, slices.Clone(h), 2) },
		} {
			if err := fn(); !errors.Is(err, ErrNotPositiveDefinite) {
				t.Errorf("%s of a matrix that is %s: error %v", op, name, err)
			}
		}
	}
	// the pivot that fails may lie in a late block
	h := spd(300)
	h[299*300+299] = -1
	if err := CholeskyLower(t.Context(), k, 2, h, 300); !errors.Is(err, ErrNotPositiveDefinite) {
		t.Errorf("bad last pivot: error %v", err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := InverseCholeskyUpper(ctx, kernels.All()[0], 2, spd(300), 300); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want cancelled", err)
	}
}

func BenchmarkInverseCholeskyUpper(b *testing.B) {
	for _, k := range kernels.All() {
		for _, n := range []int{512, 2048, 4096} {
			b.Run(fmt.Sprintf("%s/%d", k.Level(), n), func(b *testing.B) {
				// diagonally dominant, so positive definite without an O(n^3) setup
				h, u := make([]float64, n*n), make([]float64, n*n)
				rng := rand.New(rand.NewPCG(5, 5))
				for i := range n {
					for j := range i {
						v := rng.NormFloat64() / float64(n)
						h[i*n+j], h[j*n+i] = v, v
					}
					h[i*n+i] = 2
				}
				for b.Loop() {
					copy(u, h)
					if err := InverseCholeskyUpper(b.Context(), k, 0, u, n); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
