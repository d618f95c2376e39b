package prune

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/obs"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// layerOf makes a layer with correlated inputs, and its second moments as they are.
func layerOf(t *testing.T, k *kernels.Set, cols int, damping float64, steps, threads int) (*sparseLayer, *mat.SymDense) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, uint64(cols)))
	h := make([]float64, cols*cols)
	x := make([]float64, cols)
	for range 4 * cols {
		common := rng.NormFloat64()
		for c := range x {
			x[c] = rng.NormFloat64()*(0.3+float64(c%7)) + 2*common
		}
		for i := range x {
			for j := range x {
				h[i*cols+j] += x[i] * x[j]
			}
		}
	}
	plain := mat.NewSymDense(cols, append([]float64(nil), h...))
	p, err := obs.New(t.Context(), h, cols, obs.Options{Damping: damping, Threads: threads}, k)
	if err != nil {
		t.Fatal(err)
	}
	return newSparseLayer(p, h, steps), plain
}

func normal(n int, seed uint64) []float32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(rng.NormFloat64())
	}
	return w
}

func ask(rows, cols int, o request) *request {
	o.t = &ir.Tensor{Name: "w", Shape: []int{rows, cols}, Type: storage.F32}
	if o.scope == "" {
		o.scope = ScopeLayer
	}
	return &o
}

// dense solves a x = b.
func dense(t *testing.T, a mat.Symmetric, b *mat.VecDense) *mat.VecDense {
	t.Helper()
	var x mat.VecDense
	if err := x.SolveVec(a, b); err != nil {
		t.Fatal(err)
	}
	return &x
}

// When a column is dropped, the columns behind it change by the solution of their normal equations with
// everything up to it fixed. Here that is solved anew for every column with gonum.
func TestSparseGPTRepairs(t *testing.T) {
	const rows, cols = 3, 150 // more than a block
	l, h := layerOf(t, kernels.For("portable"), cols, 0, 0, 1)
	for _, r := range []*request{ask(rows, cols, request{n: 2, m: 5}), ask(rows, cols, request{sparsity: 0.4})} {
		w := normal(rows*cols, 9)
		want := make([]float64, len(w))
		for i, v := range w {
			want[i] = float64(v)
		}
		got := append([]float32(nil), w...)
		if _, err := l.solve(t.Context(), r, got, 0, 1); err != nil {
			t.Fatal(err)
		}
		for row := range rows {
			x := want[row*cols:][:cols]
			for i := range cols {
				if got[row*cols+i] != 0 {
					continue
				}
				if n := cols - i - 1; n > 0 {
					behind, b := mat.NewSymDense(n, nil), mat.NewVecDense(n, nil)
					for a := range n {
						b.SetVec(a, h.At(i, i+1+a)*x[i])
						for c := a; c < n; c++ {
							behind.SetSym(a, c, h.At(i+1+a, i+1+c))
						}
					}
					step := dense(t, behind, b)
					for a := range n {
						x[i+1+a] += step.AtVec(a)
					}
				}
				x[i] = 0
			}
			for i := range cols {
				if math.Abs(x[i]-float64(got[row*cols+i])) > 2e-4 {
					t.Fatalf("row %d, column %d: %v, want %v", row, i, got[row*cols+i], x[i])
				}
			}
		}
	}
}

// Exactly the share that was asked for goes, at any number of threads with the same bits, and the loss
// falls from dropping to repairing to refitting, which ends where the normal equations of what is left
// do.
func TestSparseGPTCountsAndRefit(t *testing.T) {
	const rows, cols = 70, 136
	for _, k := range kernels.All() {
		for _, r := range []*request{
			ask(rows, cols, request{sparsity: 0.5}), ask(rows, cols, request{sparsity: 1. / 3}),
			ask(rows, cols, request{sparsity: 0.7, scope: ScopeRow}), ask(rows, cols, request{n: 2, m: 4}),
		} {
			var first []float32
			for threads := 1; threads <= 2; threads++ {
				l, h := layerOf(t, k, cols, 0, 120, threads)
				w := normal(rows*cols, 5)
				original := append([]float32(nil), w...)
				sum, err := l.solve(t.Context(), r, w, 0, threads)
				if err != nil {
					t.Fatal(err)
				}
				if !(sum[0] > sum[1] && sum[1] > 1.2*sum[2] && sum[2] > 1.05*sum[3] && sum[3] > 0) {
					t.Errorf("%s: energy %v, losses %v: each step has to gain", k.Level(), sum[0], sum[1:])
				}
				if first == nil {
					first = w
				} else if !slices.Equal(first, w) {
					t.Errorf("%s: other weights with %d threads", k.Level(), threads)
				}
				zeros, row0 := int64(0), []int{}
				for i, v := range w {
					if v == 0 {
						zeros++
					} else if i < cols {
						row0 = append(row0, i)
					}
				}
				if zeros != r.zeros() {
					t.Errorf("%s: %d zeros, want %d", k.Level(), zeros, r.zeros())
				}
				// row 0 by the normal equations of the weights it keeps
				n := len(row0)
				a, b := mat.NewSymDense(n, nil), mat.NewVecDense(n, nil)
				for i, ci := range row0 {
					for c := range cols {
						b.SetVec(i, b.AtVec(i)+h.At(ci, c)*float64(original[c]))
					}
					for j := i; j < n; j++ {
						a.SetSym(i, j, h.At(ci, row0[j]))
					}
				}
				x := dense(t, a, b)
				for i, c := range row0 {
					if math.Abs(x.AtVec(i)-float64(w[c])) > 2e-3 {
						t.Fatalf("%s: column %d is %v, least squares gives %v", k.Level(), c, w[c], x.AtVec(i))
					}
				}
			}
		}
	}
}

// With inputs that have nothing to do with each other there is nothing to repair: the smallest
// |w| sqrt(h) go and the rest stays, which is Wanda.
func TestSparseGPTIsWandaWithoutCorrelation(t *testing.T) {
	const cols = 4
	h := []float64{16, 0, 0, 0, 0, 1, 0, 0, 0, 0, 4, 0, 0, 0, 0, .25}
	p, err := obs.New(t.Context(), h, cols, obs.Options{}, kernels.For("portable"))
	if err != nil {
		t.Fatal(err)
	}
	w := []float32{1, -2, 3, -4}
	if _, err := newSparseLayer(p, h, refitSteps).solve(t.Context(), ask(1, cols, request{sparsity: 0.5}), w, 0, 1); err != nil {
		t.Fatal(err)
	}
	if want := []float32{1, 0, 3, 0}; math.Abs(float64(w[0]-1))+math.Abs(float64(w[2]-3)) > 1e-5 || w[1] != 0 || w[3] != 0 {
		t.Errorf("%v, want %v", w, want)
	}
}

// Nothing dropped, nothing changed; what is no number is refused by its place.
func TestSparseGPTEdges(t *testing.T) {
	const rows, cols = 2, 8
	l, _ := layerOf(t, kernels.For("portable"), cols, 0.01, refitSteps, 1)
	w := normal(rows*cols, 2)
	same := append([]float32(nil), w...)
	if _, err := l.solve(t.Context(), ask(rows, cols, request{sparsity: 0.01}), same, 0, 1); err != nil || !slices.Equal(w, same) {
		t.Errorf("%v became %v, %v", w, same, err)
	}
	w[11] = float32(math.Inf(1))
	if _, err := l.solve(t.Context(), ask(rows, cols, request{sparsity: 0.5}), w, 7, 1); err == nil || err.Error()[:17] != "row 8, element 3 " {
		t.Errorf("error %v", err)
	}
}
