package verify

import (
	"context"
	"math"

	"github.com/pare-dev/pare/runner"
)

// TextOptions say how both models write.
type TextOptions struct {
	Prompt  []int32
	Tokens  int // length of the sampled text; several contexts long, so that loops show
	Context int // tokens a model sees; at the end the older half is dropped and the rest read again
	Greedy  int // length of the greedy text that is compared token by token
	Seed    uint64
}

// WriteText lets both models write: greedily, to find where they part, and sampled at temperature
// 0.8 from the same random numbers, to see whether the package repeats itself more or is less sure.
// decode turns tokens into text.
func WriteText(ctx context.Context, a, b *runner.Runner, opt TextOptions, decode func([]int32) string) (*Text, error) {
	t := &Text{Prompt: decode(opt.Prompt), Tokens: opt.Tokens, Context: opt.Context}
	var greedy [2][]int32
	for i, r := range []*runner.Runner{a, b} {
		g, _, err := write(ctx, r, opt, opt.Greedy, runner.Sampling{})
		if err != nil {
			return nil, err
		}
		greedy[i] = g
		ids, h, err := write(ctx, r, opt, opt.Tokens, runner.Sampling{Temperature: 0.8, Seed: opt.Seed})
		if err != nil {
			return nil, err
		}
		f := TextFigure{Sample: decode(g), Repetition: repetition(ids), Entropy: h}
		if i == 0 {
			t.Original = f
		} else {
			t.Package = f
		}
	}
	for t.Divergence < opt.Greedy && greedy[0][t.Divergence] == greedy[1][t.Divergence] {
		t.Divergence++
	}
	return t, nil
}

// write generates n tokens and returns them with the mean entropy of the distributions they were
// drawn from. End-of-text tokens do not stop it: the length is part of the comparison.
func write(ctx context.Context, r *runner.Runner, opt TextOptions, n int, how runner.Sampling) ([]int32, float64, error) {
	s := r.NewSession()
	defer s.Close()
	sampler, err := runner.NewSampler(how)
	if err != nil {
		return nil, 0, err
	}
	seen := append([]int32(nil), opt.Prompt...)
	feed := seen
	var sum float64
	for range n {
		if s.Pos()+len(feed) > opt.Context {
			s.Truncate(0)
			feed = seen[len(seen)-opt.Context/2:]
		}
		var next int32
		err := s.Append(ctx, feed, runner.WantLast, func(_ int, logits []float32) (err error) {
			sum += entropy(logits)
			next, err = sampler.Next(logits, seen)
			return err
		})
		if err != nil {
			return nil, 0, err
		}
		seen = append(seen, next)
		feed = seen[len(seen)-1:]
	}
	return seen[len(opt.Prompt):], sum / math.Max(1, float64(n)), nil
}

// repetition is the share of 4-token sequences that stood in the text before.
func repetition(ids []int32) float64 {
	const n = 4
	if len(ids) < n {
		return 0
	}
	seen := map[[n]int32]bool{}
	again := 0
	for i := range len(ids) - n + 1 {
		key := [n]int32(ids[i:])
		if seen[key] {
			again++
		}
		seen[key] = true
	}
	return float64(again) / float64(len(ids)-n+1)
}
