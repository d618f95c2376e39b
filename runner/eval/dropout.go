package eval

import (
	"math/rand/v2"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Dropout", Narrow: true, Plan: planDropout})
}

// planDropout passes its input on, except in training, where it drops elements at random. The numbers are
// those of the node's seed, the same in every run.
func planDropout(c *Call) (Step, error) {
	ratio, training := float64(c.Node.Float("ratio", 0.5)), false
	switch {
	case c.Version >= 12:
		if c.Has(2) {
			t, err := c.Need(2)
			if err != nil {
				return Step{}, err
			}
			training = t.Type == graph.Bool && t.Elems() == 1 && t.Data[0] != 0
		}
		if ratio = 0.5; c.Has(1) && training {
			t, err := c.Need(1)
			if err != nil {
				return Step{}, err
			}
			if t.Elems() != 1 {
				return Step{}, c.Fault("a ratio of shape %v", t.Shape)
			}
			ratio = numbers(t)[0]
		}
	case c.Version < 7:
		training = c.Node.Int("is_test", 0) == 0
	}
	if training && !(ratio >= 0 && ratio < 1) {
		return Step{}, c.Fault("a ratio of %v", ratio)
	}
	typ := graph.Bool
	if c.Version < 10 {
		typ = c.Type(0)
	}
	out := []Spec{Out(c.Type(0), c.Shape(0)...), Out(typ, c.Shape(0)...)}
	if !training && len(c.Node.Out) == 1 {
		return Step{Out: out, Alias: true}, nil
	}
	seed := uint64(c.Node.Int("seed", 0))
	return Step{Out: out, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		n := in[0].Elems()
		mask := graph.New(graph.Bool, n)
		random := rand.New(rand.NewPCG(seed, 0))
		for i := range mask.Data {
			mask.Data[i] = 1
			if training && random.Float64() < ratio {
				mask.Data[i] = 0
			}
		}
		if out[0] != nil {
			copy(out[0].Data, in[0].Data)
		}
		if training && out[0] != nil {
			x := numbers(in[0])
			for i, keep := range mask.Data {
				x[i] *= float64(keep) / (1 - ratio)
			}
			recode(out[0], graph.From(graph.Float64, x, n))
		}
		if len(out) > 1 && out[1] != nil {
			recode(out[1], mask)
		}
		return nil
	}}, nil
}
