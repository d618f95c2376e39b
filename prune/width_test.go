package prune

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// inputsOf makes tokens of inputs with correlations, and their moments.
func inputsOf(t *testing.T, k *kernels.Set, n, tokens int, change func(x []float64)) ([][]float64, *moments) {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, uint64(n)))
	m := &moments{n: n, second: make([]float64, n*n), mean: make([]float64, n), energy: make([]float64, n), k: k, threads: 1}
	var all [][]float64
	for range tokens {
		x := make([]float64, n)
		common := rng.NormFloat64()
		for i := range x {
			x[i] = rng.NormFloat64()*(0.5+float64(i%3)) + common
		}
		change(x)
		all = append(all, x)
		for i, v := range x {
			m.mean[i] += v / float64(tokens)
			m.energy[i] += v * v / float64(tokens)
			for j, u := range x {
				m.second[i*n+j] += v * u / float64(tokens)
			}
		}
	}
	return all, m
}

// The fit is the solution of the least-squares problem min |X W^T - X_S W'^T|^2 + damping |W'_S - W_S|^2,
// which gonum solves here as it stands.
func TestFitAgainstLeastSquares(t *testing.T) {
	const n, rows, tokens = 24, 9, 200
	for _, k := range []*kernels.Set{kernels.For("portable"), kernels.For("")} {
		x, m := inputsOf(t, k, n, tokens, func([]float64) {})
		w := normal(rows*n, 3)
		keep := []int{0, 2, 3, 5, 6, 7, 10, 11, 14, 15, 16, 17, 20, 23}
		got, _, loss, err := m.fit(t.Context(), w, keep, true)
		if err != nil {
			t.Fatal(err)
		}
		var diagonal float64
		for _, c := range keep {
			diagonal += m.energy[c] / float64(len(keep))
		}
		// rows of tokens, then one for each weight that holds it where it was
		a := mat.NewDense(tokens+len(keep), len(keep), nil)
		b := mat.NewDense(tokens+len(keep), rows, nil)
		pull := math.Sqrt(damping * diagonal * tokens)
		for i, c := range keep {
			a.Set(tokens+i, i, pull)
			for r := range rows {
				b.Set(tokens+i, r, pull*float64(w[r*n+c]))
			}
		}
		for i := range tokens {
			for j, c := range keep {
				a.Set(i, j, x[i][c])
			}
			for r := range rows {
				var y float64
				for c := range n {
					y += x[i][c] * float64(w[r*n+c])
				}
				b.Set(i, r, y)
			}
		}
		var want mat.Dense
		if err := want.Solve(a, b); err != nil {
			t.Fatal(err)
		}
		for r := range rows {
			for j := range keep {
				if d := math.Abs(want.At(j, r) - float64(got[r*len(keep)+j])); d > 1e-5 {
					t.Fatalf("row %d, input %d: %v, want %v", r, keep[j], got[r*len(keep)+j], want.At(j, r))
				}
			}
		}
		// what is reported is what is lost, on the rows that are looked at
		var energy, lost float64
		for i := range tokens {
			for r := 0; r < rows; r += 8 {
				var y, z float64
				for c := range n {
					y += x[i][c] * float64(w[r*n+c])
				}
				for j, c := range keep {
					z += x[i][c] * float64(got[r*len(keep)+j])
				}
				energy += y * y
				lost += (y - z) * (y - z)
			}
		}
		if math.Abs(loss.Refitted-lost/energy) > 1e-5 || !(loss.Refitted < loss.Dropped) {
			t.Errorf("loss %+v, want %v", loss, lost/energy)
		}
	}
}

// Everything kept is everything as it was, to the bit; without a fit the rest is, and the bias takes the
// mean of what goes (FLAP).
func TestFitKeeps(t *testing.T) {
	const n, rows = 10, 4
	_, m := inputsOf(t, kernels.For("portable"), n, 50, func([]float64) {})
	w := normal(rows*n, 5)
	all := others(nil, n)
	if got, bias, loss, err := m.fit(t.Context(), w, all, true); err != nil || !slices.Equal(got, w) || loss != (losses{}) || slices.Max(bias) != 0 {
		t.Errorf("kept everything: %v, %+v", err, loss)
	}
	keep := []int{1, 2, 3, 5, 8, 9}
	got, bias, loss, err := m.fit(t.Context(), w, keep, false)
	if err != nil || loss.Dropped != loss.Refitted || loss.Dropped == 0 {
		t.Errorf("%v, %+v", err, loss)
	}
	for r := range rows {
		var want float64
		for _, c := range []int{0, 4, 6, 7} {
			want += m.mean[c] * float64(w[r*n+c])
		}
		if math.Abs(bias[r]-want) > 1e-12 {
			t.Errorf("bias of row %d: %v, want %v", r, bias[r], want)
		}
		for j, c := range keep {
			if got[r*len(keep)+j] != w[r*n+c] {
				t.Errorf("weight %d of row %d changed", c, r)
			}
		}
	}
}

// With a bias, what is always the same goes at no loss: the bias takes it up.
func TestFitMovesConstants(t *testing.T) {
	const n, rows, tokens = 8, 9, 64
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, n*tokens)
	for i := range x {
		x[i] = float32(rng.NormFloat64()) + float32(i%n)
		if i%n == 5 {
			x[i] = 3
		}
	}
	m, err := measure(t.Context(), rowsOf(x), ir.Stage{}, n, true, kernels.For("portable"), 1)
	if err != nil {
		t.Fatal(err)
	}
	w := normal(rows*n, 5)
	if p := (&parts{reads: w, rows: rows, unit: 1}); slices.Contains(best(p.activation(m), n-1), 5) {
		t.Error("the constant stayed")
	}
	got, bias, loss, err := m.fit(t.Context(), w, others([]int{5}, n), true)
	if err != nil || loss.Refitted > 1e-9 {
		t.Errorf("%v, %+v", err, loss)
	}
	for r := range rows {
		if want := 3 * float64(w[r*n+5]); math.Abs(bias[r]-want) > 1e-4 {
			t.Errorf("bias of row %d: %v, want %v", r, bias[r], want)
		}
		for j, c := range others([]int{5}, n) {
			if math.Abs(float64(got[r*(n-1)+j]-w[r*n+c])) > 1e-4 {
				t.Errorf("weight %d of row %d moved", c, r)
			}
		}
	}
}

// rowsOf is a walk that hands over the same rows at every stage.
type rowsOf []float32

func (x rowsOf) Inputs(_ context.Context, _ ir.Stage, fn func([]float32, int, int) error) error {
	return fn(x, len(x)/8, 8)
}

func (x rowsOf) Hidden(_ context.Context, fn func([]float32, int, int) error) error {
	return fn(x, len(x)/8, 8)
}

func (x rowsOf) Head(_ context.Context, fn func([]float32, int, int) error) error {
	return fn(x, len(x)/8, 8)
}
func (rowsOf) Mark(context.Context) error { return nil }
func (rowsOf) Back(context.Context) error { return nil }
func (rowsOf) Next(context.Context) error { return nil }
func (rowsOf) Block() int                 { return 0 }
func (rowsOf) Close() error               { return nil }

// A neuron that is the double of another goes at no loss once the other is fitted, and that score knows
// it. By activations it would stay: it is the loudest.
func TestCheapestTakesCopies(t *testing.T) {
	const n, rows = 12, 6
	for _, unit := range []int{1, 3} {
		at, of := 7/unit, 2/unit
		copies := func(x []float64) {
			for i := range unit {
				x[at*unit+i] = 2 * x[of*unit+i]
			}
		}
		_, m := inputsOf(t, kernels.For("portable"), n, 300, copies)
		w := normal(rows*n, 11)
		keep, err := m.cheapest(t.Context(), w, unit, n/unit-1)
		if err != nil {
			t.Fatal(err)
		}
		gone := others(keep, n/unit)
		if len(gone) != 1 || gone[0] != at && gone[0] != of {
			t.Errorf("units of %d: %v went, want %d or its copy %d", unit, gone, of, at)
		}
		_, _, loss, err := m.fit(t.Context(), w, spread(keep, unit), true)
		if err != nil || loss.Refitted > 1e-4 || loss.Dropped < 100*loss.Refitted {
			t.Errorf("units of %d: %v, %+v", unit, err, loss)
		}
		if p := (&parts{reads: w, rows: rows, unit: unit}); !slices.Contains(best(p.activation(m), n/unit-1), at) {
			t.Errorf("units of %d: the loudest went by activations", unit)
		}
	}
}

// What is chosen one after the other is the best of all single choices, tried out.
func TestCheapestFirst(t *testing.T) {
	const n, rows = 9, 5
	_, m := inputsOf(t, kernels.For("portable"), n, 120, func([]float64) {})
	w := normal(rows*n, 21)
	keep, err := m.cheapest(t.Context(), w, 1, n-1)
	if err != nil {
		t.Fatal(err)
	}
	least, want := math.Inf(1), -1
	for i := range n {
		left := others([]int{i}, n)
		got, _, _, err := m.fit(t.Context(), w, left, true)
		if err != nil {
			t.Fatal(err)
		}
		var loss float64 // d C d^T over all rows
		for r := range rows {
			d := make([]float64, n)
			d[i] = float64(w[r*n+i])
			for j, c := range left {
				d[c] = float64(w[r*n+c] - got[r*(n-1)+j])
			}
			for a := range n {
				for b := range n {
					loss += d[a] * m.second[a*n+b] * d[b]
				}
			}
		}
		if loss < least {
			least, want = loss, i
		}
	}
	if gone := others(keep, n); len(gone) != 1 || gone[0] != want {
		t.Errorf("%v went, %d costs least", gone, want)
	}
}

// Silent parts go first by activations, those of small weights by magnitude; of equals the first.
func TestScoresByHand(t *testing.T) {
	m := &moments{n: 4, energy: []float64{1, 4, 0, 9}}
	p := &parts{reads: []float32{3, 1, 100, 1, 4, 0, 100, 0}, rows: 2, unit: 1} // norms 5, 1, 141, 1
	if got := p.activation(m); !slices.Equal(got, []float64{5, 2, 0, 3}) {
		t.Errorf("by activations %v", got)
	}
	if got := best([]float64{5, 2, 0, 3}, 2); !slices.Equal(got, []int{0, 3}) {
		t.Errorf("kept %v", got)
	}
	if got := best([]float64{1, 1, 1}, 1); !slices.Equal(got, []int{2}) {
		t.Errorf("of equals %v stayed", got)
	}
	p.unit = 2
	if got := p.activation(m); math.Abs(got[0]-math.Sqrt(29)) > 1e-12 || got[1] != 3 {
		t.Errorf("pairs by activations %v", got)
	}
	score, err := p.magnitude(t.Context(), 4) // norms sqrt(26) and sqrt(20001), relative to their mean
	a, b := math.Sqrt(26), math.Sqrt(20001)
	if err != nil || math.Abs(score[0]-2*a/(a+b)) > 1e-12 || math.Abs(score[1]-2*b/(a+b)) > 1e-12 {
		t.Errorf("pairs by magnitude %v, %v", score, err)
	}
}
