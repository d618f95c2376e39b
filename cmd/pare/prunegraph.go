package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/prune/channels"
	"github.com/pare-dev/pare/targets/report"
)

// channelFlags say how channels of a graph are pruned, beside what structureFlags say.
type channelFlags struct {
	flops, floor ratio
	graph        inputFlags
}

// channelStructure is what goes whole of graphs.
const channelStructure = "channels"

// Flags of prune that mean nothing for channels, and those that mean nothing without.
var (
	withoutChannels = []string{"method", "sparsity", "pattern", "scope", "imatrix", "tokens", "shuffle", "unpacked", "to", "pre", "ffn", "kv-heads", "hidden", "blocks"}
	onlyChannels    = []string{"flops", "floor", "shape", "recipe"}
)

func (fl *channelFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.Var(&fl.flops, "flops", "channels: share of the multiplications that stays, 0.5 or 50%")
	f.Var(&fl.floor, "floor", "channels: share of a group that stays at least; default 12.5%")
	fl.graph.register(c)
}

// config reads the flags of prune that are about channels.
func (fl *channelFlags) config(parts *structureFlags, given func(flag string) bool) (cfg channels.Config, err error) {
	for _, name := range withoutChannels {
		if given(name) {
			return cfg, flagFault(name, misuse("leave it out", "it says nothing about channels of graphs"))
		}
	}
	cfg = channels.Config{Score: parts.score, Multiple: parts.multiple, Floor: float64(fl.floor)}
	budgets := 0
	for _, b := range []struct {
		flag string
		channels.Budget
	}{
		{"flops", channels.Budget{Measure: channels.FLOPs, Keep: float64(fl.flops)}},
		{"ratio", channels.Budget{Measure: channels.Ratio, Keep: 1 - float64(parts.ratio)}},
		{"parameters", channels.Budget{Measure: channels.Parameters, Keep: float64(parts.parameters)}},
		{"bytes", channels.Budget{Measure: channels.Bytes, Keep: float64(parts.bytes)}},
	} {
		if given(b.flag) {
			cfg.Budget = b.Budget
			budgets++
		}
	}
	if budgets != 1 {
		return cfg, misuse("say --flops 50%", "one of --flops, --ratio, --parameters and --bytes says how much goes")
	}
	return cfg, cfg.Check()
}

// channelPruning is the object of `pare prune --structure channels --output json`.
type channelPruning struct {
	Schema  int    `json:"schema"`
	Model   string `json:"model"`
	Package string `json:"package"`
	channels.Report
	Bytes   sizes   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// pruneGraph writes a graph with fewer channels, and closes the model.
func (a *app) pruneGraph(ctx context.Context, path string, m *ir.Model, cfg channels.Config, calibration []string, graph inputFlags, step *stepFlags) (err error) {
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := step.graphOut(); err != nil {
		return err
	}
	start := time.Now()
	a.budget.shares = 1
	if a.maxMemory > 0 { // pages of the mapped file count, too
		proc.LimitMemory(int64(a.maxMemory), a.share()/4)
	}
	n, err := a.network(path, m)
	if err != nil {
		return err
	}
	inputs := n.Program.Inputs()
	if cfg.Shapes, err = shapesOf(graph.shapes, inputs); err != nil {
		return err
	}
	var list ir.Samples
	net, err := a.passNetwork(ctx, ir.SampleList{{}})
	if err != nil {
		return err
	}
	net.Shapes = cfg.Shapes
	if len(calibration) > 0 {
		graph.inputs = calibration
		set, err := graph.set(a, inputs, graph.given(inputs), true)
		if err != nil {
			return err
		}
		defer set.Close()
		if list, err = n.Given(ctx, set); err != nil {
			return err
		}
		if net, err = a.passNetwork(ctx, list); err != nil {
			return err
		}
	}
	cfg.Threads, cfg.ISA, cfg.Memory, cfg.Progress = a.threads, a.level, a.share()/2, a.progressSink()
	g, rep, err := channels.Prune(ctx, m.Graph, net, list, cfg)
	if err != nil {
		return inFile(path, err)
	}
	made := m.Clone()
	made.Graph = g
	err = formats.Write(ctx, "onnx", made, step.out, formats.WriteOptions{Threads: a.threads, Memory: a.share(), Progress: a.progressSink(), Force: step.force})
	if err != nil {
		return err
	}
	a.stopProgress()
	r := channelPruning{Schema: 1, Model: path, Package: step.out, Report: *rep}
	r.Bytes.Original = m.FileBytes
	for _, f := range []string{step.out, step.out + ".data"} {
		if st, err := os.Stat(f); err == nil {
			r.Bytes.Package += st.Size()
		}
	}
	r.Seconds = time.Since(start).Seconds()
	t := &table{head: []string{"channels of", "were", "are", "why others stay"}}
	for _, x := range r.Groups {
		t.add(x.Layers, fmt.Sprint(x.Channels), fmt.Sprint(x.Kept), x.Reason)
	}
	return a.show(result{object: r, table: t, text: func(w io.Writer) {
		_ = t.text(w) // a closed stdout is found by the next write
		r.text(w)
	}})
}

// text prints what went and what it costs.
func (r *channelPruning) text(w io.Writer) {
	for _, f := range r.Fits {
		if f.After != f.Before {
			fmt.Fprintf(w, "fit       %s: %.1f dB of the original's output, %.1f dB before\n", f.Layer, f.After, f.Before)
		}
	}
	for _, o := range r.Outputs {
		fmt.Fprintf(w, "output    %s: %.1f dB\n", o.Name, o.SQNR)
	}
	fmt.Fprintf(w, "prune     %s\n%s  %s  %s · %s\n", report.ChannelsText(&r.Report), r.Package, human.Bytes(r.Bytes.Package), times(float64(r.Bytes.Package)/float64(max(1, r.Bytes.Original))), human.Duration(time.Duration(r.Seconds*1e9)))
}

// pruneChannels takes channels out of the layers of a graph, as the flags of prune ask.
func (a *app) pruneChannels(ctx context.Context, path string, fl *channelFlags, cfg channels.Config, calibration []string, step *stepFlags) error {
	m, err := a.openModel(ctx, path)
	if err != nil {
		return err
	}
	if m.Graph == nil || m.Decoder != nil || m.Encoder != nil {
		return errors.Join(&fault.Error{File: path, Op: "prune", Err: misusef("channels are parts of graphs, and this is none"), Hint: "an ONNX file is one; --structure width is for language models"}, m.Close())
	}
	return a.pruneGraph(ctx, path, m, cfg, calibration, fl.graph, step)
}
