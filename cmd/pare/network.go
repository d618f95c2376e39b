package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/samples"
)

// network is a graph of an open model that runs.
type network struct {
	samples.Network
	model *ir.Model
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
	return &network{samples.Network{Path: path, Program: p}, m}, nil
}

// Close closes the model.
func (n *network) Close() { _ = n.model.Close() } // read only

// inputFlags say what a graph is given.
type inputFlags struct {
	inputs []string // NAME=VALUE, or VALUE
	shapes []string // NAME=1x3x224x224
	recipe string
	// usual is how files become inputs where no recipe says it: texts, of encoders that became graphs.
	usual map[string]recipe.Preprocess
}

func (fl *inputFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&fl.shapes, "shape", nil, "`NAME=1x3x224x224`: shape of an input where the graph leaves it open; repeat it for several")
	f.StringVarP(&fl.recipe, "recipe", "r", "", "recipe `FILE` whose [preprocess.NAME] says how files become inputs; a package has its own")
	for _, name := range []string{"shape", "recipe"} {
		f.Lookup(name).Annotations = map[string][]string{noEnv: {"input"}}
	}
}

// set finds the samples that flags, recipe and graph give together.
func (fl *inputFlags) set(a *app, inputs []*graph.Value, given []samples.Given, split bool) (*samples.Set, error) {
	opt := samples.Options{Split: split, Preprocess: fl.usual}
	if fl.recipe != "" {
		r, err := recipe.Load(fl.recipe)
		if err != nil {
			return nil, err
		}
		opt.Preprocess = r.Preprocess
	} else if fl.usual == nil { // a package says it itself
		opt.Preprocess = recipe.Inputs{}
		for _, v := range inputs {
			if p, ok := a.packed[v.Name]; ok {
				opt.Preprocess[v.Name] = p
			}
		}
	}
	var err error
	if opt.Shapes, err = shapesOf(fl.shapes, inputs); err != nil {
		return nil, err
	}
	return samples.Open(inputs, given, opt)
}

// shapesOf reads NAME=1x3x224x224, or a shape alone where there is one input.
func shapesOf(flags []string, inputs []*graph.Value) (map[string][]int, error) {
	shapes, err := samples.ParseShapes(flags, inputs)
	if err != nil {
		return nil, flagFault("shape", err)
	}
	return shapes, nil
}

// given reads NAME=VALUE.
func (fl *inputFlags) given(inputs []*graph.Value) []samples.Given {
	return samples.ParseGiven(fl.inputs, inputs)
}
