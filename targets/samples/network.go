package samples

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
)

// Network is a graph that runs over samples.
type Network struct {
	Path    string // for messages
	Program *eval.Program
}

// Run computes one sample, inputs in place of states included.
func (n *Network) Run(ctx context.Context, sample ir.Sample) ([]eval.Value, error) {
	inputs := n.Program.Inputs()
	list := make([]eval.Value, len(inputs))
	for i, v := range inputs {
		if t := sample[v.Name]; t != nil {
			list[i] = eval.Of(t)
		}
	}
	out, err := n.Program.Run(ctx, list...)
	return out, n.inFile(err)
}

// inFile names the file in an error that names none.
func (n *Network) inFile(err error) error {
	var fe *fault.Error
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &fe) && fe.File != "" {
		return err
	}
	return &fault.Error{File: n.Path, Err: err}
}

// Carrier hands the states of a network from one chunk of a file to the next.
type Carrier struct {
	n    *Network
	from map[string]int // input -> output that it continues with
	held map[string]*graph.Tensor
}

// NewCarrier finds the outputs that the states of a set continue with.
func NewCarrier(n *Network, set *Set) (*Carrier, error) {
	c := &Carrier{n, map[string]int{}, map[string]*graph.Tensor{}}
	for input, output := range set.States() {
		at := slices.IndexFunc(n.Program.Graph.Outputs, func(v *graph.Value) bool { return v.Name == output })
		if at < 0 {
			var names []string
			for _, v := range n.Program.Graph.Outputs {
				names = append(names, v.Name)
			}
			return nil, &fault.Error{
				File: n.Path, Op: "input " + input, Err: fault.As(fault.ErrMisuse, fmt.Errorf("state = %q is no output", output)),
				Hint: "outputs: " + strings.Join(names, ", "),
			}
		}
		c.from[input] = at
	}
	return c, nil
}

// Step runs a sample with the states of the one before, unless it begins a file. It returns the sample with
// the states that it was given, too.
func (c *Carrier) Step(ctx context.Context, sample ir.Sample, fresh bool) (ir.Sample, []eval.Value, error) {
	sample = maps.Clone(sample)
	if !fresh {
		maps.Copy(sample, c.held)
	}
	out, err := c.n.Run(ctx, sample)
	if err != nil {
		return nil, nil, err
	}
	for input, at := range c.from {
		t := out[at].Tensor
		if t == nil {
			return nil, nil, &fault.Error{File: c.n.Path, Op: "input " + input, Err: fault.As(fault.ErrMisuse, errors.New("its state is no tensor"))}
		}
		x := graph.New(t.Type, t.Shape...) // results are gone with the next run
		copy(x.Data, t.Data)
		c.held[input] = x
	}
	return sample, out, nil
}

// Each runs all samples in order, states carried from one chunk of a file to the next.
func (n *Network) Each(ctx context.Context, set *Set, fn func(i int, sample ir.Sample, out []eval.Value) error) error {
	c, err := NewCarrier(n, set)
	if err != nil {
		return err
	}
	for i := range set.Len() {
		sample, err := set.Sample(ctx, i)
		if err != nil {
			return err
		}
		sample, out, err := c.Step(ctx, sample, set.Fresh(i))
		if err != nil {
			return err
		}
		if err := fn(i, sample, out); err != nil {
			return err
		}
	}
	return nil
}

// Given is a set as passes take it: with the states that the network has at each sample, where it has any.
func (n *Network) Given(ctx context.Context, set *Set) (ir.Samples, error) {
	if len(set.States()) == 0 {
		return set, nil
	}
	var with ir.SampleList
	err := n.Each(ctx, set, func(_ int, sample ir.Sample, _ []eval.Value) error {
		with = append(with, sample)
		return nil
	})
	return with, err
}

// Scores says how many rows of how many classes a tensor has, when it looks like the output of a classifier:
// floats, two axes at most that are longer than 1.
func Scores(t *graph.Tensor) (rows, classes int) {
	r := len(t.Shape)
	if !t.Type.Float() || r == 0 || r > 2 || t.Shape[r-1] < 2 || t.Shape[r-1] > 1<<17 {
		return 0, 0
	}
	classes = t.Shape[r-1]
	return t.Elems() / classes, classes
}
