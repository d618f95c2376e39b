package eval

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "NegativeLogLikelihoodLoss", Inputs: 2, Narrow: true, Plan: byFloat(likelihood[float32], likelihood[float64])})
	register(Op{Name: "SoftmaxCrossEntropyLoss", Inputs: 2, Narrow: true, Plan: byFloat(crossEntropy[float32], crossEntropy[float64])})
}

// loss is how wrong scores [n, classes, places] are, given the class of every place.
type loss struct {
	n, classes, places int
	reduction          string
	ignore             int64 // the class of places that do not count
	ignores            bool
}

func newLoss(c *Call) (*loss, []int, error) {
	in, target := c.Shape(0), c.Shape(1)
	if len(in) < 2 || !slices.Equal(slices.Concat(in[:1], in[2:]), target) {
		return nil, nil, c.Fault("scores %v, labels %v", in, target)
	}
	l := &loss{
		n: in[0], classes: in[1], places: graph.Elems(in[2:]),
		reduction: c.Node.Str("reduction", "mean"),
		ignore:    int64(c.Node.Int("ignore_index", 0)), ignores: c.Node.Has("ignore_index"),
	}
	if c.Has(2) && (c.Type(2) != c.Type(0) || len(c.Shape(2)) != 1 || c.Elems(2) != l.classes) {
		return nil, nil, c.Fault("weights %s %v of %d classes", c.Type(2), c.Shape(2), l.classes)
	}
	shape := []int{}
	switch l.reduction {
	case "none":
		shape = target
	case "sum", "mean":
	default:
		return nil, nil, c.Fault("reduction %q", l.reduction)
	}
	return l, shape, nil
}

func likelihood[T float](c *Call) (Step, error) {
	l, shape, err := newLoss(c)
	if err != nil {
		return Step{}, err
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		return measure(l, elems[T](in[0]), in[1], third(in), elems[T](out[0]))
	}}, nil
}

// crossEntropy is the likelihood of what LogSoftmax makes of the scores; that is output 1.
func crossEntropy[T float](c *Call) (Step, error) {
	l, shape, err := newLoss(c)
	if err != nil {
		return Step{}, err
	}
	typ := c.Type(0)
	s := Step{Out: []Spec{Out(typ, shape...), Out(typ, c.Shape(0)...)}}
	s.Scratch = typ.Bytes(c.Elems(0))
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		log := elems[T](&graph.Tensor{Type: typ, Data: w.Scratch[:typ.Bytes(in[0].Elems())]})
		x := elems[T](in[0])
		w.Range(l.n*l.places, 8*l.classes, func(lo, hi int) {
			row := make([]T, l.classes)
			for i := lo; i < hi; i++ {
				at := i/l.places*l.classes*l.places + i%l.places
				for k := range row {
					row[k] = x[at+k*l.places]
				}
				logSoftmaxRow(row)
				for k, v := range row {
					log[at+k*l.places] = v
				}
			}
		})
		if len(out) > 1 && out[1] != nil {
			copy(elems[T](out[1]), log)
		}
		if out[0] == nil {
			return nil
		}
		return measure(l, log, in[1], third(in), elems[T](out[0]))
	}
	return s, nil
}

// measure takes minus the logarithm of the probability that each place's class has, times the class's weight.
func measure[T float](l *loss, log []T, labels, weights *graph.Tensor, y []T) error {
	target, err := labels.Ints()
	if err != nil {
		return err
	}
	var weight []T
	if weights != nil {
		weight = elems[T](weights)
	}
	sum, total := 0.0, 0.0
	for i, class := range target {
		v, w := 0.0, 1.0
		switch {
		case l.ignores && class == l.ignore:
			w = 0
		case class < 0 || class >= int64(l.classes):
			return fmt.Errorf("label %d of %d classes", class, l.classes)
		default:
			if weight != nil {
				w = float64(weight[class])
			}
			v = -float64(log[(i/l.places*l.classes+int(class))*l.places+i%l.places]) * w
		}
		if l.reduction == "none" {
			y[i] = T(v)
		}
		sum += v
		total += w
	}
	switch l.reduction {
	case "sum":
		y[0] = T(sum)
	case "mean":
		y[0] = T(sum / total)
	}
	return nil
}
