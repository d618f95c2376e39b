package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/quantize/qgraph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/targets/samples"
)

// graphQuantization is the object of `pare quantize --output json` for a graph.
type graphQuantization struct {
	Schema  int         `json:"schema"`
	Model   string      `json:"model"`
	Package string      `json:"package"`
	Type    string      `json:"type"`
	Samples int         `json:"samples"` // of calibration
	Integer int         `json:"integer"` // nodes on integers; of weight-only and dynamic types, layers that changed
	Kept    []keptFloat `json:"kept"`    // what could be integers and stays float
	Mix     *mixed      `json:"mix,omitempty"`
	Bytes   sizes       `json:"bytes"`
	Seconds float64     `json:"seconds"`
}

type keptFloat struct {
	Node   string `json:"node"`
	Reason string `json:"reason"`
}

type sizes struct {
	Original int64 `json:"original"`
	Package  int64 `json:"package"`
}

// graphQuantizeFlags are the choices of quantize for graphs.
type graphQuantizeFlags struct {
	typ, method string
	keep        []string
	calibration []string
	graph       inputFlags
	mix         mixFlags
	step        *stepFlags
}

// quantizeGraph makes a graph of integers and writes it, and closes the model.
func (a *app) quantizeGraph(ctx context.Context, path string, m *ir.Model, fl *graphQuantizeFlags) (err error) {
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := fl.step.graphOut(); err != nil {
		return err
	}
	start := time.Now()
	a.budget.shares = 1
	req, err := qgraph.ParseRequest(fl.typ)
	if err == nil && req.Kind == qgraph.KindFloat {
		err = misuse("pare convert writes a graph as it is", "%s quantizes nothing", req.Name)
	}
	if err != nil {
		return flagFault("type", err)
	}
	keep, err := qgraph.ParsePatterns(fl.keep)
	if err != nil {
		return flagFault("keep", err)
	}
	r := graphQuantization{Schema: 1, Model: path, Package: fl.step.out, Type: req.Name, Kept: []keptFloat{}}
	if a.maxMemory > 0 { // pages of the mapped file count, too
		proc.LimitMemory(int64(a.maxMemory), a.share()/4)
	}
	var g *graph.Graph
	var kept []qgraph.Kept
	if len(fl.mix.gates) > 0 && req.Kind != qgraph.KindStatic {
		return flagFault("gate", misuse("take --type uint8 with --calibration, or --keep PATTERN", "%s has no ranges to measure layers with", req.Name))
	}
	switch req.Kind {
	case qgraph.KindBlocks:
		var rep *qgraph.WeightReport
		if g, rep, err = (qgraph.WeightOnly{Bits: req.Bits, Block: req.Block, Keep: keep, Memory: a.share() / 2}).Apply(ctx, m.Graph); err == nil {
			r.Integer, kept = rep.Changed, rep.Kept
		}
	case qgraph.KindDynamic:
		var rep *qgraph.WeightReport
		if g, rep, err = (qgraph.Dynamic{Unsigned: req.Unsigned, Keep: keep}).Apply(ctx, m.Graph); err == nil {
			r.Integer, kept = rep.Changed, rep.Kept
		}
	default:
		var rep *qgraph.Report
		if g, rep, err = a.quantizeStatic(ctx, path, m, fl, qgraph.Config{Activations: req.Plain(), Keep: keep, ISA: a.level}, &r); err == nil {
			r.Integer, kept = rep.Integer, rep.Kept
		}
	}
	if err != nil {
		return inFile(path, err)
	}
	for _, k := range kept {
		r.Kept = append(r.Kept, keptFloat(k))
	}
	if r.Integer == 0 {
		return &fault.Error{File: path, Op: "quantize", Err: misusef("nothing became %s: %s", r.Type, reasons(r.Kept))}
	}
	made := m.Clone()
	made.Graph = g
	err = formats.Write(ctx, "onnx", made, fl.step.out, formats.WriteOptions{Threads: a.threads, Memory: a.share(), Progress: a.progressSink(), Force: fl.step.force})
	if err != nil {
		return err
	}
	a.stopProgress()
	r.Bytes.Original = m.FileBytes
	for _, f := range []string{fl.step.out, fl.step.out + ".data"} {
		if st, err := os.Stat(f); err == nil {
			r.Bytes.Package += st.Size()
		}
	}
	r.Seconds = time.Since(start).Seconds()
	t := &table{head: []string{"node that stays float", "reason"}}
	for _, k := range r.Kept {
		t.add(k.Node, k.Reason)
	}
	return a.show(result{object: r, table: t, text: func(w io.Writer) {
		if len(r.Kept) > 0 {
			_ = t.text(w) // a closed stdout is found by the next write
		}
		if r.Mix != nil {
			r.Mix.text(w)
		}
		if r.Samples > 0 {
			fmt.Fprintf(w, "calibrated on %s\n", plural(r.Samples, "sample"))
		}
		fmt.Fprintf(w, "%s  %s of %s  %s  %s · %s\n", r.Package, plural(r.Integer, "node"), r.Type, human.Bytes(r.Bytes.Package),
			times(float64(r.Bytes.Package)/float64(max(1, r.Bytes.Original))), human.Duration(time.Duration(r.Seconds*1e9)))
	}})
}

func reasons(kept []keptFloat) string {
	if len(kept) == 0 {
		return "no node has weights that it applies to"
	}
	return kept[0].Node + ": " + kept[0].Reason
}

// quantizeStatic calibrates and builds the graph.
func (a *app) quantizeStatic(ctx context.Context, path string, m *ir.Model, fl *graphQuantizeFlags, cfg qgraph.Config, r *graphQuantization) (*graph.Graph, *qgraph.Report, error) {
	if fl.method != "" {
		method, err := calib.LookupMethod(fl.method)
		if err != nil {
			return nil, nil, flagFault("method", err)
		}
		cfg.Method, cfg.Ranged = method, true
	}
	if len(fl.calibration) == 0 {
		return nil, nil, misuse("add --calibration FILE, or take --type dynamic-int8", "%s needs samples to find the ranges of activations", r.Type)
	}
	n, err := a.network(path, m)
	if err != nil {
		return nil, nil, err
	}
	fl.graph.inputs = fl.calibration
	inputs := n.Program.Inputs()
	set, err := fl.graph.set(a, inputs, fl.graph.given(inputs), true)
	if err != nil {
		return nil, nil, err
	}
	defer set.Close()
	r.Samples = set.Len()
	list, err := n.Given(ctx, set)
	if err != nil {
		return nil, nil, err
	}
	net, err := a.passNetwork(ctx, list)
	if err != nil {
		return nil, nil, err
	}
	a.progressSink().Stage("calibrate", 0, "samples")
	s, err := qgraph.New(ctx, m.Graph, net, list, cfg)
	if err != nil {
		return nil, nil, err
	}
	float, err := a.mix(ctx, n, set, s, &fl.mix, r)
	if err != nil {
		return nil, nil, err
	}
	return s.Build(ctx, float)
}

// network compiles the graph of a model that stays open whatever happens.
func (a *app) network(path string, m *ir.Model) (*network, error) {
	p, err := eval.Compile(m.Graph, a.networkOptions())
	return &network{samples.Network{Path: path, Program: p}, m}, err
}

// passNetwork runs graphs for passes, at the shapes that samples have.
func (a *app) passNetwork(ctx context.Context, list ir.Samples) (*eval.Network, error) {
	first, err := list.Sample(ctx, 0)
	if err != nil {
		return nil, err
	}
	net := &eval.Network{Options: a.networkOptions(), Shapes: map[string][]int{}}
	for name, t := range first {
		net.Shapes[name] = t.Shape
	}
	return net, nil
}
