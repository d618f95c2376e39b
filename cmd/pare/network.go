package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/samples"
)

// network is a graph that runs.
type network struct {
	path    string
	model   *ir.Model
	program *eval.Program
}

// networkOptions are those that every verb has.
func (a *app) networkOptions() eval.Options {
	return eval.Options{ISA: a.level, Memory: a.share(), Pool: a.workers()}
}

// compile makes the graph of an open model ready to run, and closes the model when that fails.
func (a *app) compile(path string, m *ir.Model, opt eval.Options) (*network, error) {
	p, err := eval.Compile(m.Graph, opt)
	if err != nil {
		return nil, errors.Join(inFile(path, err), m.Close())
	}
	a.warn(path, m)
	return &network{path: path, model: m, program: p}, nil
}

// run computes one sample, states in place of what the sample has for them.
func (n *network) run(ctx context.Context, sample ir.Sample) ([]eval.Value, error) {
	inputs := n.program.Inputs()
	list := make([]eval.Value, len(inputs))
	for i, v := range inputs {
		if t := sample[v.Name]; t != nil {
			list[i] = eval.Of(t)
		}
	}
	out, err := n.program.Run(ctx, list...)
	return out, inFile(n.path, err)
}

// carrier hands the states of a network from one chunk of a file to the next.
type carrier struct {
	from map[string]int // input -> output that it continues with
	held map[string]*graph.Tensor
}

func (n *network) carrier(set *samples.Set) (*carrier, error) {
	c := &carrier{map[string]int{}, map[string]*graph.Tensor{}}
	for input, output := range set.States() {
		at := slices.IndexFunc(n.program.Graph.Outputs, func(v *graph.Value) bool { return v.Name == output })
		if at < 0 {
			var names []string
			for _, v := range n.program.Graph.Outputs {
				names = append(names, v.Name)
			}
			return nil, &fault.Error{File: n.path, Op: "input " + input, Err: misusef("state = %q is no output", output), Hint: "outputs: " + strings.Join(names, ", ")}
		}
		c.from[input] = at
	}
	return c, nil
}

// step runs a sample with the states of the one before, unless it begins a file.
func (c *carrier) step(ctx context.Context, n *network, sample ir.Sample, fresh bool) (ir.Sample, []eval.Value, error) {
	sample = maps.Clone(sample)
	if !fresh {
		maps.Copy(sample, c.held)
	}
	out, err := n.run(ctx, sample)
	if err != nil {
		return nil, nil, err
	}
	for input, at := range c.from {
		t := out[at].Tensor
		if t == nil {
			return nil, nil, &fault.Error{File: n.path, Op: "input " + input, Err: misusef("its state is no tensor")}
		}
		x := graph.New(t.Type, t.Shape...) // results are gone with the next run
		copy(x.Data, t.Data)
		c.held[input] = x
	}
	return sample, out, nil
}

// each runs all samples in order, states carried from one chunk of a file to the next.
func (n *network) each(ctx context.Context, set *samples.Set, fn func(i int, sample ir.Sample, out []eval.Value) error) error {
	c, err := n.carrier(set)
	if err != nil {
		return err
	}
	for i := range set.Len() {
		sample, err := set.Sample(ctx, i)
		if err != nil {
			return err
		}
		sample, out, err := c.step(ctx, n, sample, set.Fresh(i))
		if err != nil {
			return err
		}
		if err := fn(i, sample, out); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the model.
func (n *network) Close() { _ = n.model.Close() } // read only

// inputFlags say what a graph is given.
type inputFlags struct {
	inputs []string // NAME=VALUE, or VALUE
	shapes []string // NAME=1x3x224x224
	recipe string
}

func (fl *inputFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&fl.shapes, "shape", nil, "`NAME=1x3x224x224`: shape of an input where the graph leaves it open; repeat it for several")
	f.StringVarP(&fl.recipe, "recipe", "r", "", "recipe `FILE` whose [preprocess.NAME] says how files become inputs")
	for _, name := range []string{"shape", "recipe"} {
		f.Lookup(name).Annotations = map[string][]string{noEnv: {"input"}}
	}
}

// set finds the samples that flags, recipe and graph give together.
func (fl *inputFlags) set(inputs []*graph.Value, given []samples.Given, split bool) (*samples.Set, error) {
	opt := samples.Options{Split: split}
	if fl.recipe != "" {
		r, err := recipe.Load(fl.recipe)
		if err != nil {
			return nil, err
		}
		opt.Preprocess = r.Preprocess
	}
	var err error
	if opt.Shapes, err = shapesOf(fl.shapes, inputs); err != nil {
		return nil, err
	}
	return samples.Open(inputs, given, opt)
}

// shapesOf reads NAME=1x3x224x224, or a shape alone where there is one input.
func shapesOf(flags []string, inputs []*graph.Value) (map[string][]int, error) {
	shapes := map[string][]int{}
	for _, s := range flags {
		at := strings.LastIndexByte(s, '=')
		name, text := s[:max(at, 0)], s[at+1:]
		if at < 0 {
			if len(inputs) != 1 {
				return nil, flagFault("shape", misusef("%q does not say which of %d inputs it is for", s, len(inputs)))
			}
			name = inputs[0].Name
		}
		dims := []int{}
		for part := range strings.SplitSeq(text, "x") {
			n, err := strconv.Atoi(part)
			if err != nil || n < 0 {
				return nil, flagFault("shape", misusef("%q is no shape; write %s=1x3x224x224", text, name))
			}
			dims = append(dims, n)
		}
		if err := graph.CheckShape(dims); err != nil {
			return nil, flagFault("shape", misusef("%w is too large", err))
		}
		shapes[name] = dims
	}
	return shapes, nil
}

// given reads NAME=VALUE. What has no name is for the only input; a file may have = in its name, when what is
// before it is no input.
func (fl *inputFlags) given(inputs []*graph.Value) []samples.Given {
	var list []samples.Given
	for _, s := range fl.inputs {
		g := samples.Given{Values: []string{s}}
		if name, value, ok := strings.Cut(s, "="); ok {
			g = samples.Given{Input: name, Values: []string{value}}
			for at := len(name); at >= 0; { // names may have = in them, too
				if slices.ContainsFunc(inputs, func(v *graph.Value) bool { return v.Name == s[:at] }) {
					g = samples.Given{Input: s[:at], Values: []string{s[at+1:]}}
					break
				}
				next := strings.IndexByte(s[at+1:], '=')
				if next < 0 {
					break
				}
				at += 1 + next
			}
		}
		list = append(list, g)
	}
	return list
}
