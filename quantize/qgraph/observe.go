package qgraph

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// ErrNoSamples is the reason when there is nothing to calibrate with.
var ErrNoSamples = errors.New("no calibration samples")

// each runs a graph over samples [0, n) and hands over the wanted values of each.
func each(ctx context.Context, net ir.Network, g *graph.Graph, samples ir.Samples, n int, want []*graph.Value, fn func(i int, t []*graph.Tensor) error) error {
	run, err := net.Open(ctx, g, want)
	if err != nil {
		return err
	}
	defer run.Close()
	for i := range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := samples.Sample(ctx, i)
		if err != nil {
			return err
		}
		t, err := run.Run(ctx, s)
		if err != nil {
			return err
		}
		if err := fn(i, t); err != nil {
			return fmt.Errorf("sample %d: %w", i, err)
		}
	}
	return run.Close()
}

// watched are the values whose ranges are needed: every coded one, and those that a clamp follows, which carry
// codes when the clamp stays float.
func watched(p *placement) []*graph.Value {
	want := slices.Clone(p.coded)
	for _, n := range p.g.Nodes {
		if len(n.Out) > 0 && p.clamped[n.Out[0]] != nil {
			want = append(want, n.Out[0])
		}
	}
	return want
}

// observeAll gives the histogram of every watched value.
func observeAll(ctx context.Context, net ir.Network, p *placement, samples ir.Samples) (map[*graph.Value]*calib.Histogram, error) {
	hist := map[*graph.Value]*calib.Histogram{}
	want := watched(p)
	for _, v := range want {
		hist[v] = calib.NewHistogram()
	}
	err := each(ctx, net, p.g, samples, samples.Len(), want, func(_ int, t []*graph.Tensor) error {
		for i, v := range want {
			if err := hist[v].Add(graph.Of[float32](t[i])); err != nil {
				return &fault.Error{Tensor: v.Name, Op: "calibrate", Err: err, Hint: "the network overflows on this input in float already"}
			}
		}
		return nil
	})
	return hist, err
}

// ranges chooses the scale and zero point of every group.
func ranges(p *placement, hist map[*graph.Value]*calib.Histogram) map[*graph.Value]calib.Affine {
	out := map[*graph.Value]calib.Affine{}
	grid := p.cfg.activationGrid()
	for h, counts := range hist {
		if a, ok := p.fixed[h]; ok {
			out[h] = a
			continue
		}
		lo, hi := calib.Range(counts, p.cfg.method(), grid, p.cfg.Percent)
		out[h] = grid.Affine(lo, hi)
	}
	return out
}
