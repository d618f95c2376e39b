package samples

import (
	"context"
	"slices"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// Batches runs a network on samples in memory, in batches of some size: what is timed.
type Batches struct {
	network *Network
	samples []ir.Sample
	axes    map[string]int // of inputs whose batch is open: the axis that counts it
	batch   int
	runs    int // of Run a batch
	now     []ir.Sample
	at      int
	ready   map[int]bool // sizes that have run together
}

// NewBatches takes samples of a batch of one; runs go through them in a circle.
func NewBatches(n *Network, list []ir.Sample) *Batches {
	return &Batches{network: n, samples: list, axes: BatchAxes(n.Program.Inputs()), batch: 1, runs: 1, now: list, ready: map[int]bool{}}
}

// First copies the first samples, so that they lie in memory: a set hands out one at a time.
func First(ctx context.Context, set ir.Samples, most int) (list []ir.Sample, err error) {
	for i := range min(most, set.Len()) {
		s, err := set.Sample(ctx, i)
		if err != nil {
			return nil, err
		}
		own := ir.Sample{}
		for name, t := range s {
			if own[name] = t; t != nil {
				own[name] = tiled(t, 0, 1)
			}
		}
		list = append(list, own)
	}
	return list, nil
}

// BatchAxes finds the axis of inputs that counts samples: of a name that the first axis of an input has, or, when
// nothing has a name, the first open one of each.
func BatchAxes(inputs []*graph.Value) map[string]int {
	open := func(v *graph.Value) int {
		if v.Const != nil || v.Kind != graph.KindTensor || v.Shape == nil {
			return -1
		}
		return slices.IndexFunc(*v.Shape, func(d graph.Dim) bool { return d.Size < 0 })
	}
	axes := map[string]int{}
	for _, first := range inputs {
		if open(first) != 0 {
			continue
		}
		name := (*first.Shape)[0].Name
		for _, v := range inputs {
			at := open(v)
			if at >= 0 && name != "" {
				at = slices.IndexFunc(*v.Shape, func(d graph.Dim) bool { return d.Name == name })
			}
			if at >= 0 {
				axes[v.Name] = at
			}
		}
		break
	}
	return axes
}

// tiled repeats a tensor n times along an axis.
func tiled(t *graph.Tensor, axis, n int) *graph.Tensor {
	shape := slices.Clone(t.Shape)
	if axis < len(shape) {
		shape[axis] *= n
	}
	out := graph.New(t.Type, shape...)
	if n == 1 || axis >= len(shape) {
		copy(out.Data, t.Data)
		copy(out.Strings, t.Strings)
		return out
	}
	blocks := graph.Elems(t.Shape[:axis])
	size := len(t.Data) / max(1, blocks)
	for b := range blocks {
		for k := range n {
			copy(out.Data[(b*n+k)*size:], t.Data[b*size:(b+1)*size])
		}
	}
	return out
}

// Batch repeats a sample n times where the graph leaves its batch open, and runs it as often where not.
func (b *Batches) Batch(ctx context.Context, n int) (bool, error) {
	if n == b.batch {
		return b.runs == 1, nil
	}
	b.batch, b.runs, b.now, b.at = n, n, b.samples, 0
	together, known := b.ready[n]
	if n == 1 || known && !together || len(b.axes) == 0 || slices.ContainsFunc(b.samples, func(s ir.Sample) bool {
		return slices.ContainsFunc(b.network.Program.Inputs(), func(v *graph.Value) bool { return s[v.Name] != nil && s[v.Name].Type == graph.String })
	}) {
		return n == 1, nil
	}
	var wide []ir.Sample
	for _, s := range b.samples {
		w := ir.Sample{}
		for name, t := range s {
			if w[name] = t; t != nil {
				if axis, counts := b.axes[name]; counts && axis < len(t.Shape) && t.Shape[axis] == 1 {
					w[name] = tiled(t, axis, n)
				}
			}
		}
		wide = append(wide, w)
	}
	if !known { // not every graph can do what its inputs promise
		_, err := b.network.Run(ctx, wide[0])
		if b.ready[n] = err == nil; err != nil {
			return false, ctx.Err()
		}
	}
	b.now, b.runs = wide, 1
	return true, nil
}

// Run computes a batch.
func (b *Batches) Run(ctx context.Context) error {
	for range b.runs {
		s := b.now[b.at]
		if b.at++; b.at == len(b.now) {
			b.at = 0
		}
		if _, err := b.network.Run(ctx, s); err != nil {
			return err
		}
	}
	return nil
}
