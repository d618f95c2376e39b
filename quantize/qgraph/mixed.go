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

// Trade is a node that a search left float, with what that brought.
type Trade struct {
	Node    string
	Alone   float64 // score with only this node left float
	Score   float64 // score with it and those before it
	Weights int     // of the node: what stays at 32 bits
}

// Mix is the result of a search for mixed precision.
type Mix struct {
	Float      map[*graph.Node]bool
	Full       float64 // score with every node on integers
	Reached    float64
	Trades     []Trade
	Considered int // nodes whose sensitivity was measured
}

// ErrGate is the reason when no choice of float nodes reaches what is asked for.
var ErrGate = fault.As(fault.ErrGate, fmt.Errorf("the accuracy that is asked for is out of reach"))

// Mix finds few nodes which, left float, bring the score to a target. The score of every layer being the
// only float one ranks them; the best are made float until the target is met. Those that turn out not to be
// needed go back to integers, smallest gain first.
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
	var list []Trade
	nodes := map[string]*graph.Node{}
	for _, n := range s.g.Nodes {
		if p.form[n] != formLinear && p.form[n] != formProduct {
			continue // others follow the layers around them
		}
		v, err := try(map[*graph.Node]bool{n: true})
		if err != nil {
			return nil, err
		}
		t := Trade{Node: n.Label(), Alone: v}
		if l := p.layers[n]; l != nil {
			t.Weights = l.w.Elems()
		}
		list = append(list, t)
		nodes[t.Node] = n
	}
	m.Considered = len(list)
	slices.SortStableFunc(list, func(a, b Trade) int {
		// Equal gains: the cheaper one first.
		return cmp.Or(cmp.Compare(b.Alone, a.Alone), cmp.Compare(a.Weights, b.Weights))
	})
	for _, t := range list {
		if m.Reached >= target || len(m.Float) == len(list)-1 {
			break
		}
		m.Float[nodes[t.Node]] = true
		if t.Score, err = try(m.Float); err != nil {
			return nil, err
		}
		if t.Score <= m.Reached {
			delete(m.Float, nodes[t.Node]) // no help beside the others
			continue
		}
		m.Reached = t.Score
		m.Trades = append(m.Trades, t)
	}
	if m.Reached < target {
		return m, &fault.Error{
			Op: "quantize.mixed", Err: fmt.Errorf("%w: %.4g with %d of %d layers float, %.4g wanted", ErrGate, m.Reached, len(m.Float), len(list), target),
			Hint: "16-bit activations, or more calibration samples",
		}
	}
	for i := len(m.Trades) - 2; i >= 0; i-- {
		n := nodes[m.Trades[i].Node]
		delete(m.Float, n)
		v, err := try(m.Float)
		if err != nil {
			return nil, err
		}
		if v < target {
			m.Float[n] = true
			continue
		}
		m.Reached = v
		m.Trades = slices.Delete(m.Trades, i, i+1)
	}
	return m, nil
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
