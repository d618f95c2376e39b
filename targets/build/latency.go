package build

import (
	"context"
	"fmt"
	"time"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/bench"
)

// benchLimit ends a measurement that would take long: a build should not spend more time on timing
// than on work. `pare bench` has no such limit.
const benchLimit = 20 * time.Second

// largeModel is the size above which the builder does not time models by default: every round would
// take minutes on a CPU.
const largeModel = 16 << 30

// latency measures the package beside the original, in turns, and returns the intervals that gates
// look at: value, lower and upper bound by gate name.
func (e *engine) latency(ctx context.Context, j *job, m *ir.Model, digest string) (map[string][3]float64, error) {
	out := map[string][3]float64{}
	if e.r.Bench.Off || e.ref.Decoder == nil {
		return out, nil
	}
	if e.rep.Source.Bytes > largeModel && !speedGate(e) {
		j.rep.Notes = append(j.rep.Notes, "latency was not measured: the model is large; pare bench does it")
		return out, nil
	}
	b := e.r.Bench
	s, err := e.w.stage("bench", key(digest, e.refKey, b, e.o.ISA, e.o.Threads))
	if err != nil {
		return nil, err
	}
	res := &bench.Result{}
	err = e.timed("bench", j.t.Name, func() (bool, error) {
		if s.load(res) {
			return true, nil
		}
		o := bench.Options{
			Runner: runner.Options{Threads: e.o.Threads, ISA: e.o.ISA, Memory: e.memory() / 2},
			Prompt: b.Prompt, Generate: b.Generate, Rounds: b.Repeat, Limit: benchLimit, Progress: e.meter,
		}
		if e.check != nil {
			o.Tokens = e.check.ids
		}
		res, err = bench.Run(ctx, o,
			bench.Subject{Path: j.t.Name, Open: func(ctx context.Context) (*ir.Model, error) { return formats.Open(ctx, m.Path) }},
			bench.Subject{Path: e.src.Path, Open: e.openReference})
		if err != nil {
			return false, err
		}
		return false, s.finish(res)
	})
	if err != nil {
		return nil, err
	}
	j.rep.Bench = res
	e.rep.Machine.ReadGBps = max(e.rep.Machine.ReadGBps, res.Machine.ReadGBps)
	if r := res.Ratio; r != nil {
		out["decode_speedup"] = [3]float64{r.Decode, r.DecodeLower95, r.DecodeUpper95}
		out["prefill_speedup"] = [3]float64{r.Prefill, r.PrefillLower95, r.PrefillUpper95}
	}
	return out, nil
}

// openReference opens what the package is timed against: the source as it lies on disk. Merging
// adapters changes neither shapes nor types, so the time is the same; what differs is that weights
// merged in memory would be held there in f32.
func (e *engine) openReference(ctx context.Context) (*ir.Model, error) {
	m, err := formats.Open(ctx, e.src.Path)
	if err != nil {
		return nil, fmt.Errorf("the original: %w", err)
	}
	return m, nil
}

func speedGate(e *engine) bool {
	_, decode := e.r.Gate["decode_speedup"]
	_, prefill := e.r.Gate["prefill_speedup"]
	return decode || prefill
}
