package build

import (
	"context"
	"fmt"
	"time"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/bench"
	"github.com/pare-dev/pare/runner/verify"
)

// benchLimit ends a measurement that would take long: a build should not spend more time on timing
// than on work. `pare bench` has no such limit.
const benchLimit = 20 * time.Second

// largeModel is the size above which the builder does not time models by default: every round would
// take minutes on a CPU.
const largeModel = 16 << 30

// benchProbe is the memory that the measurement of bandwidth takes in a build, whose own peak it
// should not be.
const benchProbe = 64 << 20

// latency measures the package beside the original, in turns, and returns what gates look at.
func (e *engine) latency(ctx context.Context, j *job, m *ir.Model, digest string) (map[string]verify.Evidence, error) {
	out := map[string]verify.Evidence{}
	switch {
	case e.ref.Decoder == nil:
		j.rep.NotTimed = "not timed: " + e.notRun
	case e.r.Bench.Off:
		j.rep.NotTimed = "not timed: timing is off ([bench] off, --no-bench)"
	case e.rep.Source.Bytes > largeModel && !speedGate(e):
		j.rep.NotTimed = "not timed: the model is large; pare bench does it"
	}
	if j.rep.NotTimed != "" {
		return out, nil
	}
	b := e.r.Bench
	s, err := e.w.stage("bench", key(digest, e.refKey, b, speedGate(e), e.o.ISA, e.o.Threads))
	if err != nil {
		return nil, err
	}
	res := &bench.Result{}
	err = e.timed("bench", j.t.Name, func() (bool, error) {
		if s.load(res) {
			return true, nil
		}
		defer e.mapping(2)()
		o := bench.Options{
			Runner: runner.Options{Threads: e.o.Threads, Pool: e.pool, ISA: e.o.ISA, Memory: e.runMemory(), KV: storage.F16},
			Prompt: b.Prompt, Generate: b.Generate, Rounds: b.Repeat, Limit: benchLimit, Probe: benchProbe, Progress: e.meter,
		}
		if speedGate(e) {
			o.Limit = 0 // a verdict needs all of the rounds
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
		made, orig := &res.Models[0], &res.Models[1]
		out["decode_speedup"] = speedup(r.Decode, r.DecodeNoise, made.DecodeTokS, orig.DecodeTokS)
		out["prefill_speedup"] = speedup(r.Prefill, r.PrefillNoise, made.PrefillTokS, orig.PrefillTokS)
	}
	return out, nil
}

// speedup is what a gate on speed needs to know.
func speedup(ratio, noise float64, made, orig bench.Spread) verify.Evidence {
	return verify.Evidence{Value: ratio, Resamples: bench.Ratios(made.Rounds, orig.Rounds), Units: len(made.Rounds), Noise: noise}
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
	return gatesSpeed(e.r.Gate)
}
