package qgraph

import (
	"context"
	"errors"
	"fmt"
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
	weights := make([][]uint64, len(want))
	if p.cfg.method() == calib.MSE {
		for i, v := range want {
			weights[i] = p.influence(v)
		}
	}
	err := each(ctx, net, p.g, samples, samples.Len(), want, func(_ int, t []*graph.Tensor) error {
		return par.Range(ctx, 0, len(want), 1, func(_, from, to int) error {
			for i := from; i < to; i++ {
				v := want[i]
				var err error
				if x := graph.Of[float32](t[i]); weights[i] == nil {
					err = hist[v].Add(x)
				} else {
					err = hist[v].AddChannels(x, weights[i], p.inner(v, t[i]))
				}
				if err != nil {
					return &fault.Error{Tensor: v.Name, Op: "calibrate", Err: err, Hint: "the network overflows on this input in float already"}
				}
			}
			return nil
		})
	})
	return hist, err
}

// influence says how much an error of each channel of a value adds to that of the layers that read it: the sum of
// its squared weights there, relative to the largest. It is nil where something else reads it, too.
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
	var most float64
	for _, s := range sums {
		most = max(most, s)
	}
	if most == 0 {
		return nil
	}
	out := make([]uint64, len(sums))
	for c, s := range sums {
		out[c] = max(1, uint64(math.Round(1000*s/most)))
	}
	return out
}

// inner is how many elements of a tensor that layers read lie behind each other in one channel.
func (p *placement) inner(v *graph.Value, t *graph.Tensor) int {
	if isOp(p.x.Readers[v][0], "Gemm", "MatMul") {
		return 1
	}
	return graph.Elems(t.Shape[2:])
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
