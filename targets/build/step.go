package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/targets"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// Step is one piece of work from file to file: what the verbs quantize, prune, lora merge and
// convert do. It goes through the same engine as a build, without target, package and comparison.
type Step struct {
	// Recipe gives source, adapters, dtype, calibration and passes; the rest of it is not used.
	Recipe *recipe.Recipe
	// Quantize gives type, method and overrides; nil quantizes nothing. Its target is not used.
	Quantize *recipe.Target
	Out      string // file or folder to write
	To       string // format; empty: from the suffix of Out, a Hugging Face folder without one
	Pre      string // GGUF tokenizer.ggml.pre, when the tokenizer does not say which it is
	External bool   // ONNX: large tensors in a file beside the model
	Opset    int    // ONNX of a text encoder: version of the operator set; 0: as old as can be
	Pooled   bool   // ONNX of a text encoder: an output with embeddings
}

// anyTarget stands in for a target where a step has none.
var anyTarget = &targets.Target{Name: "file", Calibrated: "gptq"}

// Transform carries out a step and says what was done, in a report with one target that names the
// file. The output appears when it is complete. Work that is expensive is kept beside the output
// until it is done, so an interrupted step goes on where it was.
func Transform(ctx context.Context, s Step, o Options) (rep *report.Report, err error) {
	start := time.Now()
	in := clone(s.Recipe)
	in.Targets, in.Verify, in.Bench, in.Gate = nil, recipe.Verify{Off: true}, recipe.Bench{Off: true}, nil
	if err := s.check(in, o); err != nil {
		return nil, err
	}
	o.Out = filepath.Dir(filepath.Clean(s.Out))
	if o.Work == "" {
		o.Work = StepWork(s.Out)
	}
	e, err := newEngine(ctx, in, o, true)
	if err != nil {
		return nil, err
	}
	defer e.close()
	defer proc.LimitMemory(o.MaxMemory, 0)()
	j, err := e.stepJob(&s)
	if err != nil {
		return nil, err
	}
	// when no quantization follows, weights are merged straight into the types that the source has
	e.keepsTypes = j.t.Quantize == "" && (e.r.Source.Dtype == "" || e.r.Source.Dtype == "keep")
	m, err := e.planBase(ctx)
	if err != nil {
		return nil, err
	}
	made, err := e.planStep(ctx, j, m)
	if err != nil {
		return nil, err
	}
	if _, err := formats.Plan(s.To, made, formats.WriteOptions{Force: true, Pre: s.Pre, External: s.External, Opset: s.Opset, Pooled: s.Pooled}); err != nil {
		return nil, err
	}
	if j.rep.Bytes == 0 { // nothing is quantized, and all of it is written
		j.rep.Bytes = made.Bytes()
	}
	e.rep.Passes = nil
	if err := e.estimate(m, []*job{j}); err != nil {
		return nil, err
	}
	if e.w, err = openWork(e.workDir()); err != nil {
		return nil, err
	}
	done := false
	defer func() { err = errors.Join(err, e.w.close(done && !o.KeepWork)) }()
	if err := e.step(ctx, &s, j); err != nil {
		return e.rep, e.inSourceFile(err)
	}
	done = true
	e.rep.Verdict, e.rep.Seconds, e.rep.PeakMemoryBytes = report.None, time.Since(start).Seconds(), proc.PeakMemory()
	return e.rep, nil
}

// StepWork is the folder beside the output of a step that keeps what it has finished, unless Options.Work
// names another.
func StepWork(out string) string { return filepath.Clean(out) + ".work" }

// check finds what is wrong with a step before anything is opened, and fills in the format.
func (s *Step) check(in *recipe.Recipe, o Options) error {
	if s.Out == "" {
		return misuse("step", "say where the result goes: -o PATH", "no output")
	}
	if b := filepath.Base(filepath.Clean(s.Out)); b == "." || b == ".." {
		return misuse("", "name a new folder, or go to the one above", "%s: a folder in use cannot be replaced", s.Out)
	}
	if err := s.format(); err != nil {
		return err
	}
	if s.To != "onnx" && (s.Opset != 0 || s.Pooled) {
		return misuse("step", "write .onnx", "the operator set and the embeddings can be chosen for ONNX, not for %s", s.To)
	}
	if err := formats.Replaceable(s.Out); err != nil {
		return err
	}
	errs := append(checkPasses(in.Passes, len(in.Source.Adapters) > 0), checkDistill(in.Distill))
	if in.Source.Model == "" {
		errs = append(errs, misuse("step", "", "no model is named"))
	}
	if s.Quantize != nil {
		_, err := request(s.Quantize, anyTarget)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, pack.Free(s.Out, o.Force))...)
}

// format fills in what the suffix of the output says, which must not contradict what was asked for.
func (s *Step) format() error {
	f, ok := formats.ByPath(s.Out)
	switch {
	case s.To == "" && !ok:
		return misuse("", "take .gguf or .safetensors; a name without suffix, or --to hf, makes a Hugging Face folder",
			"%s: no format that pare writes has the suffix %s", s.Out, filepath.Ext(s.Out))
	case s.To == "":
		s.To = f.Name
	case ok && f.Ext != "" && f.Name != s.To:
		return misuse("", "change one of them", "%s has the suffix of %s, --to says %s", s.Out, f.Name, s.To)
	}
	return nil
}

// stepJob is the step as the engine's job.
func (e *engine) stepJob(s *Step) (*job, error) {
	t := recipe.Target{Name: filepath.Base(filepath.Clean(s.Out)), Container: s.To}
	if q := s.Quantize; q != nil {
		t.Quantize, t.Method, t.Keep = q.Quantize, q.Method, q.Keep
	}
	e.rep.Targets = []report.Target{{Name: t.Name, Package: s.Out, Container: s.To, Type: t.Quantize, Verdict: report.None, Against: e.against}}
	j := &job{t: &t, table: anyTarget, rep: &e.rep.Targets[0]}
	if t.Quantize == "" {
		j.rep.SameBytes = e.sameBytes(needsRun(e.r))
		return j, e.checkNeeds()
	}
	var err error
	if j.req, err = request(&t, anyTarget); err != nil {
		return nil, err
	}
	if t.Method == "" {
		if t.Method, err = method(&t, anyTarget, e.r, e.src); err != nil {
			return nil, err
		}
	}
	e.r.Targets = []recipe.Target{t} // so that the report's recipe says what was done
	if err := e.checkNeeds(); err != nil {
		return nil, err
	}
	j.isa = runs(&t) || usesImportance(&t, j.req, e.r) && e.r.Calibration.Imatrix == ""
	j.rep.Method, j.rep.SameBytes = t.Method, e.sameBytes(j.isa || needsRun(e.r))
	return j, nil
}

// planStep finds mistakes of the quantization before the work starts, and returns the model as it
// will be written: names, shapes and types are right.
func (e *engine) planStep(ctx context.Context, j *job, m *ir.Model) (*ir.Model, error) {
	if d := e.r.Source.Dtype; j.t.Quantize == "" {
		if d == "" || d == "keep" {
			return m, nil
		}
		p, err := (&quantize.Cast{Type: storage.Type(d)}).Plan(ctx, m)
		if err != nil {
			return nil, err
		}
		return imagine(m, p), nil
	}
	if usesImportance(j.t, j.req, e.r) {
		j.req.Importance = placeholder(m)
	}
	p, err := j.pass().Plan(ctx, m)
	j.req.Importance = nil
	if err != nil {
		return nil, err
	}
	e.cramped(j, m)
	for _, s := range p.Steps {
		j.rep.Tensors = append(j.rep.Tensors, tensorLine(s, e.src.Find(s.Tensor), nil))
		j.rep.Bytes += s.Bytes
	}
	return imagine(m, p), nil
}

// keepsStages says that what stages of a step make is kept for another try, under digests of the inputs.
// To convert and to round is to read and to write once: reading everything for a digest before would take
// longer than that.
func (e *engine) keepsStages(j *job) bool {
	return len(e.adapters) > 0 || len(e.r.Passes) > 0 || e.r.Distill != nil || j.isa
}

// step does the work.
func (e *engine) step(ctx context.Context, s *Step, j *job) error {
	if e.keepsStages(j) {
		if err := e.timed("digest", "", func() (bool, error) { return false, e.digests(ctx) }); err != nil {
			return err
		}
	}
	if err := e.prepare(ctx); err != nil {
		return err
	}
	m := e.base
	st, err := e.w.stage("step", key(e.key, *j.t, e.calibKey(), e.o.ISA, j.rounded))
	if err != nil {
		return err
	}
	if j.t.Quantize != "" {
		err := e.timed("quantize", "", func() (bool, error) {
			j.rep.Passes, err = e.quantize(ctx, j, m, st)
			return false, err
		})
		if err != nil {
			return err
		}
		for i := range j.rep.Passes {
			e.merge1(j.rep, &j.rep.Passes[i])
		}
	} else if d := e.r.Source.Dtype; d != "" && d != "keep" {
		if _, _, err := e.apply(ctx, &quantize.Cast{Type: storage.Type(d)}, m, e.env(st)); err != nil {
			return err
		}
	}
	err = e.timed("write", "", func() (bool, error) {
		o := formats.WriteOptions{Threads: e.o.Threads, Memory: e.streamMemory(), Progress: e.meter, Force: e.o.Force, Pre: s.Pre, External: s.External, Opset: s.Opset, Pooled: s.Pooled}
		if j.req.Preset != nil {
			o.FileType = &j.req.Preset.FileType
		}
		if j.rep.Notes, err = formats.Plan(s.To, m, o); err != nil {
			return false, err
		}
		e.meter.Stage("write", m.Bytes(), "bytes")
		return false, formats.Write(ctx, s.To, m, s.Out, o)
	})
	if err != nil {
		return err
	}
	if err := e.measureOutput(ctx, s, j.rep); err != nil || len(e.promised) == 0 {
		return err
	}
	return e.timed("verify", "", func() (_ bool, err error) {
		written, err := formats.Open(ctx, s.Out)
		if err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, written.Close()) }()
		return false, e.holdZeros(ctx, written, j)
	})
}

// measureOutput fills in the size of what was written.
func (e *engine) measureOutput(ctx context.Context, s *Step, r *report.Target) error {
	path := s.Out
	st, err := os.Stat(path)
	switch {
	case err != nil:
	case st.IsDir():
		r.Bytes, err = modelBytes(path)
	case s.To == "onnx": // which may lie in several files
		var m *ir.Model
		if m, err = formats.Open(ctx, path); err == nil {
			r.Bytes = m.FileBytes
			err = m.Close()
		}
	default:
		r.Bytes = st.Size()
	}
	if err != nil {
		return &fault.Error{File: path, Op: "write", Err: err}
	}
	r.Ratio = float64(r.Bytes) / float64(max(e.rep.Source.Bytes, 1))
	r.BitsPerWeight = 8 * float64(r.Bytes) / float64(max(e.rep.Source.Parameters, 1))
	return nil
}
