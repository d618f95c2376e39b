package runner

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/pare-dev/pare/internal/fault"
)

// Sampling says how the next token is chosen. The steps follow one another as in transformers:
// repetition penalty, temperature, top-k, top-p, min-p, then a draw. The zero value is greedy.
type Sampling struct {
	Temperature float64 // 0: always the most likely token; the filters below then do nothing
	TopK        int     // keep the k most likely tokens; 0: all
	TopP        float64 // keep the fewest tokens whose probabilities reach this sum; 0 or 1: all
	MinP        float64 // drop tokens less likely than this times the most likely; 0: none
	// RepetitionPenalty divides the positive and multiplies the negative logits of tokens that
	// occur in the text so far (arXiv 1909.05858); 0 or 1: off. PenaltyWindow limits the text to
	// its last tokens; 0: all of it.
	RepetitionPenalty float64
	PenaltyWindow     int
	Seed              uint64
}

// Check reports settings out of range, as misuse.
func (s Sampling) Check() error {
	var errs []error
	bad := func(what string, v any, want string) {
		errs = append(errs, fmt.Errorf("%s %v is not %s", what, v, want))
	}
	if !(s.Temperature >= 0) || math.IsInf(s.Temperature, 0) {
		bad("temperature", s.Temperature, "0 or more")
	}
	if s.TopK < 0 {
		bad("top-k", s.TopK, "0 or more")
	}
	if !(s.TopP >= 0 && s.TopP <= 1) {
		bad("top-p", s.TopP, "between 0 and 1")
	}
	if !(s.MinP >= 0 && s.MinP <= 1) {
		bad("min-p", s.MinP, "between 0 and 1")
	}
	if !(s.RepetitionPenalty >= 0) || math.IsInf(s.RepetitionPenalty, 0) {
		bad("repetition penalty", s.RepetitionPenalty, "a positive number")
	}
	if s.PenaltyWindow < 0 {
		bad("penalty window", s.PenaltyWindow, "0 or more")
	}
	return fault.As(fault.ErrMisuse, errors.Join(errs...))
}

// Sampler chooses tokens. The same settings, seed and logits give the same tokens.
type Sampler struct {
	s     Sampling
	rng   *rand.Rand
	heap  []candidate
	kept  []candidate
	seen  map[int32]bool
	score []float32
}

// candidate is a token and its weight: the logit over the temperature, then e^(that - the largest).
type candidate struct {
	weight float64
	id     int32
}

// before is the order of likelihood; equals go by id, so that the order is total.
func (c candidate) before(d candidate) bool {
	return c.weight > d.weight || c.weight == d.weight && c.id < d.id
}

// NewSampler makes a sampler; its draws start at the seed.
func NewSampler(s Sampling) (*Sampler, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	return &Sampler{s: s, rng: rand.New(rand.NewPCG(s.Seed, 0x9e3779b97f4a7c15)), seen: map[int32]bool{}}, nil //nolint:gosec // not for secrets
}

// ErrNoToken is the reason when a row of logits holds no number to choose from.
var ErrNoToken = errors.New("no finite logit to choose from")

// Next chooses the token that follows text, given the logits after it. The logits are not changed.
// Of equal logits the lower id wins. It fails with ErrNoToken when a logit is NaN or +Inf, or all
// are -Inf.
func (s *Sampler) Next(logits []float32, text []int32) (int32, error) {
	score := s.penalised(logits, text)
	best := -1
	for i, v := range score {
		if v != v || math.IsInf(float64(v), 1) {
			return 0, fmt.Errorf("%w: logit %d is %v", ErrNoToken, i, v)
		}
		if best < 0 || v > score[best] {
			best = i
		}
	}
	if best < 0 || math.IsInf(float64(score[best]), -1) {
		return 0, ErrNoToken
	}
	if s.s.Temperature == 0 {
		return int32(best), nil
	}
	return s.draw(score, float64(score[best])), nil
}

// penalised applies the repetition penalty to a copy of the logits.
func (s *Sampler) penalised(logits []float32, text []int32) []float32 {
	p := float32(s.s.RepetitionPenalty)
	if p == 0 || p == 1 {
		return logits
	}
	if n := s.s.PenaltyWindow; n > 0 && n < len(text) {
		text = text[len(text)-n:]
	}
	s.score = append(s.score[:0], logits...)
	clear(s.seen)
	for _, id := range text {
		if int(id) >= len(logits) || s.seen[id] {
			continue
		}
		s.seen[id] = true
		if v := s.score[id]; v < 0 {
			s.score[id] = v * p
		} else {
			s.score[id] = v / p
		}
	}
	return s.score
}

// draw filters and picks. Only as many tokens are ordered as the filters need, since a vocabulary
// is long and the filters keep few.
func (s *Sampler) draw(score []float32, top float64) int32 {
	all := s.heap[:0]
	total := 0.0
	for i, v := range score {
		w := math.Exp((float64(v) - top) / s.s.Temperature)
		total += w
		all = append(all, candidate{w, int32(i)})
	}
	s.heap = all
	topP := s.s.TopP
	if topP == 0 {
		topP = 1
	}
	if s.s.TopK == 0 && topP == 1 && s.s.MinP == 0 {
		return pick(all, s.rng.Float64()*total)
	}
	heapify(all)
	kept := s.kept[:0]
	if k := s.s.TopK; k > 0 && k < len(all) {
		total = 0
		for len(kept) < k {
			var c candidate
			c, all = pop(all)
			kept = append(kept, c)
			total += c.weight
		}
		all = kept // already in order; top-p and min-p cut it below
		kept = all[:0]
		sum := 0.0
		for i, c := range all {
			if i > 0 && s.cut(c, sum, total, topP) {
				break
			}
			sum += c.weight
			kept = all[:i+1]
		}
	} else {
		sum := 0.0
		for len(all) > 0 && (len(kept) == 0 || !s.cut(all[0], sum, total, topP)) {
			var c candidate
			c, all = pop(all)
			kept = append(kept, c)
			sum += c.weight
		}
	}
	s.kept = kept
	sum := 0.0
	for _, c := range kept {
		sum += c.weight
	}
	return pick(kept, s.rng.Float64()*sum)
}

// cut reports whether top-p or min-p drop c and all after it; sum is the weight of those before. The
// most likely token has weight 1.
func (s *Sampler) cut(c candidate, sum, total, topP float64) bool {
	return topP < 1 && sum >= topP*total || c.weight < s.s.MinP
}

// pick is the first candidate at which the running sum of weights exceeds at.
func pick(from []candidate, at float64) int32 {
	sum := 0.0
	last := int32(0)
	for _, c := range from {
		if c.weight == 0 {
			continue
		}
		if sum += c.weight; sum > at {
			return c.id
		}
		last = c.id
	}
	return last // rounding: at fell on the very end
}

// heapify orders a so that no parent at i comes after its children at 2i+1 and 2i+2.
func heapify(a []candidate) {
	for i := len(a)/2 - 1; i >= 0; i-- {
		sift(a, i)
	}
}

func sift(a []candidate, i int) {
	for {
		c := 2*i + 1
		if c >= len(a) {
			return
		}
		if c+1 < len(a) && a[c+1].before(a[c]) {
			c++
		}
		if !a[c].before(a[i]) {
			return
		}
		a[i], a[c] = a[c], a[i]
		i = c
	}
}

// pop takes the first of a heap.
func pop(a []candidate) (candidate, []candidate) {
	first := a[0]
	a[0] = a[len(a)-1]
	a = a[:len(a)-1]
	sift(a, 0)
	return first, a
}
