package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
	"github.com/pare-dev/pare/targets/samples"
)

// graphGates are the limits on graphs.
var graphGates = []string{"sqnr_db", "sqnr_all_db", "cosine", "top1", "accuracy_drop", "f1_drop", "auc_drop", "size_ratio"}

// verifyGraphs compares two open graphs on samples, and closes them.
func (a *app) verifyGraphs(ctx context.Context, orig, made *ir.Model, paths [2]string, limits recipe.Gate, fl *verifyFlags) error {
	closeBoth := func(err error) error { return errors.Join(err, orig.Close(), made.Close()) }
	if orig.Graph == nil || made.Graph == nil {
		return closeBoth(misuse("compare two graphs, or two language models", "one of the models is a graph, the other is not"))
	}
	for _, name := range append([]string{"text", "activations"}, languageFlags...) {
		if fl.changed(name) && !(name == "text" && fl.lines) {
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
	set, err := fl.graph.set(a, inputs, fl.graph.given(inputs), true)
	if err != nil {
		return inFileEach(paths[0], err)
	}
	defer set.Close()
	c.Result = &verify.Graphs{Schema: 1, Original: paths[0], Package: paths[1], Samples: set.Len(), ISA: string(kernels.For(a.level).Level())}
	sink := a.progressSink()
	sink.Stage("verify", int64(set.Len()), "samples")
	c.Progress = func() { sink.Add(1) }
	keep := saved{}
	if fl.save != "" {
		if err := keep.files(fl.save, fl.force, first.Program.Graph.Outputs); err != nil {
			return err
		}
		c.Save = func(k, i int, original, made eval.Value) error { return keep.add(k, i, set.Len(), original, made) }
	}
	if err := errors.Join(c.Run(ctx, &first.Network, &second.Network, set), keep.close()); err != nil {
		return err
	}
	c.Result.Judge(limits.Limits(), verify.Bytes{Original: orig.FileBytes, Package: made.FileBytes})
	a.stopProgress()
	if err := a.show(result{object: c.Result, table: graphTable(c.Result), text: func(w io.Writer) { graphText(w, c.Result) }}); err != nil {
		return err
	}
	return gateError(c.Result.Gate, fl.undecided.value)
}

// saved are the outputs of both graphs in files: original/NAME.npy and package/NAME.npy, all samples of each.
type saved [2]graphRun

func (s *saved) files(dir string, force bool, outputs []*graph.Value) error {
	for side, name := range []string{"original", "package"} {
		for _, v := range outputs {
			s[side].Outputs = append(s[side].Outputs, graphOutput{Name: v.Name})
		}
		if err := s[side].files(filepath.Join(dir, name), force); err != nil {
			return err
		}
	}
	return nil
}

func (s *saved) add(k, i, n int, values ...eval.Value) error {
	for side, v := range values {
		if err := s[side].Outputs[k].add(i, n, v, nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *saved) close() error {
	var errs []error
	for side := range s {
		for k := range s[side].Outputs {
			errs = append(errs, s[side].Outputs[k].close())
		}
	}
	return errors.Join(errs...)
}

func graphTable(r *verify.Graphs) *table {
	t := &table{head: []string{"value", ">sqnr dB", ">cosine", ">largest error"}}
	list := append(slices.Clone(r.Layers), r.Outputs...)
	if len(r.Outputs) > 1 {
		all := r.All
		all.Name = "all outputs"
		list = append(list, all)
	}
	for _, o := range list {
		t.add(o.Name, fmt.Sprintf("%.2f", o.SQNR), fmt.Sprintf("%.6f", o.Cosine), human.Float(o.MaxAbs))
	}
	return t
}

// graphText is the comparison as a person reads it.
func graphText(w io.Writer, r *verify.Graphs) {
	_ = graphTable(r).text(w) // a closed stdout is found by the next write
	fmt.Fprintf(w, "size        %s → %s  %s\n", human.Bytes(r.Bytes.Original), human.Bytes(r.Bytes.Package), times(float64(r.Bytes.Package)/float64(max(1, r.Bytes.Original))))
	if t := r.Task; t != nil {
		more := ""
		if t.OriginalTop5 < 1 || t.PackageTop5 < 1 { // of five classes or fewer it says nothing
			more = fmt.Sprintf("  top-5 %s → %s", human.Percent(t.OriginalTop5, 2), human.Percent(t.PackageTop5, 2))
		}
		fmt.Fprintf(w, "accuracy    %s → %s  (95 %%: at least %s)%s\n", human.Percent(t.Original, 2), human.Percent(t.Package, 2), human.Percent(t.Lower95, 2), more)
		fmt.Fprintf(w, "F1          %.4f → %.4f\n", t.F1.Original, t.F1.Package)
		if t.AUC != nil {
			fmt.Fprintf(w, "AUC         %.4f → %.4f\n", t.AUC.Original, t.AUC.Package)
		}
	}
	if t := r.Top1; t != nil {
		fmt.Fprintf(w, "top-1       %s rank the same class first  (95 %%: at least %s)\n", human.Percent(t.Agreement, 2), human.Percent(t.Lower95, 2))
	}
	fmt.Fprintf(w, "measured    %s, %s kernels\n", plural(r.Samples, "sample"), r.ISA)
	for _, c := range r.Gate.Checks {
		fmt.Fprintf(w, "%-11s %s\n", c.Verdict, report.CheckText(c))
	}
}
