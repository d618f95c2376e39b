package main

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/lower"
	"github.com/pare-dev/pare/targets/recipe"
)

// writesGraph reports whether the output is a graph.
func (fl *stepFlags) writesGraph() bool {
	f, ok := formats.Lookup(fl.to)
	if fl.to == "" {
		f, ok = formats.ByPath(fl.out)
	}
	return ok && f.Name == "onnx"
}

// unfold gives the model of a text encoder a graph, with its weights in memory, and says how texts become inputs. A
// model with a graph stays as it is. The model is closed when it fails.
func (a *app) unfold(ctx context.Context, path string, m *ir.Model, fl *inputFlags, pooled bool) (*ir.Model, error) {
	if m.Graph != nil {
		return m, nil
	}
	g, err := lower.Encoder(m, lower.Options{Opset: lower.GeluOpset, Pooled: pooled})
	if err == nil {
		err = lower.Load(ctx, g, a.share())
	}
	if err != nil {
		return nil, errors.Join(inFile(path, err), m.Close())
	}
	m.Graph = g
	fl.usual = encoderInputs(path, m)
	return m, nil
}

// encoderInputs is how texts become inputs of the graph of an encoder.
func encoderInputs(path string, m *ir.Model) map[string]recipe.Preprocess {
	how := map[string]recipe.Preprocess{}
	for _, v := range m.Graph.Inputs {
		switch v.Name {
		case lower.InputIDs:
			how[v.Name] = recipe.Preprocess{Tokenizer: filepath.Clean(path), Tokens: m.Encoder.Longest()}
		case lower.InputMask:
			how[v.Name] = recipe.Preprocess{Mask: lower.InputIDs}
		case lower.InputType:
			how[v.Name] = recipe.Preprocess{Types: lower.InputIDs}
		}
	}
	return how
}

// beside unfolds an encoder so that it can be compared with a graph that was made of it: on the lines of --text.
func (a *app) beside(ctx context.Context, path string, m, made *ir.Model, fl *verifyFlags) (*ir.Model, error) {
	pooled := slices.ContainsFunc(made.Graph.Outputs, func(v *graph.Value) bool { return v.Name == lower.Sentence })
	m, err := a.unfold(ctx, path, m, &fl.graph, pooled)
	if err != nil {
		return nil, err
	}
	if len(fl.text) > 0 {
		for _, f := range fl.text {
			fl.graph.inputs = append(fl.graph.inputs, lower.InputIDs+"="+f)
		}
		fl.text, fl.lines = nil, true
	}
	return m, nil
}
