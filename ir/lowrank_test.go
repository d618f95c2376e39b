package ir

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestLowRankByHand(t *testing.T) {
	// alpha = r = 1, A = [1 2], B = [3;4] adds [[3 6],[4 8]] (outer product, by hand).
	l := &LowRank{Rank: 1, A: []float32{1, 2}, B: []float32{3, 4}}
	x := []float32{10, 20, 30, 40}
	l.Apply(x, 0, 2)
	if want := []float32{13, 26, 34, 48}; !slices.Equal(x, want) {
		t.Errorf("outer product: got %v, want %v", x, want)
	}
	// DoRA: W = [3 4] with norm 5 and magnitude 10 becomes [6 8].
	d := &LowRank{Row: []float32{10. / 5}}
	x = []float32{3, 4}
	d.Apply(x, 0, 2)
	if want := []float32{6, 8}; !slices.Equal(x, want) {
		t.Errorf("magnitude: got %v, want %v", x, want)
	}
}

// Every split of the elements gives the same bits, and the result is that of float64 arithmetic.
func TestLowRankSplits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	for _, c := range []struct{ rows, cols, rank int }{{3, 7, 0}, {5, 300, 3}, {4, 513, 4}, {2, 256, 9}, {1, 1, 1}} {
		w := random(c.rows * c.cols)
		l := &LowRank{Rank: c.rank, A: random(c.rank * c.cols), B: random(c.rows * c.rank), Row: random(c.rows), Col: random(c.cols)}
		if err := l.Check(c.rows, c.cols); err != nil {
			t.Fatal(err)
		}
		whole := slices.Clone(w)
		l.Apply(whole, 0, c.cols)
		for i := range whole {
			row, col := i/c.cols, i%c.cols
			want := float64(l.Row[row]) * float64(w[i]) * float64(l.Col[col])
			for k := range c.rank {
				want += float64(l.B[row*c.rank+k]) * float64(l.A[k*c.cols+col])
			}
			if math.Abs(want-float64(whole[i])) > 1e-5*float64(c.rank+1) {
				t.Fatalf("%v element %d: got %v, want %v", c, i, whole[i], want)
			}
		}
		for _, step := range []int{1, 5, 256, 257} {
			split := slices.Clone(w)
			for at := 0; at < len(split); at += step {
				l.Apply(split[at:min(len(split), at+step)], int64(at), c.cols)
			}
			if !slices.Equal(split, whole) {
				t.Errorf("%v: pieces of %d give other bits", c, step)
			}
		}
	}
}

func TestLowRankThen(t *testing.T) {
	first := &LowRank{Rank: 1, A: []float32{1, 2, 3}, B: []float32{1, -1}, Row: []float32{2, 0.5}}
	next := &LowRank{Rank: 2, A: []float32{1, 0, 0, 0, 1, 1}, B: []float32{1, 2, 3, 4}, Row: []float32{4, -2}, Col: []float32{1, 2, 0.5}}
	w := []float32{1, 2, 3, 4, 5, 6}
	want := slices.Clone(w)
	first.Apply(want, 0, 3)
	next.Apply(want, 0, 3)
	both := first.Then(next, 2, 3)
	if err := both.Check(2, 3); err != nil {
		t.Fatal(err)
	}
	both.Apply(w, 0, 3) // small integers and powers of two: exact
	if !slices.Equal(w, want) {
		t.Errorf("one after the other %v, as one %v", want, w)
	}
	plain := (&LowRank{}).Then(&LowRank{}, 2, 3)
	if plain.Row != nil || plain.Col != nil {
		t.Error("no factors became factors")
	}
}
