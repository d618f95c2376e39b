package prune

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// Depth is the pass "prune.depth": whole blocks go, those that change what flows through them least (block
// influence, ShortGPT, arXiv 2403.03853), or those without which the text is predicted best.
type Depth struct{ Options }

// Scores of blocks.
const (
	ScoreInfluence  = "influence"  // 1 - mean cosine of what enters and what leaves the block
	ScorePerplexity = "perplexity" // of the calibration text without the block; one block after the other
)

var depthScores = []string{ScoreInfluence, ScorePerplexity}

func init() {
	register(&Method{
		Name: "depth", Doc: "whole blocks go, those that change least what flows through them", Learns: true, Runs: true, Structured: true,
		Scores: depthScores,
		New:    func(o Options, _ map[string][]float32) ir.Pass { return &Depth{o} },
	})
}

// Name implements ir.Pass.
func (*Depth) Name() string { return "prune.depth" }

// Needs implements ir.Pass.
func (*Depth) Needs() ir.Need { return ir.NeedActivations }

// target is the decoder that the pass makes: which of the blocks stay is decided later.
func (p *Depth) target(m *ir.Model) (*ir.Decoder, error) {
	misuse := func(hint, format string, a ...any) error {
		return &fault.Error{File: m.Path, Op: p.Name(), Err: fault.As(fault.ErrMisuse, fmt.Errorf(format, a...)), Hint: hint}
	}
	s := &p.Structure
	if err := errors.Join(p.plain(p.Name()), s.check(p.Name(), depthScores)); err != nil {
		return nil, err
	}
	if err := shrinkable(p.Name(), m); err != nil {
		return nil, err
	}
	was := m.Decoder
	switch {
	case s.FFN != 0 || s.KVHeads != 0 || s.Hidden != 0 || s.Multiple != 0:
		return nil, misuse("use prune.width", "blocks keep their width when others go")
	case p.NoRefit:
		return nil, misuse("leave it out", "nothing is fitted when blocks go")
	case !s.budget() && s.Blocks == 0:
		return nil, misuse("say how much goes, such as ratio = 0.25, or how many stay, such as blocks = 5", "nothing to prune")
	case s.Blocks > was.Layers:
		return nil, misuse("", "%d blocks are to stay of %d", s.Blocks, was.Layers)
	}
	d := *was
	if s.Blocks > 0 {
		d.Layers = s.Blocks
	}
	for s.budget() && !s.fits(m, &d) {
		if d.Layers--; d.Layers < 1 || s.Blocks > 0 {
			return nil, misuse("ask for less", "the budget cannot be met by taking out blocks")
		}
	}
	if d.Layers == was.Layers {
		return nil, misuse("", "nothing to prune: the model is within the budget")
	}
	return &d, nil
}

// Plan implements ir.Pass.
func (p *Depth) Plan(ctx context.Context, m *ir.Model) (*ir.Plan, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := p.target(m)
	if err != nil {
		return nil, err
	}
	return steps(p.Name(), m, d, func(*ir.Tensor) bool { return false })
}

// Apply implements ir.Pass.
func (p *Depth) Apply(ctx context.Context, m *ir.Model, _ *ir.Plan, env ir.Env) (*ir.Result, error) {
	d, err := p.target(m)
	if err != nil {
		return nil, err
	}
	if env.Executor == nil || len(env.Tokens) == 0 {
		return nil, &fault.Error{Op: p.Name(), Err: fault.As(fault.ErrMisuse, errors.New("no calibration tokens")), Hint: "give --calibration FILE"}
	}
	was := m.Decoder
	n := was.Layers - d.Layers
	res := &ir.Result{Tensors: map[string]map[string]float64{}, Notes: []string{smaller(m, was, d)}}
	var drop []int
	if p.Structure.Score == ScorePerplexity {
		drop, err = p.byPerplexity(ctx, m, env, n, res)
	} else {
		drop, err = p.byInfluence(ctx, m, env, n, res)
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(drop)
	res.Notes = append(res.Notes, fmt.Sprintf("blocks that went, counted from 0: %s", list(drop)))
	if err := m.DropBlocks(drop); err != nil {
		return nil, err
	}
	res.Changed, res.Dropped, res.Decoder = n, drop, m.Decoder
	return res, nil
}

func list(blocks []int) (s string) {
	for i, b := range blocks {
		if i > 0 {
			s += ", "
		}
		s += fmt.Sprint(b)
	}
	return s
}

// influenceMemory bounds what is held to compare the input of a block with its output.
const influenceMemory = 256 << 20

// enough is the part of the tokens that fits.
func enough(tokens [][]int32, perToken, most int64) [][]int32 {
	var n int64
	for i, s := range tokens {
		if n += int64(len(s)) * perToken; n > most && i > 0 {
			return tokens[:i]
		}
	}
	return tokens
}

// byInfluence finds the blocks of the lowest influence. The first and the last two stay where there are
// enough others: what they do is not seen in the angle.
func (p *Depth) byInfluence(ctx context.Context, m *ir.Model, env ir.Env, n int, res *ir.Result) ([]int, error) {
	h, layers := m.Decoder.Hidden, m.Decoder.Layers
	sink := stage(env, layers)
	w, err := env.Executor.Start(ctx, m, enough(env.Tokens, 4*int64(h), influenceMemory))
	if err != nil {
		return nil, err
	}
	influence := make([]float64, layers)
	var before []float32
	for b := 0; ; b++ {
		at, tokens := 0, 0
		var sum float64
		err = w.Hidden(ctx, func(x []float32, rows, cols int) error {
			if b == 0 {
				before = append(before, x...)
				return nil
			}
			for r := range rows {
				sum += cosine(before[at+r*cols:][:cols], x[r*cols:][:cols])
			}
			copy(before[at:], x)
			at, tokens = at+len(x), tokens+rows
			return nil
		})
		if b > 0 && tokens > 0 {
			influence[b-1] = 1 - sum/float64(tokens)
			if v := influence[b-1]; v-v != 0 && err == nil {
				err = fault.ErrNotFinite
			}
			if errors.Is(err, fault.ErrNotFinite) {
				err = &fault.Error{File: m.Path, Op: p.Name(), Err: fmt.Errorf("what block %d gives: %w", b-1, err)}
			}
			sink.Add(1)
		}
		if err != nil || b == layers {
			break
		}
		if err = w.Next(ctx); err != nil {
			break
		}
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	free := others(nil, layers)
	if layers-4 >= n {
		free = free[2 : layers-2]
	}
	sort.SliceStable(free, func(a, b int) bool { return influence[free[a]] < influence[free[b]] })
	for b, v := range influence {
		res.Notes = append(res.Notes, fmt.Sprintf("block %d has an influence of %.4f", b, v))
	}
	return free[:n], nil
}

// cosine of two vectors; 1 when one of them is nothing, which no angle tells from the other.
func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i, v := range a {
		ab += float64(float64(v) * float64(b[i]))
		aa += float64(float64(v) * float64(v))
		bb += float64(float64(b[i]) * float64(b[i]))
	}
	if aa == 0 || bb == 0 {
		return 1
	}
	return ab / math.Sqrt(aa*bb)
}

// byPerplexity takes out the block without which the text is predicted best, then the next one.
func (p *Depth) byPerplexity(ctx context.Context, m *ir.Model, env ir.Env, n int, res *ir.Result) ([]int, error) {
	var drop []int
	sink := stage(env, n*m.Decoder.Layers)
	for range n {
		best, least := -1, math.Inf(1)
		for b := range m.Decoder.Layers {
			sink.Add(1)
			if slices.Contains(drop, b) {
				continue
			}
			without := m.Clone()
			if err := without.DropBlocks(append(slices.Clone(drop), b)); err != nil {
				return nil, err
			}
			loss, err := predicted(ctx, without, env)
			if err != nil {
				return nil, err
			}
			res.Notes = append(res.Notes, fmt.Sprintf("without blocks %s the calibration text has a perplexity of %.3f", list(append(slices.Clone(drop), b)), math.Exp(loss)))
			if loss < least {
				best, least = b, loss
			}
		}
		if best < 0 {
			return nil, fmt.Errorf("no block can be left out: what the model predicts is not finite: %w", fault.ErrNotFinite)
		}
		drop = append(drop, best)
	}
	return drop, nil
}

// predicted is the mean of -ln p of every token after the first of its sequence.
func predicted(ctx context.Context, m *ir.Model, env ir.Env) (float64, error) {
	head := m.Role(ir.RoleHead, -1)
	if m.Decoder.TiedHead || head == nil {
		head = m.Role(ir.RoleEmbedding, -1)
	}
	x, err := ir.ReadAll(ctx, head)
	if err != nil {
		return 0, err
	}
	weights := kernels.View(x, head.Rows(), head.Cols())
	w, err := env.Executor.Start(ctx, m, env.Tokens)
	if err != nil {
		return 0, err
	}
	for range m.Decoder.Layers {
		if err := w.Next(ctx); err != nil {
			return 0, errors.Join(err, w.Close())
		}
	}
	var next []int32 // the token that follows each one, -1 at the end of a sequence
	for _, s := range env.Tokens {
		next = append(append(next, s[1:]...), -1)
	}
	k := kernels.For(env.ISA)
	var sum float64
	n, at := 0, 0
	err = w.Head(ctx, func(x []float32, rows, cols int) error {
		const some = 64
		for lo := 0; lo < rows; lo += some {
			hi := min(rows, lo+some)
			logits := kernels.View(make([]float32, (hi-lo)*weights.Rows), hi-lo, weights.Rows)
			if err := kernels.Gemm(ctx, k, env.Threads, kernels.NT, logits, kernels.View(x[lo*cols:hi*cols], hi-lo, cols), weights, false); err != nil {
				return err
			}
			for i := range hi - lo {
				if id := next[at+lo+i]; id >= 0 {
					sum += surprise(logits.Row(i), int(id))
					n++
				}
			}
		}
		at += rows
		return nil
	})
	if err := errors.Join(err, w.Close()); err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, errors.New("the calibration sequences have one token each")
	}
	return sum / float64(n), nil
}

// surprise is -ln of the probability of a token.
func surprise(logits []float32, id int) float64 {
	top := float64(slices.Max(logits))
	var sum float64
	for _, v := range logits {
		sum += math.Exp(float64(v) - top)
	}
	return top + math.Log(sum) - float64(logits[id])
}
