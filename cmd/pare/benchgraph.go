package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/bench"
	"github.com/pare-dev/pare/targets/samples"
)

// graphBench are the choices of bench for graphs.
type graphBench struct {
	batches []int
	graph   inputFlags
	changed func(flag string) bool
}

// graphBenchFlags are those that only graphs have, languageBenchFlags those that they do not have.
var (
	graphBenchFlags    = []string{"batch", "samples", "shape", "recipe"}
	languageBenchFlags = []string{"prompt", "generate", "kv", "activations"}
)

func (fl *graphBench) register(c *cobra.Command) {
	f := c.Flags()
	f.IntSliceVar(&fl.batches, "batch", []int{1, 8}, "`SIZES` of batches that graphs are measured with")
	f.StringArrayVar(&fl.graph.inputs, "samples", nil, "`FILE` or folder that graphs run on, random numbers unless given; NAME=FILE where there are several inputs; repeat it for several")
	f.Lookup("samples").Annotations = map[string][]string{noEnv: {"input"}}
	fl.graph.register(c)
}

// refuse is the mistake of typing a flag that means nothing here.
func (fl *graphBench) refuse(flags []string, why string) error {
	for _, name := range flags {
		if fl.changed(name) {
			return flagFault(name, misuse("leave it out", "%s", why))
		}
	}
	return nil
}

// args are the flags as the process has them that measures memory.
func (fl *graphBench) args() []string {
	args := []string{"--batch", strconv.Itoa(fl.batches[0])}
	for _, x := range []struct {
		flag   string
		values []string
	}{{"samples", fl.graph.inputs}, {"shape", fl.graph.shapes}} {
		for _, v := range x.values {
			args = append(args, "--"+x.flag, v)
		}
	}
	if fl.graph.recipe != "" {
		args = append(args, "--recipe", fl.graph.recipe)
	}
	return args
}

// areGraphs says whether what is measured are graphs.
func (a *app) areGraphs(ctx context.Context, paths ...string) (bool, error) {
	graphs, others := 0, 0
	for _, path := range paths {
		if path == "" {
			continue
		}
		m, err := a.openModel(ctx, path)
		if err != nil {
			return false, err
		}
		if m.Graph != nil {
			graphs++
		} else {
			others++
		}
		if err := m.Close(); err != nil {
			return false, err
		}
	}
	if graphs > 0 && others > 0 {
		return false, misuse("measure two graphs, or two language models", "one of the models is a graph, the other is not")
	}
	return graphs > 0, nil
}

// benchGraphs measures one graph, or two in turns.
func (a *app) benchGraphs(ctx context.Context, fl *graphBench, o bench.Options, paths ...string) error {
	if err := fl.refuse(languageBenchFlags, "graphs write no text: choose --batch, --shape or --samples"); err != nil {
		return err
	}
	for _, n := range fl.batches {
		if n < 1 || n > 1<<16 {
			return flagFault("batch", misusef("%d is no size of a batch", n))
		}
	}
	if len(fl.batches) == 0 {
		return flagFault("batch", misusef("give at least one size"))
	}
	paths = slices.DeleteFunc(paths, func(p string) bool { return p == "" })
	a.budget.shares = int64(len(paths))
	var list []bench.Graph
	for _, path := range paths {
		list = append(list, bench.Graph{
			Path: path,
			Open: func(ctx context.Context) (bench.GraphRun, error) { return a.openFed(ctx, path, fl) },
			Peak: func(ctx context.Context) (int64, error) { return a.peakOf(ctx, path, fl.args()...) },
		})
	}
	r, err := bench.RunGraphs(ctx, bench.GraphOptions{Batches: fl.batches, Rounds: o.Rounds, Limit: o.Limit, Progress: o.Progress}, list...)
	if err != nil {
		return err
	}
	a.stopProgress()
	r.Machine.ISA, r.Machine.Threads = string(kernels.For(a.level).Level()), a.workers().Threads()
	r.Inputs = "random"
	if len(fl.graph.inputs) > 0 {
		r.Inputs = strings.Join(fl.graph.inputs, ", ")
	}
	var lines []any
	for i := range r.Models {
		lines = append(lines, &r.Models[i])
	}
	t := graphBenchTable(r)
	return a.show(result{object: r, lines: lines, table: t, text: func(w io.Writer) { graphBenchText(w, r, t) }})
}

// peakGraph runs one batch, and says what memory the process took.
func (a *app) peakGraph(ctx context.Context, path string, m *ir.Model, fl *graphBench) error {
	a.budget.shares = 1
	f, err := a.feed(ctx, path, m, fl)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, n := range fl.batches {
		if _, err := f.Batch(ctx, n); err != nil {
			return err
		}
		if err := f.Run(ctx); err != nil {
			return err
		}
	}
	return json.NewEncoder(a.out).Encode(peak{proc.PeakMemory()})
}

// mostFed is how many samples are kept in memory; runs go through them in a circle.
const mostFed = 16

// fed is a graph with inputs: a bench.GraphRun.
type fed struct {
	*samples.Batches
	model *ir.Model
}

func (a *app) openFed(ctx context.Context, path string, fl *graphBench) (*fed, error) {
	m, err := a.openModel(ctx, path)
	if err != nil {
		return nil, err
	}
	return a.feed(ctx, path, m, fl)
}

// feed makes an open graph ready to run, with samples of a batch of one. It closes the model when that fails.
func (a *app) feed(ctx context.Context, path string, m *ir.Model, fl *graphBench) (*fed, error) {
	n, err := a.compile(path, m, a.networkOptions())
	if err != nil {
		return nil, err
	}
	inputs := n.Program.Inputs()
	var list []ir.Sample
	if len(fl.graph.inputs) == 0 && fl.graph.recipe == "" {
		var sample ir.Sample
		sample, err = randomSample(inputs, samples.BatchAxes(inputs), fl.graph.shapes)
		list = []ir.Sample{sample}
	} else {
		list, err = fl.read(ctx, a, inputs)
	}
	if err != nil {
		return nil, errors.Join(inFileEach(path, err), m.Close())
	}
	return &fed{samples.NewBatches(&n.Network, list), m}, nil
}

// read takes the first samples of files.
func (fl *graphBench) read(ctx context.Context, a *app, inputs []*graph.Value) ([]ir.Sample, error) {
	set, err := fl.graph.set(a, inputs, fl.graph.given(inputs), true)
	if err != nil {
		return nil, err
	}
	defer set.Close()
	return samples.First(ctx, set, mostFed)
}

// randomSample has floats from 0 to 1, and zeros for integers, which may be indices.
func randomSample(inputs []*graph.Value, axes map[string]int, shapes []string) (ir.Sample, error) {
	given, err := shapesOf(shapes, inputs)
	if err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(7, 11)) //nolint:gosec // fixed: every run gets the same numbers
	s := ir.Sample{}
	for _, v := range inputs {
		if v.Const != nil {
			continue
		}
		if v.Kind != graph.KindTensor || v.Type == graph.String {
			return nil, &fault.Error{Op: "input " + v.Name, Err: misusef("there are no random %ss: give --samples", v.Type)}
		}
		shape, ok := given[v.Name]
		if !ok && v.Shape != nil {
			ok = true
			for i, d := range *v.Shape {
				if at, counts := axes[v.Name]; d.Size < 0 && counts && at == i {
					d.Size = 1
				}
				ok = ok && d.Size >= 0
				shape = append(shape, d.Size)
			}
		}
		if !ok {
			return nil, &fault.Error{Op: "input " + v.Name, Err: misusef("its shape %s is open", v.Shape.Text()), Hint: "say what it is with --shape " + v.Name + "=1x3x224x224, or give --samples"}
		}
		t := graph.New(v.Type, shape...)
		if v.Type == graph.Float32 {
			for i, x := 0, graph.Of[float32](t); i < len(x); i++ {
				x[i] = rng.Float32()
			}
		}
		s[v.Name] = t
	}
	return s, nil
}

// Bytes are those of the model's files.
func (f *fed) Bytes() int64 { return f.model.FileBytes }

// Close closes the model.
func (f *fed) Close() error { return f.model.Close() }

var _ bench.GraphRun = (*fed)(nil)

func graphBenchTable(r *bench.Graphs) *table {
	t := &table{head: []string{"model", ">size", ">load and first", ">batch", ">latency p50", ">p90", ">p99", ">samples/s", ">peak memory"}}
	s := func(v float64) string {
		if v < 0.995e-3 { // small networks answer in microseconds
			return fmt.Sprintf("%.3g µs", v*1e6)
		}
		return human.Duration(time.Duration(v * 1e9))
	}
	for i := range r.Models {
		m := &r.Models[i]
		for k := range m.Batches {
			b := &m.Batches[k]
			size := fmt.Sprint(b.Batch)
			if !b.Together {
				size += " one by one"
			}
			first := []string{m.Path, human.Bytes(m.Bytes), s(m.LoadS)}
			memory := human.Bytes(m.PeakRSSBytes)
			if k > 0 {
				first, memory = []string{"", "", ""}, ""
			}
			t.both(append(first, size, s(b.LatencyS.P50), s(b.LatencyS.P90), s(b.LatencyS.P99), spread(b.SamplesS), memory), []string{
				m.Path, fmt.Sprint(m.Bytes), fmt.Sprint(m.LoadS), fmt.Sprint(b.Batch), fmt.Sprint(b.LatencyS.P50), fmt.Sprint(b.LatencyS.P90), fmt.Sprint(b.LatencyS.P99),
				fmt.Sprint(b.SamplesS.Median), fmt.Sprint(m.PeakRSSBytes),
			})
		}
	}
	return t
}

func graphBenchText(w io.Writer, r *bench.Graphs, t *table) {
	m := r.Machine
	fmt.Fprintf(w, "%s, %s kernels, %s; inputs: %s; %s\n", m.CPU, m.ISA, plural(m.Threads, "thread"), r.Inputs, plural(r.Rounds, "round"))
	_ = t.text(w) // a closed stdout is found by the next write
	if q := r.Ratio; q != nil {
		fmt.Fprint(w, "first over second:")
		for _, b := range q.Batches {
			fmt.Fprintf(w, " batch %d %s%s ", b.Batch, times(b.Speed), between(b.Lower95, b.Upper95))
		}
		fmt.Fprintf(w, " load %s  memory %s\n", times(q.Load), times(q.RSS))
	}
}
