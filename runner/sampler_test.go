package runner

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
)

// The logits are logarithms of the probabilities 0.4, 0.3, 0.2, 0.06, 0.04, in mixed order, so that
// what each filter keeps can be worked out by hand.
var (
	probabilities = []float64{0.06, 0.4, 0.2, 0.04, 0.3}
	worked        = func() (l []float32) {
		for _, p := range probabilities {
			l = append(l, float32(math.Log(p))+3)
		}
		return l
	}()
)

func TestSamplingFilters(t *testing.T) {
	for _, tc := range []struct {
		name string
		s    Sampling
		text []int32
		want map[int32]float64 // token -> probability
	}{
		{
			"temperature 1 draws the distribution",
			Sampling{Temperature: 1},
			nil,
			map[int32]float64{0: 0.06, 1: 0.4, 2: 0.2, 3: 0.04, 4: 0.3},
		},
		// squares of the probabilities: .0036 .16 .04 .0016 .09, sum .2952
		{
			"temperature 1/2 squares it",
			Sampling{Temperature: 0.5},
			nil,
			map[int32]float64{0: 0.012195, 1: 0.542005, 2: 0.135501, 3: 0.00542, 4: 0.304878},
		},
		{"top-k 2", Sampling{Temperature: 1, TopK: 2}, nil, map[int32]float64{1: 4. / 7, 4: 3. / 7}},
		{
			"top-k beyond the vocabulary",
			Sampling{Temperature: 1, TopK: 99},
			nil,
			map[int32]float64{0: 0.06, 1: 0.4, 2: 0.2, 3: 0.04, 4: 0.3},
		},
		{"top-p 0.65: two reach 0.7", Sampling{Temperature: 1, TopP: 0.65}, nil, map[int32]float64{1: 4. / 7, 4: 3. / 7}},
		{"top-p 0.75 needs a third", Sampling{Temperature: 1, TopP: 0.75}, nil, map[int32]float64{1: 4. / 9, 2: 2. / 9, 4: 3. / 9}},
		{"top-p below the first keeps one", Sampling{Temperature: 1, TopP: 0.1}, nil, map[int32]float64{1: 1}},
		{"min-p 0.6 of 0.4 is 0.24", Sampling{Temperature: 1, MinP: 0.6}, nil, map[int32]float64{1: 4. / 7, 4: 3. / 7}},
		// of the first three .4 .3 .2 (sum .9), .4 is .444 and .7 is .778
		{"top-p counts what top-k left", Sampling{Temperature: 1, TopK: 3, TopP: 0.44}, nil, map[int32]float64{1: 1}},
		{"top-p after top-k", Sampling{Temperature: 1, TopK: 3, TopP: 0.75}, nil, map[int32]float64{1: 4. / 7, 4: 3. / 7}},
		// logit of token 1 is 3+ln 0.4 = 2.08371; halved it is 1.04185: weight e^(1.04185-3) = .14110
		{
			"penalty 2 on token 1",
			Sampling{Temperature: 1, RepetitionPenalty: 2},
			[]int32{1, 1},
			map[int32]float64{0: 0.06 / 0.7411, 1: 0.1411 / 0.7411, 2: 0.2 / 0.7411, 3: 0.04 / 0.7411, 4: 0.3 / 0.7411},
		},
		{"a window that ends after it", Sampling{Temperature: 1, TopK: 1, RepetitionPenalty: 2, PenaltyWindow: 1}, []int32{1, 0}, map[int32]float64{1: 1}},
	} {
		const draws = 40000
		s, err := NewSampler(tc.s)
		if err != nil {
			t.Fatal(err)
		}
		count := map[int32]int{}
		for range draws {
			id, err := s.Next(worked, tc.text)
			if err != nil {
				t.Fatal(err)
			}
			count[id]++
		}
		for id := range int32(len(worked)) {
			p := tc.want[id]
			got := float64(count[id]) / draws
			// five standard deviations of the count, 0 exactly where the token is dropped
			if tol := 5 * math.Sqrt(p*(1-p)/draws); math.Abs(got-p) > tol+1e-4*p {
				t.Errorf("%s: token %d drawn with %.4f, want %.4f", tc.name, id, got, p)
			}
		}
	}
}

func TestSamplingGreedyAndSeeds(t *testing.T) {
	s, _ := NewSampler(Sampling{})
	if id, err := s.Next([]float32{1, 3, 3, 2}, nil); id != 1 || err != nil {
		t.Errorf("greedy took %d, %v; of equals the lower id wins", id, err)
	}
	s, _ = NewSampler(Sampling{RepetitionPenalty: 2})
	// 3/2 < 2, and -1*2 stays last
	if id, err := s.Next([]float32{-1, 3, 2}, []int32{0, 1}); id != 2 || err != nil {
		t.Errorf("greedy with a penalty took %d, %v; want 2", id, err)
	}
	draw := func(seed uint64) (ids []int32) {
		s, err := NewSampler(Sampling{Temperature: 1, TopP: 0.95, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		for range 64 {
			id, err := s.Next(worked, nil)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		return ids
	}
	if !slices.Equal(draw(7), draw(7)) {
		t.Error("one seed gave two texts")
	}
	if slices.Equal(draw(7), draw(8)) {
		t.Error("two seeds gave one text")
	}
}

func TestSamplingRefuses(t *testing.T) {
	for _, s := range []Sampling{
		{Temperature: -1}, {Temperature: math.NaN()}, {TopK: -1}, {TopP: 1.5}, {MinP: -0.1}, {RepetitionPenalty: -2}, {PenaltyWindow: -1},
	} {
		if _, err := NewSampler(s); !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("%+v: %v, want misuse", s, err)
		}
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, row := range [][]float32{{1, nan}, {inf, 1}, {-inf, -inf}, {}} {
		s, _ := NewSampler(Sampling{Temperature: 1})
		if _, err := s.Next(row, nil); !errors.Is(err, ErrNoToken) {
			t.Errorf("%v: %v, want %v", row, err, ErrNoToken)
		}
	}
}
