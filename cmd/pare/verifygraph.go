package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/npy"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
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
	labels, err := readLabels(fl.labels)
	if err != nil {
		return closeBoth(err)
	}
	c := comparison{labels: labels, layers: fl.layers, values: map[string][]float64{}, at: map[string]int{}}
	opt := a.networkOptions()
	if c.layers {
		opt.Observe = c.remember
	}
	first, err := a.compile(paths[0], orig, opt)
	if err != nil {
		return errors.Join(err, made.Close())
	}
	defer first.Close()
	if c.layers {
		opt.Observe = c.compare
	}
	second, err := a.compile(paths[1], made, opt)
	if err != nil {
		return err
	}
	defer second.Close()
	inputs := first.program.Inputs()
	set, err := fl.graph.set(inputs, fl.graph.given(inputs), true)
	if err != nil {
		return inFileEach(paths[0], err)
	}
	defer set.Close()
	c.r = &verify.Graphs{Schema: 1, Original: paths[0], Package: paths[1], Samples: set.Len(), ISA: string(kernels.For(a.level).Level())}
	if err := c.run(ctx, a, first, second, set); err != nil {
		return err
	}
	c.r.Judge(limits.Limits(), verify.Bytes{Original: orig.FileBytes, Package: made.FileBytes})
	a.stopProgress()
	if err := a.show(result{object: c.r, table: graphTable(c.r), text: func(w io.Writer) { graphText(w, c.r) }}); err != nil {
		return err
	}
	return gateError(c.r.Gate, fl.undecided.value)
}

// comparison is two graphs that run sample by sample.
type comparison struct {
	r      *verify.Graphs
	labels []int
	rows   int // compared so far
	layers bool
	values map[string][]float64 // of the original, for the sample that runs
	at     map[string]int       // layers by name
}

// run takes both through all samples, each with its own states.
func (c *comparison) run(ctx context.Context, a *app, first, second *network, set *samples.Set) error {
	names := map[string]int{}
	for i, v := range second.program.Graph.Outputs {
		names[v.Name] = i
	}
	for _, v := range first.program.Graph.Outputs {
		if _, ok := names[v.Name]; !ok {
			return &fault.Error{File: second.path, Err: misusef("it has no output %q, which the original has", v.Name)}
		}
		c.r.Outputs = append(c.r.Outputs, verify.OutputError{Name: v.Name})
	}
	x, err := first.carrier(set)
	if err != nil {
		return err
	}
	y, err := second.carrier(set)
	if err != nil {
		return err
	}
	sink := a.progressSink()
	sink.Stage("verify", int64(set.Len()), "samples")
	for i := range set.Len() {
		sample, err := set.Sample(ctx, i)
		if err != nil {
			return err
		}
		clear(c.values)
		_, p, err := x.step(ctx, first, sample, set.Fresh(i))
		if err != nil {
			return err
		}
		_, q, err := y.step(ctx, second, sample, set.Fresh(i))
		if err != nil {
			return err
		}
		for k := range p {
			if err := c.output(k, p[k], q[names[c.r.Outputs[k].Name]]); err != nil {
				return &fault.Error{File: second.path, Op: "output " + c.r.Outputs[k].Name, Err: err}
			}
		}
		sink.Add(1)
	}
	if c.labels != nil && c.rows != len(c.labels) {
		return flagFault("labels", misusef("%d labels for %d rows of scores", len(c.labels), c.rows))
	}
	return nil
}

// output compares output k of a sample. The first output is the one that ranks classes, when it looks so.
func (c *comparison) output(k int, p, q eval.Value) error {
	if p.Tensor == nil || q.Tensor == nil {
		return misusef("it is no tensor: only tensors are compared")
	}
	if !slices.Equal(p.Tensor.Shape, q.Tensor.Shape) {
		return misusef("shape %s, the original's is %s", samples.Text(q.Tensor.Shape), samples.Text(p.Tensor.Shape))
	}
	x, err := samples.Reals(p.Tensor)
	if err != nil {
		return err
	}
	y, err := samples.Reals(q.Tensor)
	if err != nil {
		return err
	}
	c.r.Outputs[k].Add(x, y)
	rows, classes := scores(p.Tensor)
	if k > 0 || classes == 0 {
		return nil
	}
	for i := range rows {
		label := -1
		if c.labels != nil {
			if c.rows >= len(c.labels) {
				return flagFault("labels", misusef("%d labels, there are more samples", len(c.labels)))
			}
			if label = c.labels[c.rows]; label < 0 || label >= classes {
				return flagFault("labels", misusef("label %d of sample %d is none of %d classes", label, c.rows, classes))
			}
		}
		c.rows++
		c.r.AddRow(x[i*classes:(i+1)*classes], y[i*classes:(i+1)*classes], label)
	}
	return nil
}

// remember keeps what the original computes.
func (c *comparison) remember(v *graph.Value, t *graph.Tensor) error {
	if v.Name != "" && t.Type.Float() {
		x, err := samples.Reals(t)
		if err != nil {
			return err
		}
		c.values[v.Name] = x
	}
	return nil
}

// compare compares a value of the package with the one of the same name.
func (c *comparison) compare(v *graph.Value, t *graph.Tensor) error {
	x, ok := c.values[v.Name]
	if !ok || !t.Type.Float() || len(x) != t.Elems() {
		return nil
	}
	y, err := samples.Reals(t)
	if err != nil {
		return err
	}
	k, ok := c.at[v.Name]
	if !ok {
		k = len(c.r.Layers)
		c.at[v.Name] = k
		c.r.Layers = append(c.r.Layers, verify.OutputError{Name: v.Name})
	}
	c.r.Layers[k].Add(x, y)
	return nil
}

// readLabels reads a number a sample.
func readLabels(file string) ([]int, error) {
	if file == "" {
		return nil, nil
	}
	if !strings.HasSuffix(file, ".txt") && !strings.HasSuffix(file, ".csv") {
		a, err := npy.Open(file)
		if err != nil {
			return nil, err
		}
		defer a.Close()
		if a.Elem.Kind != 'i' && a.Elem.Kind != 'u' || a.Elems() != a.Len() {
			return nil, flagFault("labels", misusef("%s is no list of whole numbers", file))
		}
		b, err := a.All()
		if err != nil {
			return nil, err
		}
		out := make([]int, a.Len())
		for i := range out {
			var word [8]byte
			copy(word[:], b[i*a.Elem.Size:(i+1)*a.Elem.Size])
			n := binary.LittleEndian.Uint64(word[:])
			if bits := 64 - 8*a.Elem.Size; a.Elem.Kind == 'i' {
				out[i] = int(int64(n<<bits) >> bits) //nolint:gosec // the sign is meant
			} else {
				out[i] = int(min(n, 1<<31)) // larger than any class
			}
		}
		return out, nil
	}
	text, err := readTexts([]string{file})
	if err != nil {
		return nil, err
	}
	out := []int{}
	for i, line := range lines(string(text)) {
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return nil, flagFault("labels", misusef("line %d of %s is no number", i+1, file))
		}
		out = append(out, n)
	}
	return out, nil
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
