package verify

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/kernels"
)

// TestWilson: bounds of 8 of 10, one-sided 95 %, by the formula of Wilson (1927) worked out by hand.
func TestWilson(t *testing.T) {
	lower, upper := wilson(0.8, 10)
	if math.Abs(lower-0.5408) > 5e-4 || math.Abs(upper-0.9315) > 5e-4 {
		t.Errorf("got %v to %v", lower, upper)
	}
	if lower, upper = wilson(1, 20); math.Abs(lower-20/(20+1.6448536*1.6448536)) > 1e-6 || upper != 1 {
		t.Errorf("all of 20: got %v to %v", lower, upper)
	}
}

// TestJudge: vectors whose angles are known. The package turns the second text by 60 degrees, so its
// cosine is 1/2, and its nearest text becomes another.
func TestJudge(t *testing.T) {
	at := func(degrees ...float64) kernels.Matrix {
		m := kernels.View(make([]float32, 2*len(degrees)), len(degrees), 2)
		for i, d := range degrees {
			// lengths do not matter
			m.Row(i)[0], m.Row(i)[1] = float32(float64(i+1)*math.Cos(d*math.Pi/180)), float32(float64(i+1)*math.Sin(d*math.Pi/180))
		}
		return m
	}
	k := kernels.For("")
	r := &Embeddings{Protocol: EmbeddingProtocol{Searched: 4}}
	original, changed := at(0, 10, 80, 120), at(0, 70, 80, 120)
	if near, err := nearest(context.Background(), k, original, 1); err != nil || !slices.Equal(near, []int{1, 0, 3, 2}) {
		t.Errorf("nearest: %v, %v", near, err)
	}
	if err := r.judge(context.Background(), k, original, changed, 2); err != nil {
		t.Fatal(err)
	}
	// 0 is now nearest to 70, as 80 and 70 are to each other, and 120 still to 80
	if math.Abs(r.Cosine.Mean-3.5/4) > 1e-6 || math.Abs(r.Cosine.Min-0.5) > 1e-6 || r.Neighbours.Agreement != 0.5 {
		t.Errorf("%+v %+v", r.Cosine, r.Neighbours)
	}
	if !(float64(r.Cosine.Lower95) < r.Cosine.Mean && r.Neighbours.Lower95 < 0.5 && r.Neighbours.Upper95 > 0.5) {
		t.Errorf("bounds: %+v %+v", r.Cosine, r.Neighbours)
	}
	same := &Embeddings{Protocol: EmbeddingProtocol{Searched: 4}}
	if err := same.judge(context.Background(), k, original, original, 1); err != nil || same.Neighbours.Agreement != 1 || math.Abs(same.Cosine.Min-1) > 1e-6 {
		t.Errorf("%v %+v %+v", err, same.Cosine, same.Neighbours)
	}
	for name, limit := range map[string]float64{"cosine_mean": 0.2, "retrieval": 0.2} {
		if err := CheckLimits(Limits{name: limit}); err != nil || !AtLeast(name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
