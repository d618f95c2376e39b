package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/targets/recipe"
)

// estimate fills in memory, disk and time, and refuses what cannot be kept.
func (e *engine) estimate(m *ir.Model, jobs []*job) error {
	memory, least := e.estimateMemory(m, jobs)
	rep := e.rep
	rep.PlannedMemoryBytes = memory
	if rep.Planned {
		rep.PeakMemoryBytes = memory
	}
	var assets int64 // travel beside the weights, and the tokenizer once more in a GGUF
	for _, b := range m.Assets {
		assets += 2 * int64(len(b))
	}
	for _, j := range jobs {
		n := j.rep.Bytes
		rep.DiskBytes += n + assets
		if runs(j.t) {
			rep.WorkBytes += n // spilled codes, beside the package that copies them
		}
		if j.t.Archive {
			rep.WorkBytes += n
		}
	}
	if e.spillsReference() {
		rep.WorkBytes += mergedHeap(e)
	}
	rep.EstimateS = e.estimateTime(m, jobs)
	var errs []error
	if most := e.o.MaxMemory; most > 0 && least > most {
		errs = append(errs, &fault.Error{
			Op: "plan", Err: fault.As(fault.ErrBudget, fmt.Errorf("the work takes at least %s of memory, --max-memory is %s", human.Bytes(least), human.Bytes(most))),
			Hint: "raise --max-memory, use fewer threads, or leave out what runs the model ([verify] off = true)",
		})
	}
	need, limit := rep.DiskBytes+rep.WorkBytes, e.o.MaxDisk
	if limit == 0 {
		limit = proc.FreeDisk(existing(e.workDir()))
	}
	if limit > 0 && need > limit {
		errs = append(errs, &fault.Error{
			File: e.o.Out, Op: "plan", Err: fault.As(fault.ErrBudget, fmt.Errorf("packages and work folder take %s of disk, %s are free", human.Bytes(need), human.Bytes(limit))),
			Hint: "free some, or choose another -o or --work",
		})
	}
	return errors.Join(errs...)
}

// existing is the nearest folder above a path that exists.
func existing(path string) string {
	for p := path; ; p = filepath.Dir(p) {
		if exists(p) || p == filepath.Dir(p) {
			return p
		}
	}
}

// Rates of one core, measured on a 2.5 GHz x86 server; an estimate is right within a factor of two.
const (
	bytesPerSecond   = 600e6 // decode and copy
	weightsPerSecond = 12e6  // scale search of a block type
	flopsPerSecond   = 25e9
)

// estimateTime is in seconds.
func (e *engine) estimateTime(m *ir.Model, jobs []*job) float64 {
	cores := float64(e.o.Threads)
	weights := float64(m.Parameters())
	s := float64(e.rep.Source.Bytes) / bytesPerSecond // digests
	for _, j := range jobs {
		s += float64(e.rep.Source.Bytes) / bytesPerSecond / cores
		if _, plain := j.plain(); !plain {
			s += weights / weightsPerSecond / cores
		}
		s += 2 * weights * 4 / bytesPerSecond / cores // comparing weights
		if runs(j.t) {
			s += e.gptqFlops(m) / flopsPerSecond / cores
		}
		if e.check != nil && !e.r.Verify.Off {
			s += 2 * 2 * weights * float64(e.r.Verify.Chunks*e.r.Verify.Context) / flopsPerSecond / cores
		}
		if e.src.Decoder != nil && !e.r.Bench.Off {
			b := e.r.Bench
			s += 2 * 2 * weights * float64((b.Repeat+1)*(b.Prompt+2*b.Generate)) / flopsPerSecond / cores
		}
	}
	return s
}

// gptqFlops is T in^2 + 4/3 in^3 + out in^2 for every linear layer, and two runs of the model.
func (e *engine) gptqFlops(m *ir.Model) (f float64) {
	var n float64
	if e.calib != nil {
		n = float64(e.calib.Tokens)
	}
	for _, t := range m.Tensors() {
		if t.Role.Linear() {
			in, out := float64(t.Cols()), float64(t.Rows())
			f += n*in*in + 4*in*in*in/3 + out*in*in
		}
	}
	return f + 2*2*n*float64(m.Parameters())
}

// estimateMemory is the expected peak, and the least that the work can be done in. Without a limit
// the collector lets about half as much garbage again pile up; with one it collects earlier, and
// buffers shrink to fit.
func (e *engine) estimateMemory(m *ir.Model, jobs []*job) (peak, least int64) {
	threads := int64(e.o.Threads)
	var row, block, widest int64 // bytes of the widest row and the largest block in f32; columns of the widest layer
	blocks := map[int]int64{}
	for _, t := range m.Tensors() {
		row = max(row, int64(t.Cols())*4)
		if t.Block >= 0 {
			blocks[t.Block] += t.Elems() * 4
			block = max(block, blocks[t.Block])
		}
		if t.Role.Linear() {
			widest = max(widest, int64(t.Cols()))
		}
	}
	stream := e.streamMemory()
	if stream == 0 {
		stream = ir.DefaultStreamMemory
	}
	least = overhead + 4*threads*row
	heap := min(stream, e.rep.Source.Bytes) + 4*threads*row
	if e.check != nil && e.src.Decoder != nil {
		act := e.activations()
		least = max(least, overhead+2*act)
		ref := mergedHeap(e)
		if e.spillsReference() {
			ref = 0
		}
		heap = max(heap, 2*act+ref)
	}
	if e.src.Decoder != nil && (needsRun(e.r) || measures(e.r, jobs)) {
		act := e.activations()
		least = max(least, overhead+act+block)
		heap = max(heap, act+block+20*widest*widest+e.states())
	}
	if e.src.Decoder != nil && !e.r.Bench.Off {
		heap = max(heap, e.activations()+benchMemory)
	}
	if most := e.o.MaxMemory; most > 0 {
		return max(least, min(overhead+heap, most)), least
	}
	return overhead + heap*3/2, least
}

// benchMemory is what the measurement of memory bandwidth reads, where there is no limit.
const benchMemory = 256 << 20

// states is the hidden states of the calibration tokens that a walk keeps: the residual stream, and
// the inputs of the second or the fourth stage of a block.
func (e *engine) states() int64 {
	if e.calib == nil {
		return 0
	}
	d := e.src.Decoder
	n := int64(e.calib.Tokens) * int64(d.Hidden+max(d.QDim(), d.FFN)) * 4
	if mem := e.passMemory(); mem > 0 {
		n = min(n, mem/2) // the rest is spilled
	}
	return n
}

// measures says that a target has its importance matrix measured.
func measures(r *recipe.Recipe, jobs []*job) bool {
	for _, j := range jobs {
		if r.Calibration.Imatrix == "" && usesImportance(j.t, j.req, r) {
			return true
		}
	}
	return false
}

// activations is what one runner takes beside its weights, about: buffers of the smallest batch it
// would choose, logits, and the cache of one context.
func (e *engine) activations() int64 {
	d := e.src.Decoder
	const batch = 64
	buffers := int64(batch) * int64(2*d.Hidden+2*d.QDim()+3*d.FFN) * 4
	cache := int64(d.Layers) * 2 * int64(d.KVDim()) * int64(max(e.r.Verify.Context, 128)) * 4
	return buffers + cache + int64(min(16, batch))*int64(d.Vocab)*4 + 8<<20
}

// heapFor is the memory that merged weights may take: a quarter of --max-memory, or half of the
// machine's memory when no limit was asked.
func (e *engine) heapFor() int64 {
	if m := e.memory(); m > 0 {
		return m / 4
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
