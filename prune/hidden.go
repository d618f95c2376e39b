package prune

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
)

// normed is a norm with what comes out of it, in means over tokens.
type normed struct {
	norm   *ir.Tensor
	gain   []float32
	energy []float64 // mean square of each channel behind the norm
}

// narrow takes channels out of the residual stream, and with them columns of everything that reads it and
// rows of everything that writes it. Those go that come out of the norms most quietly, each norm counting
// the same. A norm divides by the root mean square over the channels there are: its gains make up for the
// share of the energy that is gone.
func (r *widthRun) narrow(ctx context.Context) error {
	all, err := r.behindNorms(ctx)
	if err != nil {
		return err
	}
	was, stay := *r.m.Decoder, r.now.Hidden
	score := make([]float64, was.Hidden)
	for _, n := range all {
		var mean float64
		for _, v := range n.energy {
			mean += math.Sqrt(v) / float64(was.Hidden)
		}
		if mean > 0 {
			for c, v := range n.energy {
				score[c] += math.Sqrt(v) / mean
			}
		}
	}
	keep := best(score, stay)
	var share float64
	for _, n := range all {
		// behind the division, before the gain, the mean square over channels is 1
		var left, whole float64
		for c, v := range n.energy {
			if g := float64(n.gain[c]); g != 0 {
				whole += v / (g * g)
				if _, ok := slices.BinarySearch(keep, c); ok {
					left += v / (g * g)
				}
			}
		}
		factor := 1.0
		if left > 0 && whole > 0 {
			factor = math.Sqrt(left / whole * float64(was.Hidden) / float64(stay))
			share += left / whole / float64(len(all))
		}
		gain := make([]float32, stay)
		for i, c := range keep {
			gain[i] = float32(float64(n.gain[c]) * factor)
		}
		t, err := vector(n.norm, gain)
		if err != nil {
			return ir.Wrap(n.norm, r.Name(), err)
		}
		if err := r.m.Replace(t); err != nil {
			return err
		}
	}
	for _, t := range slices.Clone(r.m.Tensors()) {
		var rows, cols []int
		switch t.Role {
		case ir.RoleEmbedding, ir.RoleHead, ir.RoleAttnQ, ir.RoleAttnK, ir.RoleAttnV, ir.RoleMLPGate, ir.RoleMLPUp,
			ir.RoleAttnOBias, ir.RoleMLPDownBias:
			cols = keep
		case ir.RoleAttnO, ir.RoleMLPDown:
			rows = keep
		}
		if err := r.m.Replace(pick(t, rows, cols)); err != nil {
			return err
		}
	}
	was.Hidden, was.NormEps = stay, r.now.NormEps
	r.m.Decoder = &was
	r.narrowed = fmt.Sprintf("channels that stay hold %.1f %% of the energy before the norms; nothing is fitted to those that went, so train the model afterwards", 100*share)
	return nil
}

// behindNorms measures what comes out of every norm.
func (r *widthRun) behindNorms(ctx context.Context) (all []*normed, err error) {
	w, err := r.env.Executor.Start(ctx, r.m, r.env.Tokens)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	hidden := r.m.Decoder.Hidden
	measure := func(t *ir.Tensor, run func(fn func(x []float32, rows, cols int) error) error) error {
		gain, err := ir.ReadAll(ctx, t)
		if err != nil {
			return err
		}
		n := &normed{t, gain, make([]float64, hidden)}
		tokens := 0
		err = run(func(x []float32, rows, cols int) error {
			for i, v := range x {
				n.energy[i%cols] += float64(float64(v) * float64(v))
			}
			tokens += rows
			return nil
		})
		for c := range n.energy {
			if n.energy[c] /= float64(tokens); n.energy[c]-n.energy[c] != 0 {
				return ir.Wrap(t, r.Name(), fmt.Errorf("channel %d: %w", c, fault.ErrNotFinite))
			}
		}
		all = append(all, n)
		return err
	}
	for b := range r.m.Decoder.Layers {
		for _, at := range []struct {
			norm  ir.Role
			reads ir.Role
		}{{ir.RoleAttnNorm, ir.RoleAttnQ}, {ir.RoleMLPNorm, ir.RoleMLPUp}} {
			s := ir.Stages[stageOf(at.reads)]
			if err := measure(r.m.Role(at.norm, b), func(fn func([]float32, int, int) error) error { return w.Inputs(ctx, s, fn) }); err != nil {
				return nil, err
			}
		}
		if err := w.Next(ctx); err != nil {
			return nil, err
		}
	}
	return all, measure(r.m.Role(ir.RoleFinalNorm, -1), func(fn func([]float32, int, int) error) error { return w.Head(ctx, fn) })
}
