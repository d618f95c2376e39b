package samples

import (
	"context"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/runner/verify"
)

// Comparison is two graphs that run side by side, sample by sample. Original and package are compiled by the
// caller; with Layers, the first observes with Remember, the second with Compare.
type Comparison struct {
	Result *verify.Graphs
	Labels []int // of the rows of scores, nil when there are none
	// Most is how many samples count, from the first on; 0: all.
	Most int
	// Progress is told after every sample; nil for silence.
	Progress func()
	// Save is given output k of sample i, of the original and of the package; nil keeps none. What it is given is
	// gone with the next sample.
	Save func(k, i int, original, made eval.Value) error

	rows   int                  // compared so far
	values map[string][]float64 // of the original, for the sample that runs
	at     map[string]int       // layers by name
}

// Run takes both through all samples, each with its own states.
func (c *Comparison) Run(ctx context.Context, original, made *Network, set *Set) error {
	names := map[string]int{}
	for i, v := range made.Program.Graph.Outputs {
		names[v.Name] = i
	}
	for _, v := range original.Program.Graph.Outputs {
		if _, ok := names[v.Name]; !ok {
			return &fault.Error{File: made.Path, Err: misuse("it has no output %q, which the original has", v.Name)}
		}
		c.Result.Outputs = append(c.Result.Outputs, verify.OutputError{Name: v.Name})
	}
	x, err := NewCarrier(original, set)
	if err != nil {
		return err
	}
	y, err := NewCarrier(made, set)
	if err != nil {
		return err
	}
	n := set.Len()
	if c.Most > 0 {
		n = min(n, c.Most)
	}
	for i := range n {
		sample, err := set.Sample(ctx, i)
		if err != nil {
			return err
		}
		clear(c.values)
		_, p, err := x.Step(ctx, sample, set.Fresh(i))
		if err != nil {
			return err
		}
		_, q, err := y.Step(ctx, sample, set.Fresh(i))
		if err != nil {
			return err
		}
		for k := range p {
			other := q[names[c.Result.Outputs[k].Name]]
			err := c.output(k, p[k], other)
			if err == nil && c.Save != nil {
				err = c.Save(k, i, p[k], other)
			}
			if err != nil {
				return &fault.Error{File: made.Path, Op: "output " + c.Result.Outputs[k].Name, Err: err}
			}
		}
		if c.Progress != nil {
			c.Progress()
		}
	}
	if c.Labels != nil && c.rows != len(c.Labels) {
		return labelFault("%d labels for %d rows of scores", len(c.Labels), c.rows)
	}
	return nil
}

func misuse(format string, args ...any) error {
	return fault.As(fault.ErrMisuse, fmt.Errorf(format, args...))
}

func labelFault(format string, args ...any) error {
	return &fault.Error{Op: "labels", Err: misuse(format, args...)}
}

// output compares output k of a sample. The first output is the one that ranks classes, when it looks so.
func (c *Comparison) output(k int, p, q eval.Value) error {
	if p.Tensor == nil || q.Tensor == nil {
		return misuse("it is no tensor: only tensors are compared")
	}
	if !slices.Equal(p.Tensor.Shape, q.Tensor.Shape) {
		return misuse("shape %s, the original's is %s", Text(q.Tensor.Shape), Text(p.Tensor.Shape))
	}
	x, err := Reals(p.Tensor)
	if err != nil {
		return err
	}
	y, err := Reals(q.Tensor)
	if err != nil {
		return err
	}
	c.Result.Outputs[k].Add(x, y)
	rows, classes := Scores(p.Tensor)
	if c.Labels != nil && classes == 0 && p.Tensor.Type.Float() && len(p.Tensor.Shape) <= 2 && (len(p.Tensor.Shape) == 0 || p.Tensor.Shape[len(p.Tensor.Shape)-1] == 1) {
		rows, classes = p.Tensor.Elems(), 1 // a probability each
	}
	if k > 0 || classes == 0 {
		return nil
	}
	for i := range rows {
		label := -1
		if c.Labels != nil {
			if c.rows >= len(c.Labels) {
				return labelFault("%d labels, there are more samples", len(c.Labels))
			}
			if label = c.Labels[c.rows]; label < 0 || label >= max(2, classes) {
				return labelFault("label %d of sample %d is none of %d classes", label, c.rows, max(2, classes))
			}
		}
		c.rows++
		c.Result.AddRow(x[i*classes:(i+1)*classes], y[i*classes:(i+1)*classes], label)
	}
	return nil
}

// Remember keeps what the original computes, as an observer of its runs.
func (c *Comparison) Remember(v *graph.Value, t *graph.Tensor) error {
	if v.Name != "" && t.Type.Float() {
		x, err := Reals(t)
		if err != nil {
			return err
		}
		if c.values == nil {
			c.values = map[string][]float64{}
		}
		c.values[v.Name] = x
	}
	return nil
}

// Compare compares a value of the package with the one of the same name, as an observer of its runs.
func (c *Comparison) Compare(v *graph.Value, t *graph.Tensor) error {
	x, ok := c.values[v.Name]
	if !ok || !t.Type.Float() || len(x) != t.Elems() {
		return nil
	}
	y, err := Reals(t)
	if err != nil {
		return err
	}
	if c.at == nil {
		c.at = map[string]int{}
	}
	k, ok := c.at[v.Name]
	if !ok {
		k = len(c.Result.Layers)
		c.at[v.Name] = k
		c.Result.Layers = append(c.Result.Layers, verify.OutputError{Name: v.Name})
	}
	c.Result.Layers[k].Add(x, y)
	return nil
}
