package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/npy"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/targets/samples"
)

// graphRun is the object of `pare run --output json` for a graph.
type graphRun struct {
	Schema  int           `json:"schema"`
	Model   string        `json:"model"`
	Samples int           `json:"samples"`
	Outputs []graphOutput `json:"outputs"`
	LoadS   float64       `json:"load_s"` // until the graph could run
	RunS    float64       `json:"run_s"`  // all samples, reading them included
}

// graphOutput is what one output was over all samples.
type graphOutput struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Shape []int  `json:"shape"` // all samples together, as the file has them
	// of the finite values; null where there are none, as in texts
	Min       *float64   `json:"min"`
	Max       *float64   `json:"max"`
	Mean      *float64   `json:"mean"`
	NotFinite int        `json:"not_finite"`
	File      string     `json:"file,omitempty"`
	Top       []topClass `json:"top,omitempty"` // of outputs that look like those of a classifier: a row of scores a sample

	sum   float64
	count int
	w     *npy.Writer
	first []int    // shape of the first sample
	texts []string // of an output of strings
}

// topClass are the highest scores of a sample.
type topClass struct {
	Sample  int       `json:"sample"`
	Classes []int     `json:"classes"`
	Names   []string  `json:"names,omitempty"`
	Scores  []float64 `json:"scores"`
}

// mostTop is how many classes of a sample are shown, and mostShown of how many samples.
const (
	mostTop   = 5
	mostShown = 8
)

// languageRunFlags are those of run that graphs do not have.
var languageRunFlags = append([]string{"prompt", "tokens", "special", "activations"}, generationFlags...)

// runGraph runs a graph on everything that its inputs are given.
func (a *app) runGraph(ctx context.Context, path string, m *ir.Model, fl *runFlags) error {
	for _, name := range languageRunFlags {
		if fl.changed(name) {
			return errors.Join(flagFault(name, misusef("%s is a graph: it takes --input NAME=FILE", path)), m.Close())
		}
	}
	start := time.Now()
	a.budget.shares = 1
	n, err := a.compile(path, m, a.networkOptions())
	if err != nil {
		return err
	}
	defer n.Close()
	set, err := fl.graph.set(a, n.Program.Inputs(), fl.graph.given(n.Program.Inputs()), false)
	if err != nil {
		return inFileEach(path, err)
	}
	defer set.Close()
	r := graphRun{Schema: 1, Model: path, Samples: set.Len(), LoadS: time.Since(start).Seconds()}
	for _, v := range n.Program.Graph.Outputs {
		r.Outputs = append(r.Outputs, graphOutput{Name: v.Name})
	}
	if fl.save != "" {
		if err := r.files(fl.save, fl.force); err != nil {
			return err
		}
	}
	names, err := classNames(fl.classes)
	if err != nil {
		return err
	}
	start = time.Now()
	sink := a.progressSink()
	sink.Stage("run", int64(set.Len()), "samples")
	err = n.Each(ctx, set, func(i int, _ ir.Sample, out []eval.Value) error {
		sink.Add(1)
		for k := range out {
			if err := r.Outputs[k].add(i, set.Len(), out[k], names); err != nil {
				return &fault.Error{File: path, Op: "output " + r.Outputs[k].Name, Err: err}
			}
		}
		return nil
	})
	for k := range r.Outputs {
		err = errors.Join(err, r.Outputs[k].close())
	}
	if err != nil {
		return err
	}
	r.RunS = time.Since(start).Seconds()
	a.stopProgress()
	var lines []any
	for i := range r.Outputs {
		lines = append(lines, &r.Outputs[i])
	}
	t := r.table()
	return a.show(result{object: r, lines: lines, table: t, text: func(w io.Writer) { r.text(w, t, fl.save) }})
}

// files chooses a file for every output.
func (r *graphRun) files(dir string, force bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as mkdir does; the umask narrows it
		return fault.As(fault.ErrMisuse, err)
	}
	used := map[string]bool{}
	for i := range r.Outputs {
		base := fileName(r.Outputs[i].Name)
		for n := 2; used[strings.ToLower(base)]; n++ { // some systems do not tell A from a
			base = fmt.Sprintf("%s_%d", fileName(r.Outputs[i].Name), n)
		}
		used[strings.ToLower(base)] = true
		r.Outputs[i].File = filepath.Join(dir, base+".npy")
		if err := free(r.Outputs[i].File, force); err != nil {
			return err
		}
	}
	return nil
}

// fileName keeps of a name what every system allows in one of a file.
func fileName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '_'
	}, name)
	if name = strings.TrimLeft(name, "."); name == "" {
		return "output"
	}
	return name
}

// add counts the output of sample i of n in, and writes it.
func (o *graphOutput) add(i, n int, v eval.Value, names []string) error {
	t := v.Tensor
	if v.Kind != graph.KindTensor || t == nil {
		return o.other(i, n, v)
	}
	if i == 0 {
		o.Type, o.first = t.Type.String(), slices.Clone(t.Shape)
		o.Shape = stacked(t.Shape, n)
	} else if !slices.Equal(o.first, t.Shape) {
		return misusef("shape %s of sample %d, %s before: outputs whose shapes differ cannot be put together; run the samples one by one", samples.Text(t.Shape), i, samples.Text(o.first))
	}
	if t.Type == graph.String {
		o.texts = append(o.texts, t.Strings...)
		return nil
	}
	if t.Type != graph.Complex64 && t.Type != graph.Complex128 {
		x, err := samples.Reals(t)
		if err != nil {
			return err
		}
		o.count64(x)
		if rows, classes := samples.Scores(t); classes > 0 {
			for k := range rows {
				o.Top = append(o.Top, highest(len(o.Top), x[k*classes:(k+1)*classes], names))
			}
		}
	}
	if o.File == "" {
		return nil
	}
	s, elem, err := samples.Stored(t)
	if err != nil {
		return err
	}
	if o.w == nil {
		if o.w, err = npy.Create(o.File, elem, o.Shape...); err != nil {
			return err
		}
	}
	_, err = o.w.Write(s.Data)
	return err
}

// other says what an output is that is no tensor. There is no file for it.
func (o *graphOutput) other(i, n int, v eval.Value) error {
	o.Type, o.Shape = kindName(v.Kind), []int{len(v.Seq)}
	if o.File == "" {
		return nil
	}
	if n > 1 {
		return misusef("a %s has a file an element: run the samples one by one", o.Type)
	}
	list := v.Seq
	if v.Tensor != nil {
		list = []*graph.Tensor{v.Tensor}
	}
	for k, t := range list {
		x := graphOutput{File: fmt.Sprintf("%s.%d.npy", strings.TrimSuffix(o.File, ".npy"), k)}
		if err := x.add(i, 1, eval.Of(t), nil); err != nil {
			return err
		}
		if err := x.close(); err != nil {
			return err
		}
	}
	return nil
}

// stacked is the shape of n tensors together: along the first axis where that is 1, else along a new one.
func stacked(shape []int, n int) []int {
	if n == 1 {
		return append([]int{}, shape...)
	}
	if len(shape) > 0 && shape[0] == 1 {
		shape = shape[1:]
	}
	return append([]int{n}, shape...)
}

// count64 updates least, largest and mean.
func (o *graphOutput) count64(x []float64) {
	for _, v := range x {
		if v-v != 0 {
			o.NotFinite++
			continue
		}
		if o.count++; o.Min == nil {
			o.Min, o.Max = new(v), new(v)
		}
		*o.Min, *o.Max = min(*o.Min, v), max(*o.Max, v)
		o.sum += v
	}
}

// close finishes the file, if there is one.
func (o *graphOutput) close() error {
	if o.count > 0 {
		o.Mean = new(o.sum / float64(o.count))
	}
	if o.texts != nil && o.File != "" {
		return npy.Strings(o.File, o.texts, o.Shape...)
	}
	if o.w == nil {
		return nil
	}
	return o.w.Close()
}

// highest finds the highest scores; of equal ones, the first.
func highest(sample int, x []float64, names []string) topClass {
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		if math.IsNaN(x[i]) || math.IsNaN(x[j]) { // NaN is last
			return cmp.Compare(x[j], x[i])
		}
		return cmp.Compare(x[j], x[i])
	})
	t := topClass{Sample: sample}
	for _, c := range order[:min(mostTop, len(order))] {
		if x[c]-x[c] != 0 {
			continue // no number that JSON has
		}
		t.Classes, t.Scores = append(t.Classes, c), append(t.Scores, x[c])
		if c < len(names) {
			t.Names = append(t.Names, names[c])
		}
	}
	return t
}

// classNames reads what classes are called, one a line.
func classNames(file string) ([]string, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fault.As(fault.ErrMisuse, err)
	}
	defer f.Close()
	var names []string
	for s := bufio.NewScanner(f); s.Scan(); {
		names = append(names, strings.TrimSpace(s.Text()))
	}
	return names, nil
}

func (r *graphRun) table() *table {
	t := &table{head: []string{"output", "type", "shape", ">min", ">max", ">mean"}}
	number := func(v *float64) string {
		if v == nil {
			return ""
		}
		return human.Float(*v)
	}
	exact := func(v *float64) string {
		if v == nil {
			return ""
		}
		return fmt.Sprint(*v)
	}
	for i := range r.Outputs {
		o := &r.Outputs[i]
		shape := samples.Text(o.Shape)
		t.both([]string{o.Name, o.Type, shape, number(o.Min), number(o.Max), number(o.Mean)},
			[]string{o.Name, o.Type, shape, exact(o.Min), exact(o.Max), exact(o.Mean)})
	}
	return t
}

// text is the result as a person reads it.
func (r *graphRun) text(w io.Writer, t *table, saved string) {
	_ = t.text(w) // a closed stdout is found by the next write
	for i := range r.Outputs {
		o := &r.Outputs[i]
		if o.NotFinite > 0 {
			fmt.Fprintf(w, "%s has %s values that are NaN or infinite\n", o.Name, human.Thousands(int64(o.NotFinite)))
		}
		for k, c := range o.Top {
			if k == mostShown {
				fmt.Fprintf(w, "  and %s more (--output json has all)\n", plural(len(o.Top)-k, "sample"))
				break
			}
			var words []string
			for j, class := range c.Classes {
				name := fmt.Sprint(class)
				if j < len(c.Names) && c.Names[j] != "" {
					name += " " + c.Names[j]
				}
				words = append(words, fmt.Sprintf("%s (%s)", name, human.Float(c.Scores[j])))
			}
			fmt.Fprintf(w, "%s, sample %d: %s\n", o.Name, c.Sample, strings.Join(words, " · "))
		}
	}
	fmt.Fprintf(w, "%s in %s\n", plural(r.Samples, "sample"), human.Duration(time.Duration(r.RunS*1e9)))
	if saved != "" {
		fmt.Fprintf(w, "written to %s\n", saved)
	}
}
