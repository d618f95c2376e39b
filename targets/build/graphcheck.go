package build

import (
	"cmp"
	"context"
	"fmt"
	"maps"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner/bench"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/report"
	"github.com/pare-dev/pare/targets/samples"
)

// comparedGraph is the record of a finished comparison in the work folder.
type comparedGraph struct {
	Result   *verify.Graphs
	Evidence map[string]verify.Evidence
}

// valueSamples is how many samples the values inside are compared on: nodes are not fused then, so it takes longer.
const valueSamples = 4

// compareGraphs measures the package that was written, m, against the original, and judges it.
func (e *engine) compareGraphs(ctx context.Context, j *job, m *ir.Model, digest string) error {
	known := map[string]verify.Evidence{}
	r := j.rep
	if n := e.net; n.check != nil && n.notRun == "" {
		s, err := e.w.stage("verify", key(digest, e.refKey, e.checkKey(), e.o.ISA))
		if err != nil {
			return err
		}
		var rec comparedGraph
		err = e.timed("verify", j.t.Name, func() (bool, error) {
			if s.load(&rec) {
				return true, nil
			}
			rec = comparedGraph{}
			if rec.Result, err = e.measureGraph(ctx, j, m); err != nil {
				return false, err
			}
			rec.Evidence = rec.Result.Evidence()
			return false, s.finish(rec)
		})
		if err != nil {
			return err
		}
		g := r.Graph
		g.Samples, g.Calibrated = rec.Result.Samples, n.same && j.isa
		g.Outputs, g.Values, g.Top1, g.Task = rec.Result.Outputs, rec.Result.Layers, rec.Result.Top1, rec.Result.Task
		maps.Copy(known, rec.Evidence)
	} else {
		r.NotCompared = "not compared: " + cmp.Or(n.notRun, e.noCheck())
	}
	if err := e.graphLatency(ctx, j, m, digest, known); err != nil {
		return err
	}
	known["size_ratio"] = verify.Exact(float64(r.Bytes) / float64(max(e.rep.Source.Bytes, 1)))
	r.Gate = verify.Evaluate(e.r.Gate.Limits(), known)
	r.Verdict = r.Gate.Verdict
	if r.Verdict == verify.Inconclusive && e.r.Verify.Undecided == "pass" {
		r.Verdict = report.Pass
		r.Notes = append(r.Notes, "a gate stayed inconclusive; the recipe lets that pass")
	}
	return nil
}

// noCheck says why there is nothing to compare on.
func (e *engine) noCheck() string {
	if e.r.Verify.Off {
		return "the comparison is off ([verify] off, --no-verify)"
	}
	return "there are no samples (--samples, [verify] samples)"
}

// measureGraph runs both graphs side by side: all samples for the outputs, a few for the values inside.
func (e *engine) measureGraph(ctx context.Context, j *job, m *ir.Model) (*verify.Graphs, error) {
	set := e.net.check
	run := func(c *samples.Comparison, inside bool) error {
		a, b := e.evalOptions(2), e.evalOptions(2)
		if inside {
			a.Observe, b.Observe = c.Remember, c.Compare
		}
		p, err := eval.Compile(e.net.g, a)
		if err != nil {
			return inModel(e.src.Path, err)
		}
		q, err := eval.Compile(m.Graph, b)
		if err != nil {
			return inModel(m.Path, err)
		}
		return c.Run(ctx, &samples.Network{Path: e.src.Path, Program: p}, &samples.Network{Path: m.Path, Program: q}, set)
	}
	e.meter.Stage("verify "+j.t.Name, int64(set.Len()), "samples")
	all := samples.Comparison{Labels: e.net.labels, Result: &verify.Graphs{Schema: 1, Samples: set.Len(), ISA: string(e.o.ISA)}, Progress: func() { e.meter.Add(1) }}
	if err := run(&all, false); err != nil {
		return nil, err
	}
	inside := samples.Comparison{Result: &verify.Graphs{}, Most: valueSamples}
	if err := run(&inside, true); err != nil {
		return nil, err
	}
	inside.Result.Judge(nil, verify.Bytes{})
	all.Result.Layers = inside.Result.Layers
	all.Result.Original, all.Result.Package = e.against, j.t.Name
	all.Result.Judge(nil, verify.Bytes{Original: e.rep.Source.Bytes, Package: j.rep.Bytes})
	return all.Result, nil
}

// graphLatency times the package beside the original, one sample at a time, in turns.
func (e *engine) graphLatency(ctx context.Context, j *job, m *ir.Model, digest string, known map[string]verify.Evidence) error {
	switch {
	case e.net.notRun != "":
		j.rep.NotTimed = "not timed: " + e.net.notRun
	case e.r.Bench.Off:
		j.rep.NotTimed = "not timed: timing is off ([bench] off, --no-bench)"
	case e.net.check == nil:
		j.rep.NotTimed = "not timed: " + e.noCheck()
	case e.rep.Source.Bytes > largeModel && !speedGate(e):
		j.rep.NotTimed = "not timed: the model is large; pare bench does it"
	}
	if j.rep.NotTimed != "" {
		return nil
	}
	s, err := e.w.stage("bench", key(digest, e.refKey, e.checkKey(), e.r.Bench, speedGate(e), e.o.ISA, e.o.Threads))
	if err != nil {
		return err
	}
	res := &bench.Graphs{}
	err = e.timed("bench", j.t.Name, func() (bool, error) {
		if s.load(res) {
			return true, nil
		}
		list, err := samples.First(ctx, e.net.check, mostTimed)
		if err != nil {
			return false, err
		}
		o := bench.GraphOptions{Rounds: e.r.Bench.Repeat, Limit: benchLimit, Progress: e.meter}
		if speedGate(e) {
			o.Limit = 0 // a verdict needs all of the rounds
		}
		open := func(path string) func(context.Context) (bench.GraphRun, error) {
			return func(ctx context.Context) (bench.GraphRun, error) { return e.openTimed(ctx, path, list) }
		}
		model, err := modelFile(m)
		if err != nil {
			return false, err
		}
		res, err = bench.RunGraphs(ctx, o, bench.Graph{Path: model, Open: open(model)}, bench.Graph{Path: e.src.Path, Open: open(e.src.Path)})
		if err != nil {
			return false, err
		}
		res.Models[0].Path = j.t.Name
		res.Machine.ISA, res.Machine.Threads = string(e.o.ISA), e.o.Threads
		res.Inputs = fmt.Sprintf("%d of the samples", len(list))
		return false, s.finish(res)
	})
	if err != nil {
		return err
	}
	j.rep.Graph.Bench = res
	if r := res.Ratio; r != nil && len(r.Batches) > 0 {
		known["latency_speedup"] = speedup(r.Batches[0].Speed, r.Batches[0].Noise, res.Models[0].Batches[0].SamplesS, res.Models[1].Batches[0].SamplesS)
	}
	return nil
}

// modelFile is the file that the model of an open package lies in.
func modelFile(m *ir.Model) (string, error) {
	man, err := pack.ReadManifest(m.Path)
	if err != nil {
		return "", err
	}
	return man.ModelPath(m.Path), nil
}

// mostTimed is how many samples are timed; they lie in memory.
const mostTimed = 16

// timedGraph is a graph that runs on samples in memory.
type timedGraph struct {
	*samples.Batches
	model *ir.Model
}

func (e *engine) openTimed(ctx context.Context, path string, list []ir.Sample) (bench.GraphRun, error) {
	m, err := formats.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	p, err := eval.Compile(m.Graph, e.evalOptions(2))
	if err != nil {
		_ = m.Close()
		return nil, inModel(path, err)
	}
	return &timedGraph{samples.NewBatches(&samples.Network{Path: path, Program: p}, list), m}, nil
}

// Bytes are those of the model's files.
func (t *timedGraph) Bytes() int64 { return t.model.FileBytes }

// Close closes the model.
func (t *timedGraph) Close() error { return t.model.Close() }
