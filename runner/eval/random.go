package eval

import (
	"math"
	"math/rand/v2"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	for _, like := range []bool{false, true} {
		suffix, inputs := "", -1
		if like {
			suffix, inputs = "Like", 1
		}
		register(Op{Name: "RandomUniform" + suffix, Inputs: inputs, Random: true, Plan: func(c *Call) (Step, error) {
			low, high := float64(c.Node.Float("low", 0)), float64(c.Node.Float("high", 1))
			return planRandom(c, like, func(r *rand.Rand) float64 { return low + float64(r.Float64()*(high-low)) })
		}})
		register(Op{Name: "RandomNormal" + suffix, Inputs: inputs, Random: true, Plan: func(c *Call) (Step, error) {
			mean, scale := float64(c.Node.Float("mean", 0)), float64(c.Node.Float("scale", 1))
			return planRandom(c, like, func(r *rand.Rand) float64 { return mean + float64(r.NormFloat64()*scale) })
		}})
	}
	register(Op{Name: "Bernoulli", Narrow: true, Random: true, Plan: planBernoulli})
	register(Op{Name: "Multinomial", Narrow: true, Random: true, Plan: planMultinomial})
}

// generator makes the numbers of a node's seed: the same in every run, so that a run can be repeated.
func generator(c *Call) func() *rand.Rand {
	seed := uint64(math.Float32bits(c.Node.Float("seed", 0)))
	return func() *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }
}

// randomType is the type that a node asks for.
func randomType(c *Call, def graph.DType) (graph.DType, error) {
	typ := graph.DType(c.Node.Int("dtype", int(def)))
	if !typ.Float() && !typ.Integer() && typ != graph.Bool {
		return typ, c.Fault("elements of type %s", typ)
	}
	return typ, nil
}

func planRandom(c *Call, like bool, draw func(r *rand.Rand) float64) (Step, error) {
	shape, def := c.Node.Ints("shape"), graph.Float32
	if like {
		shape, def = c.Shape(0), c.Type(0)
	}
	typ, err := randomType(c, def)
	if err != nil {
		return Step{}, err
	}
	if err := graph.CheckShape(append([]int{8}, shape...)); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	if err := c.Fits(8 * graph.Elems(shape)); err != nil {
		return Step{}, err
	}
	random := generator(c)
	return Step{Out: []Spec{Out(typ, shape...)}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
		r, x := random(), make([]float64, graph.Elems(shape))
		for i := range x {
			x[i] = draw(r)
		}
		recode(out[0], graph.From(graph.Float64, x, len(x)))
		return nil
	}}, nil
}

// planBernoulli draws ones with the probabilities of input 0.
func planBernoulli(c *Call) (Step, error) {
	typ, err := randomType(c, c.Type(0))
	if err != nil || !c.Type(0).Float() {
		return Step{}, c.Fault("%s from probabilities of type %s", typ, c.Type(0))
	}
	random := generator(c)
	return Step{Out: []Spec{Out(typ, c.Shape(0)...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		r, x := random(), numbers(in[0])
		for i, p := range x {
			x[i] = 0
			if r.Float64() < p {
				x[i] = 1
			}
		}
		recode(out[0], graph.From(graph.Float64, x, len(x)))
		return nil
	}}, nil
}

// planMultinomial draws classes by the logarithms of their weights [n, classes].
func planMultinomial(c *Call) (Step, error) {
	in, n := c.Shape(0), c.Node.Int("sample_size", 1)
	typ, err := randomType(c, graph.Int32)
	if err != nil || typ != graph.Int32 && typ != graph.Int64 || len(in) != 2 || in[1] < 1 || n < 1 || !c.Type(0).Float() {
		return Step{}, c.Fault("%d samples of type %s from %s %v", n, typ, c.Type(0), in)
	}
	if err := graph.CheckShape([]int{8, in[0], n}); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	random := generator(c)
	return Step{Out: []Spec{Out(typ, in[0], n)}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		r, x := random(), numbers(ts[0])
		y := make([]int64, in[0]*n)
		for b := range in[0] {
			row := x[b*in[1] : (b+1)*in[1]]
			softmaxRow(row)
			for i := range n {
				class, left := 0, r.Float64()
				for left -= row[0]; left >= 0 && class < in[1]-1; left -= row[class] {
					class++
				}
				y[b*n+i] = int64(class)
			}
		}
		recode(out[0], graph.From(graph.Int64, y, len(y)))
		return nil
	}}, nil
}
