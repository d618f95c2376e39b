package build

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/distill"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// Memory. --max-memory covers all that is resident: the program's own pages, the heap, and the pages
// of mapped weights. What the program and the inputs take all along comes off first; the rest is
// shared out by phase, an eighth of it being left for garbage. Shares depend on the inputs and the
// limit alone, for they may decide what is done (a layer whose second moments do not fit is rounded
// to nearest), and the same call must give the same bytes.

// overhead is what the process holds all along: the program, the catalogue, tokenizer and texts.
func (e *engine) overhead() int64 {
	held := proc.Program + proc.Slack + runner.Held(e.src)
	for _, t := range []*tokens{e.calib, e.check, e.proof} {
		if t != nil {
			held += 8 * int64(len(t.ids))
		}
	}
	return held
}

// memory is what phases may take; 0 means that no limit was asked.
func (e *engine) memory() int64 {
	if e.o.MaxMemory <= 0 {
		return 0
	}
	return max(1<<20, (e.o.MaxMemory-e.overhead())/8*7)
}

// streamMemory is for buffers of what is written; sources behind them hold about as much again for
// each band they derive.
func (e *engine) streamMemory() int64 { return e.memory() / 4 }

// passMemory is for one pass at work.
func (e *engine) passMemory() int64 { return e.memory() / 2 }

// runMemory is for each of two models that run side by side; the rest is for measuring the machine.
func (e *engine) runMemory() int64 { return e.memory() / 8 * 3 }

// mapping keeps the heap small while models run from mapped files, whose pages then count too, and
// returns what ends that.
func (e *engine) mapping(models int64) (done func()) {
	if e.o.MaxMemory <= 0 {
		return func() {}
	}
	return proc.LimitMemory(e.o.MaxMemory, min(models*e.rep.Source.Bytes, e.memory()/2))
}

// demands are what the phases of the work take at least beside overhead, in bytes.
type demands struct {
	stream int64 // writing weights, and comparing them
	walk   int64 // running the model over calibration text, and what is learned from it
	pair   int64 // running two models side by side
	train  int64 // learning from text
}

func (d demands) most() int64 { return max(d.stream, d.walk, d.pair, d.train) }

// demand adds up what a build of these jobs takes at least.
func (e *engine) demand(m *ir.Model, jobs []*job) (d demands, err error) {
	var row, layer int64 // the widest row and the largest layer in f32
	for _, t := range m.Tensors() {
		row = max(row, int64(t.Cols())*4)
		if t.Role.Linear() {
			layer = max(layer, t.Elems()*4)
		}
	}
	d.stream = 4 * int64(e.o.Threads) * row
	if e.src.Decoder == nil {
		return d, nil
	}
	if needsRun(e.r) || measures(e.r, jobs) {
		if d.walk, err = runner.WalkDemand(e.src, e.runOptions(), e.r.Calibration.Context); err != nil {
			return d, err
		}
		d.walk = max(2*d.walk, d.walk+3*layer) // hidden states may take the other half
	}
	if e.r.Distill != nil {
		d.train = e.learning.Least(e.r.Distill.Context)
	}
	d.pair, err = e.pairDemand(jobs)
	return d, err
}

// pairDemand is what running original and package side by side takes.
func (e *engine) pairDemand(jobs []*job) (int64, error) {
	compares := e.check != nil && !e.r.Verify.Off
	if e.single || !compares && e.r.Bench.Off {
		return 0, nil
	}
	one, err := runner.Demand(e.src, e.runOptions())
	if err != nil {
		return 0, err
	}
	var planes int64 // uniform schemes are held as one byte a code
	for _, j := range jobs {
		if j.req.Scheme != nil {
			planes = e.rep.Source.Parameters
		}
	}
	return (one + planes) / 3 * 8, nil // see runMemory
}

// runOptions are how models are run to be compared.
func (e *engine) runOptions() runner.Options {
	return runner.Options{Threads: e.o.Threads, Pool: e.pool, ISA: e.o.ISA, Tokens: max(e.r.Verify.Context, e.r.Bench.Prompt+e.r.Bench.Generate, proofTokens)}
}

// estimateMemory is the expected peak, and the least that the work can be done in.
func (e *engine) estimateMemory(m *ir.Model, jobs []*job) (peak, least int64, err error) {
	d, err := e.demand(m, jobs)
	if err != nil {
		return 0, 0, err
	}
	least = e.overhead() + d.most()*8/7
	peak = e.usualMemory(m, jobs)
	if most := e.o.MaxMemory; most > 0 {
		peak = max(least, min(peak, most))
	}
	return peak, least, nil
}

// usualMemory is the expected peak where there is no limit: the collector lets about as much garbage
// pile up as is alive, and every mapped weight stays.
func (e *engine) usualMemory(m *ir.Model, jobs []*job) int64 {
	stream := min(ir.DefaultStreamMemory, e.rep.Source.Bytes)
	heap := 2 * stream
	var mapped int64
	if e.src.Decoder != nil && (needsRun(e.r) || measures(e.r, jobs)) {
		var block, widest int64
		blocks := map[int]int64{}
		for _, t := range m.Tensors() {
			if t.Block >= 0 {
				blocks[t.Block] += t.Elems() * 4
				block = max(block, blocks[t.Block])
			}
			if t.Role.Linear() {
				widest = max(widest, int64(t.Cols()))
			}
		}
		heap = max(heap, block+20*widest*widest+e.states())
		mapped = e.rep.Source.Bytes
	}
	if e.src.Decoder != nil && !e.single && (e.check != nil && !e.r.Verify.Off || !e.r.Bench.Off) {
		one, err := runner.Usual(e.src, e.runOptions())
		if err != nil {
			return 0 // what is wrong is said where the model is run
		}
		pair := 2*one + mergedHeap(e)
		if !e.r.Bench.Off {
			pair += benchProbe
		}
		heap, mapped = max(heap, pair), 2*e.rep.Source.Bytes
	}
	if d := e.r.Distill; d != nil {
		o, err := e.learning.Fit(distill.Options{Batch: d.Batch}, d.Context, 0)
		if err != nil {
			return 0 // as above
		}
		heap = max(heap, e.learning.Weights+int64(o.Micro*d.Context)*(e.learning.Token+e.learning.Remember))
	}
	heap += e.remembers(jobs)
	return e.overhead() + mapped + heap*3/2
}

// remembers is how much of what the original gave in the comparison with the first package is kept for
// the others, which then need not run it. Nothing is where memory is limited: the phases in between
// need all of it.
func (e *engine) remembers(jobs []*job) int64 {
	packages := 0
	for _, j := range jobs {
		if j.rep.Verdict != report.Refused {
			packages++
		}
	}
	if packages < 2 || e.o.MaxMemory > 0 || e.check == nil || e.r.Verify.Off || e.src.Decoder == nil {
		return 0
	}
	most := int64(1 << 30)
	if m := proc.TotalMemory(); m > 0 {
		most = min(most, m/16)
	}
	each := (&verify.Recording{Blocks: true}).Bytes(e.src.Decoder, e.r.Verify.Context)
	return min(most, each*int64(max(e.r.Verify.Chunks, e.r.Verify.MaxChunks)))
}

// memoryHint is what to try where memory does not suffice.
func (e *engine) memoryHint(jobs []*job) string {
	if e.r.Distill != nil && e.single {
		return "raise --max-memory, give shorter sequences with --context, or train less of the model with --train"
	}
	if e.single && !needsRun(e.r) && !measures(e.r, jobs) {
		return "raise --max-memory, or use fewer threads"
	}
	if e.single {
		return "raise --max-memory, use fewer threads, or leave the calibration text out"
	}
	return "raise --max-memory, use fewer threads, or leave out what runs the model (--no-verify, --no-bench)"
}

// states is the hidden states of the calibration tokens that a walk keeps: the residual stream, and
// the inputs of the second or the fourth stage of a block.
func (e *engine) states() int64 {
	if e.calib == nil {
		return 0
	}
	d := e.src.Decoder
	return int64(e.calib.Tokens) * int64(d.Hidden+max(d.QDim(), d.FFN)) * 4
}

// measures says that a target has its importance matrix measured.
func measures(r *recipe.Recipe, jobs []*job) bool {
	for _, j := range jobs {
		if r.Calibration.Imatrix == "" && (usesImportance(j.t, j.req, r) || runs(j.t)) {
			return true
		}
	}
	return false
}

// heapFor is the memory that merged weights may take: what is left of one model's share where there
// is a limit, half of the machine's memory where there is none.
func (e *engine) heapFor() int64 {
	if most := e.runMemory(); most > 0 {
		if e.src.Decoder == nil {
			return most
		}
		one, err := runner.Demand(e.src, e.runOptions())
		if err != nil {
			return 0
		}
		return most - one
	}
	if m := proc.TotalMemory(); m > 0 {
		return m / 2
	}
	return 8 << 30
}

// spillsReference says that the reference's merged weights are kept in a file, for they would take
// too much memory.
func (e *engine) spillsReference() bool {
	return !e.single && len(e.adapters) > 0 && e.check != nil && mergedHeap(e) > e.heapFor()
}

// unproved is the reason why a merge cannot be proved in the memory there is, or empty.
func (e *engine) unproved() string {
	heap := mergedHeap(e)
	if e.spillsReference() {
		heap = 0
	}
	if most := e.heapFor(); heap > most {
		return fmt.Sprintf("not proved: base and merged model side by side would take %s more memory than there is", human.Bytes(heap-most))
	}
	return ""
}

// mergedHeap is what the merged weights of the reference take in f32, 0 without adapters.
func mergedHeap(e *engine) (n int64) {
	if len(e.adapters) == 0 {
		return 0
	}
	p, err := e.mergePass("f32").Plan(context.Background(), e.src)
	if err != nil {
		return 0 // what is wrong is said where the merge is planned
	}
	for _, s := range p.Steps {
		if t := e.src.Find(s.Tensor); s.Change && t != nil {
			n += 4 * t.Elems()
		}
	}
	return n
}
