package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
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

// graphTypes are the types that graphs are quantized to.
var graphTypes = []string{"uint8", "int8", "int16", "dynamic-int8", "dynamic-uint8", "int4-32", "int4-128", "int8-32", "int8-128"}

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
	if err := needOut(fl.step.out); err != nil {
		return err
	}
	if err := free(fl.step.out, fl.step.force); err != nil {
		return err
	}
	start := time.Now()
	a.budget.shares = 1
	r := graphQuantization{Schema: 1, Model: path, Package: fl.step.out, Type: fl.typ, Kept: []keptFloat{}}
	if a.maxMemory > 0 { // pages of the mapped file count, too
		proc.LimitMemory(int64(a.maxMemory), a.share()/4)
	}
	var g *graph.Graph
	var kept []qgraph.Kept
	bits, block, blocks := blockType(fl.typ)
	if len(fl.mix.gates) > 0 && (blocks || strings.HasPrefix(fl.typ, "dynamic-")) {
		return flagFault("gate", misuse("take --type uint8 with --calibration, or --keep PATTERN", "%s has no ranges to measure layers with", fl.typ))
	}
	switch {
	case blocks:
		var rep *qgraph.WeightReport
		if g, rep, err = (qgraph.WeightOnly{Bits: bits, Block: block, Keep: fl.keep, Memory: a.share() / 2}).Apply(ctx, m.Graph); err == nil {
			r.Integer, kept = rep.Changed, rep.Kept
		}
	case strings.HasPrefix(fl.typ, "dynamic-"):
		var rep *qgraph.WeightReport
		if g, rep, err = (qgraph.Dynamic{Unsigned: fl.typ == "dynamic-uint8", Keep: fl.keep}).Apply(ctx, m.Graph); err == nil {
			r.Integer, kept = rep.Changed, rep.Kept
		}
	default:
		var rep *qgraph.Report
		if g, rep, err = a.quantizeStatic(ctx, path, m, fl, &r); err == nil {
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
		return &fault.Error{File: path, Op: "quantize", Err: misusef("nothing became %s: %s", fl.typ, reasons(r.Kept))}
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

// blockType reads int4-32: weights only, in blocks.
func blockType(typ string) (bits, block int, ok bool) {
	name, size, cut := strings.Cut(typ, "-")
	block, err := strconv.Atoi(size)
	if !cut || err != nil {
		return 0, 0, false
	}
	switch name {
	case "int4":
		return 4, block, true
	case "int8":
		return 8, block, true
	}
	return 0, 0, false
}

// quantizeStatic calibrates and builds the graph.
func (a *app) quantizeStatic(ctx context.Context, path string, m *ir.Model, fl *graphQuantizeFlags, r *graphQuantization) (*graph.Graph, *qgraph.Report, error) {
	cfg := qgraph.Config{Keep: fl.keep, ISA: a.level}
	switch fl.typ {
	case "uint8":
		cfg.Activations = graph.Uint8
	case "int8":
		cfg.Activations = graph.Int8
	case "int16":
		cfg.Activations = graph.Int16
	default:
		return nil, nil, flagFault("type", &fault.Error{Err: misusef("a graph cannot be %s", fl.typ), Hint: "choose " + strings.Join(graphTypes, ", ")})
	}
	if fl.method != "" {
		method, err := calib.LookupMethod(fl.method)
		if err != nil {
			return nil, nil, flagFault("method", err)
		}
		cfg.Method, cfg.Ranged = method, true
	}
	if len(fl.calibration) == 0 {
		return nil, nil, misuse("add --calibration FILE, or take --type dynamic-int8", "%s needs samples to find the ranges of activations", fl.typ)
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
