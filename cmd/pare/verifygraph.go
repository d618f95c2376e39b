package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
	"github.com/pare-dev/pare/targets/samples"
)

// graphGates are the limits on graphs.
var graphGates = []string{"sqnr_db", "accuracy_drop", "top1", "size_ratio"}

// verifyGraphs compares two open graphs on samples, and closes them.
func (a *app) verifyGraphs(ctx context.Context, orig, made *ir.Model, paths [2]string, limits recipe.Gate, fl *verifyFlags) error {
	closeBoth := func(err error) error { return errors.Join(err, orig.Close(), made.Close()) }
	if orig.Graph == nil || made.Graph == nil {
		return closeBoth(misuse("compare two graphs, or two language models", "one of the models is a graph, the other is not"))
	}
	for _, name := range append([]string{"text", "activations"}, languageFlags...) {
		if fl.changed(name) {
			return closeBoth(flagFault(name, misusef("graphs are compared on samples: --samples FILE")))
		}
	}
	for name := range limits {
		if !slices.Contains(graphGates, name) {
			return closeBoth(flagFault("gate", misusef("%s says nothing about graphs; choose %s", name, strings.Join(graphGates, ", "))))
		}
	}
	if len(fl.graph.inputs) == 0 {
		return closeBoth(misuse("add --samples FILE", "there is nothing to compare on"))
	}
	c := samples.Comparison{}
	if fl.labels != "" {
		var err error
		if c.Labels, err = samples.Labels(fl.labels); err != nil {
			return closeBoth(err)
		}
	}
	opt := a.networkOptions()
	if fl.layers {
		opt.Observe = c.Remember
	}
	first, err := a.compile(paths[0], orig, opt)
	if err != nil {
		return errors.Join(err, made.Close())
	}
	defer first.Close()
	if fl.layers {
		opt.Observe = c.Compare
	}
	second, err := a.compile(paths[1], made, opt)
	if err != nil {
		return err
	}
	defer second.Close()
	inputs := first.Program.Inputs()
	set, err := fl.graph.set(inputs, fl.graph.given(inputs), true)
	if err != nil {
		return inFileEach(paths[0], err)
	}
	defer set.Close()
	c.Result = &verify.Graphs{Schema: 1, Original: paths[0], Package: paths[1], Samples: set.Len(), ISA: string(kernels.For(a.level).Level())}
	sink := a.progressSink()
	sink.Stage("verify", int64(set.Len()), "samples")
	c.Progress = func() { sink.Add(1) }
	if err := c.Run(ctx, &first.Network, &second.Network, set); err != nil {
		return err
	}
	c.Result.Judge(limits.Limits(), verify.Bytes{Original: orig.FileBytes, Package: made.FileBytes})
	a.stopProgress()
	if err := a.show(result{object: c.Result, table: graphTable(c.Result), text: func(w io.Writer) { graphText(w, c.Result) }}); err != nil {
		return err
	}
	return gateError(c.Result.Gate, fl.undecided.value)
}

func graphTable(r *verify.Graphs) *table {
	t := &table{head: []string{"value", ">sqnr dB", ">cosine", ">largest error"}}
	for _, o := range append(slices.Clone(r.Layers), r.Outputs...) {
		t.add(o.Name, fmt.Sprintf("%.2f", o.SQNR), fmt.Sprintf("%.6f", o.Cosine), human.Float(o.MaxAbs))
	}
	return t
}

// graphText is the comparison as a person reads it.
func graphText(w io.Writer, r *verify.Graphs) {
	_ = graphTable(r).text(w) // a closed stdout is found by the next write
	fmt.Fprintf(w, "size        %s → %s  %s\n", human.Bytes(r.Bytes.Original), human.Bytes(r.Bytes.Package), times(float64(r.Bytes.Package)/float64(max(1, r.Bytes.Original))))
	if t := r.Task; t != nil {
		fmt.Fprintf(w, "accuracy    %s → %s  (95 %%: at least %s)  top-5 %s → %s\n", human.Percent(t.Original, 2), human.Percent(t.Package, 2), human.Percent(t.Lower95, 2), human.Percent(t.OriginalTop5, 2), human.Percent(t.PackageTop5, 2))
	}
	if t := r.Top1; t != nil {
		fmt.Fprintf(w, "top-1       %s rank the same class first  (95 %%: at least %s)\n", human.Percent(t.Agreement, 2), human.Percent(t.Lower95, 2))
	}
	fmt.Fprintf(w, "measured    %s, %s kernels\n", plural(r.Samples, "sample"), r.ISA)
	for _, c := range r.Gate.Checks {
		fmt.Fprintf(w, "%-11s %s\n", c.Verdict, report.CheckText(c))
	}
}
