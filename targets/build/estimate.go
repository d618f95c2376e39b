package build

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
)

// estimate fills in memory, disk and time, and refuses what cannot be kept.
func (e *engine) estimate(m *ir.Model, jobs []*job) error {
	memory, least, err := e.estimateMemory(m, jobs)
	if err != nil {
		return err
	}
	rep := e.rep
	rep.PlannedMemoryBytes = memory
	if rep.Planned {
		rep.PeakMemoryBytes = memory
	}
	headers := 256 * int64(len(m.Tensors()))
	var assets int64 // travel beside the weights, and the tokenizer once more in a GGUF
	for _, b := range m.Assets {
		assets += 2 * int64(len(b))
	}
	for _, j := range jobs {
		n := j.rep.Bytes
		rep.DiskBytes += n + assets + headers
		if !e.single {
			rep.DiskBytes += reportBytes
		}
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
	errs = append(errs, proc.Afford("plan", least, e.o.MaxMemory, e.memoryHint(jobs)))
	return errors.Join(append(errs, e.checkDisk())...)
}

// checkDisk refuses work that does not fit on the disk. Packages are made in the work folder and move
// to their place, so both need room for them where they are two disks.
func (e *engine) checkDisk() error {
	work, out := e.workDir(), e.o.Out
	need := e.rep.DiskBytes + e.rep.WorkBytes
	full := func(place, what, hint string, need, free int64) error {
		if free <= 0 || need <= free {
			return nil
		}
		return &fault.Error{
			File: place, Op: "plan", Err: fault.As(fault.ErrBudget, fmt.Errorf("%s take %s of disk, %s are free", what, human.BytesUp(need), human.Bytes(free))),
			Hint: hint,
		}
	}
	if e.o.MaxDisk > 0 {
		return full(out, "packages and work folder", "free some, or choose another -o or --work", need, e.o.MaxDisk)
	}
	free, there := proc.FreeDisk(existing(work)), proc.FreeDisk(existing(out))
	if free == there {
		return full(out, "packages and work folder", "free some, or choose another -o or --work", need, free)
	}
	return errors.Join(
		full(work, "the work folder's files", "free some, or choose another --work", need, free),
		full(out, "packages and reports", "free some, or choose another -o", e.rep.DiskBytes, there))
}

// reportBytes is about what the reports inside a package and their share of those beside it take.
const reportBytes = 512 << 10

// existing is the nearest folder above a path that exists.
func existing(path string) string {
	for p := path; ; p = filepath.Dir(p) {
		if exists(p) || p == filepath.Dir(p) {
			return p
		}
	}
}

// Rates of one core, measured on a 2.5 GHz x86 server; an estimate is right within a factor of two or so on an
// idle machine.
const (
	bytesPerSecond   = 600e6 // decode and copy
	weightsPerSecond = 80e6  // scale search of a block type
	flopsPerSecond   = 25e9
)

// estimateTime is in seconds.
func (e *engine) estimateTime(m *ir.Model, jobs []*job) float64 {
	cores := float64(e.o.Threads)
	weights := float64(m.Parameters())
	var s float64
	if !e.single || e.keepsStages(jobs[0]) {
		s = float64(e.rep.Source.Bytes) / bytesPerSecond // digests
	}
	var learned float64 // tokens of calibration
	if e.calib != nil {
		learned = float64(e.calib.Tokens)
	}
	walk := 2 * weights * learned / flopsPerSecond / cores
	for i := range e.r.Passes {
		if prunesByActivations(e.r) && e.r.Passes[i].Use != "lora.merge" {
			s += 2 * walk // each block before and after its weights went
		}
	}
	if measures(e.r, jobs) {
		s += walk
	}
	compared := 2. // models that run: the original, unless it is remembered, and the package
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
			s += compared * 2 * weights * float64(e.r.Verify.Chunks*e.r.Verify.Context) / flopsPerSecond / cores
			if e.remembers(jobs) > 0 {
				compared = 1
			}
		}
		if e.src.Decoder != nil && !e.r.Bench.Off {
			b := e.r.Bench
			timed := 2 * 2 * weights * float64((b.Repeat+1)*(b.Prompt+2*b.Generate)) / flopsPerSecond / cores
			if !speedGate(e) {
				timed = min(timed, benchLimit.Seconds())
			}
			s += timed
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
