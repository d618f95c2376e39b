package qgraph

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// Score measures a quantized network: higher is better. A task's accuracy, or Fidelity.
type Score func(ctx context.Context, g *graph.Graph) (float64, error)

// Trade is what a search left float together, with what that brought: a layer, or two around an activation, which
// is made codes as long as one of them runs on integers.
type Trade struct {
	Node    string  // labels of the layers, joined by " + "
	Alone   float64 // score with only this left float
	Score   float64 // score with it and those before it
	Weights int     // of the layers: what stays at 32 bits

	nodes []*graph.Node
}

// Mix is the result of a search for mixed precision.
type Mix struct {
	Float      map[*graph.Node]bool
	Full       float64 // score with every node on integers
	Reached    float64
	Trades     []Trade
	Considered int // layers and neighbours whose sensitivity was measured
}

// ErrGate is the reason when no choice of float nodes reaches what is asked for.
var ErrGate = fault.As(fault.ErrGate, fmt.Errorf("the accuracy that is asked for is out of reach"))

// Mix finds few nodes which, left float, bring the score to a target. The score of every layer being the only float
// one, and of every layer with those that read it, ranks them, with the codes that the others have without that;
// the best are made float until the target is met. Those that turn out not to be needed go back to integers,
// smallest gain first.
func (s *Static) Mix(ctx context.Context, score Score, target float64) (*Mix, error) {
	try := func(float map[*graph.Node]bool) (float64, error) {
		g, _, err := s.Build(ctx, float)
		if err != nil {
			return 0, err
		}
		return score(ctx, g)
	}
	m := &Mix{Float: map[*graph.Node]bool{}}
	var err error
	if m.Full, err = try(nil); err != nil {
		return nil, err
	}
	if m.Reached = m.Full; m.Full >= target {
		return m, nil
	}
	p := place(s.g, s.cfg, nil)
	list := p.candidates()
	for i := range list {
		t := &list[i]
		g, err := s.sketch(union(list[i : i+1]))
		if err != nil {
			return nil, err
		}
		if t.Alone, err = score(ctx, g); err != nil {
			return nil, err
		}
	}
	m.Considered = len(list)
	slices.SortStableFunc(list, func(a, b Trade) int {
		// Equal gains: the cheaper one first.
		return cmp.Or(cmp.Compare(b.Alone, a.Alone), cmp.Compare(len(a.nodes), len(b.nodes)), cmp.Compare(a.Weights, b.Weights))
	})
	all := len(union(list))
	for _, t := range list {
		if m.Reached >= target {
			break
		}
		more := append(slices.Clone(m.Trades), t)
		float := union(more)
		if len(float) == len(m.Float) || len(float) == all {
			continue // nothing new, or nothing left on integers
		}
		if t.Score, err = try(float); err != nil {
			return nil, err
		}
		if t.Score <= m.Reached {
			continue // no help beside the others
		}
		m.Reached, m.Float, m.Trades = t.Score, float, append(m.Trades, t)
	}
	if m.Reached < target {
		return m, &fault.Error{
			Op: "quantize.mixed", Err: fmt.Errorf("%w: %.4g with %d of %d layers float, %.4g wanted", ErrGate, m.Reached, len(m.Float), all, target),
			Hint: "16-bit activations, or more calibration samples",
		}
	}
	for i := len(m.Trades) - 1; i >= 0; i-- {
		for k := len(m.Trades[i].nodes) - 1; k >= 0; k-- {
			fewer := slices.Clone(m.Trades)
			fewer[i] = p.trade(slices.Delete(slices.Clone(fewer[i].nodes), k, k+1)...)
			fewer[i].Alone, fewer[i].Score = m.Trades[i].Alone, m.Trades[i].Score
			float := union(fewer)
			if len(float) == 0 || len(float) == len(m.Float) { // what was measured first, or another trade has the node
				continue
			}
			v, err := try(float)
			if err != nil {
				return nil, err
			}
			if v >= target {
				m.Reached, m.Float, m.Trades = v, float, fewer
			}
		}
	}
	m.Trades = slices.DeleteFunc(m.Trades, func(t Trade) bool { return len(t.nodes) == 0 })
	return m, nil
}

// candidates are the layers, and each with the layers that read it.
func (p *placement) candidates() (list []Trade) {
	linear := func(n *graph.Node) bool { return p.form[n] == formLinear || p.form[n] == formProduct }
	for _, n := range p.g.Nodes {
		if !linear(n) {
			continue // others follow the layers around them
		}
		list = append(list, p.trade(n))
		v := n.Out[0]
		for c := p.clamped[v]; c != nil; c = p.clamped[v] {
			v = c.Out[0]
		}
		readers := p.x.Readers[v]
		if len(readers) > 0 && !slices.ContainsFunc(readers, func(r *graph.Node) bool { return !linear(r) }) {
			list = append(list, p.trade(append([]*graph.Node{n}, readers...)...))
		}
	}
	return list
}

// trade names nodes that are left float together.
func (p *placement) trade(nodes ...*graph.Node) Trade {
	t := Trade{nodes: nodes}
	for i, n := range nodes {
		if i > 0 {
			t.Node += " + "
		}
		t.Node += n.Label()
		if l := p.layers[n]; l != nil {
			t.Weights += l.w.Elems()
		}
	}
	return t
}

// union are the nodes of trades.
func union(trades []Trade) map[*graph.Node]bool {
	all := map[*graph.Node]bool{}
	for _, t := range trades {
		for _, n := range t.nodes {
			all[n] = true
		}
	}
	return all
}

// Fidelity is a score without labels: the ratio of signal to noise of all outputs together, in dB, against
// the float network, over the first n samples.
func (s *Static) Fidelity(n int) Score {
	return func(ctx context.Context, g *graph.Graph) (float64, error) {
		other, err := s.net.Open(ctx, g, g.Outputs)
		if err != nil {
			return 0, err
		}
		defer other.Close()
		var signal, noise float64
		err = each(ctx, s.net, s.g, s.samples, min(n, s.samples.Len()), s.g.Outputs, func(i int, a []*graph.Tensor) error {
			x, err := s.samples.Sample(ctx, i)
			if err != nil {
				return err
			}
			b, err := other.Run(ctx, x)
			if err != nil {
				return err
			}
			for k := range a {
				if a[k].Type != graph.Float32 {
					continue
				}
				got := graph.Of[float32](b[k])
				for j, v := range graph.Of[float32](a[k]) {
					d := float64(v) - float64(got[j])
					signal += float64(float64(v) * float64(v))
					noise += float64(d * d)
				}
			}
			return nil
		})
		return ratio(signal, noise), err
	}
}
