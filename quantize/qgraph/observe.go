package qgraph

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
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

// watch runs a graph over all samples and shows the values that are wanted as they are made, with the number of the sample.
func watch(ctx context.Context, net ir.Network, g *graph.Graph, samples ir.Samples, want []*graph.Value, see func(sample, i int, t *graph.Tensor, pixels bool) error) error {
	now := 0
	run, err := net.Watch(ctx, g, want, func(i int, t *graph.Tensor, pixels bool) error { return see(now, i, t, pixels) })
	if err != nil {
		return err
	}
	defer run.Close()
	for now = range samples.Len() {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := samples.Sample(ctx, now)
		if err != nil {
			return err
		}
		if _, err := run.Run(ctx, s); err != nil {
			return fmt.Errorf("sample %d: %w", now, err)
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

// overflows is the error of values that are not finite.
func overflows(v *graph.Value, err error) error {
	return &fault.Error{Tensor: v.Name, Op: "calibrate", Err: err, Hint: "the network overflows on this input in float already"}
}

// influence says how much an error of each channel of a value adds to that of the layers that read it: the sum of
// its squared weights there, relative to the mean. It is nil where something else reads it, too.
func (p *placement) influence(v *graph.Value) []uint64 {
	var sums []float64
	for _, n := range p.x.Readers[v] {
		l := p.layers[n]
		if p.form[n] != formLinear || n.In[0] != v {
			return nil
		}
		if sums == nil {
			sums = make([]float64, l.inputs())
		}
		if len(sums) != l.inputs() {
			return nil
		}
		row := make([]float32, l.cols)
		for o := range l.outs {
			l.row(row, o)
			for c, w := range row {
				sums[l.input(o, c)] += float64(w) * float64(w)
			}
		}
	}
	if slices.Max(append(sums, 0)) == 0 {
		return nil
	}
	mean := 0.0
	for _, s := range sums {
		mean += s / float64(len(sums))
	}
	out := make([]uint64, len(sums))
	for c, s := range sums {
		out[c] = max(1, uint64(math.Round(even*s/mean)))
	}
	return out
}

// even is how often an element counts where channels matter alike, and their mean elsewhere: values that share a scale
// weigh the same, whatever is known of their readers.
const even = 1000

// ranges chooses the scale and zero point of every group.
func ranges(p *placement, hist map[*graph.Value]*calib.Histogram) map[*graph.Value]calib.Affine {
	grid := p.cfg.activationGrid()
	heads := slices.Collect(maps.Keys(hist))
	chosen := make([]calib.Affine, len(heads))
	_ = par.Range(context.Background(), 0, len(heads), 1, func(_, i, _ int) error { // never fails
		a, ok := p.fixed[heads[i]]
		if !ok {
			a = grid.Affine(calib.Range(hist[heads[i]], p.cfg.method(), grid, p.cfg.Percent))
		}
		chosen[i] = a
		return nil
	})
	out := map[*graph.Value]calib.Affine{}
	for i, h := range heads {
		out[h] = chosen[i]
	}
	return out
}
