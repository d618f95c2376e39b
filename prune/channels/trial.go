package channels

import (
	"context"

	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/ir/graph"
)

// Bounds of trials.
const (
	trialSamples  = 64
	trialElements = 1 << 24 // that flow through the network, over all samples of a trial
	trialRows     = 1 << 12
)

// trials replace what the scores say a group costs by what is measured: the group alone is pruned by half, the layers
// behind it are fitted, and the outputs are compared with those of the original. What a layer loses may be made up
// for by those behind it, so its own error says little.
func (p *pruning) trials(ctx context.Context, shapes map[string][]int) error {
	var todo []*group
	for _, g := range p.groups {
		if len(g.kept) > 1 {
			todo = append(todo, g)
		}
	}
	var elements int64
	for _, n := range p.g.Nodes {
		for _, v := range n.Out {
			if s, ok := shapes[nameOf(v)]; ok {
				elements += int64(graph.Elems(s))
			}
		}
	}
	few := min(len(p.samples), trialSamples, max(int(trialElements/max(elements, 1)), 2))
	p.sink.Stage("try", int64(len(todo)), "groups")
	for _, g := range todo {
		k := g.near(0.5)
		c, err := p.try(ctx, g.order[:k], few)
		if err != nil {
			return err
		}
		if g.cost[k] > 0 {
			f := c / g.cost[k]
			for i := range g.cost {
				g.cost[i] *= f
			}
		}
		p.sink.Add(1)
	}
	return nil
}

// near is how many units go when about a share stays.
func (g *group) near(share float64) int {
	n, best := len(g.units), 1
	distance := func(kept int) float64 {
		d := float64(kept) - share*float64(n)
		return d * d
	}
	for i, kept := range g.kept {
		if i > 0 && distance(kept) < distance(g.kept[best]) {
			best = i
		}
	}
	return n - g.kept[best]
}

// try prunes some units alone and says what the outputs lose, the mean over them.
func (p *pruning) try(ctx context.Context, units []int, few int) (float64, error) {
	c := *p
	c.sink, c.report, c.rows = progress.Discard, Report{}, trialRows
	c.samples = nil
	for i := range few {
		c.samples = append(c.samples, p.samples[i*len(p.samples)/few])
	}
	c.g, _ = p.g.Clone()
	c.original = p.g
	c.t = trace(c.g, p.cfg.Only, p.cfg.Skip) // the same ids as those of p.t
	gone := map[int]bool{}
	for _, u := range units {
		gone[u] = true
	}
	c.keep = c.t.apply(gone)
	var err error
	if p.cfg.NoRefit {
		err = c.compare(ctx, newStage(p.net, c.original, c.samples), newStage(p.net, c.g, c.samples))
	} else {
		_, err = c.refit(ctx)
	}
	var sum float64
	for _, o := range c.report.Outputs {
		sum += price(o.noise) / float64(len(c.report.Outputs))
	}
	return sum, err
}

func nameOf(v *graph.Value) string {
	if v == nil {
		return ""
	}
	return v.Name
}
