package build

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/distill"
	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/lora"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/report"
)

// mergePass makes the pass that merges the adapters. Merged weights stay f32 until they are stored,
// so that they are rounded once: by the target's quantization, or by the cast back to the type
// that the source has. A dtype in the recipe rounds them in between; "keep" encodes them as the
// source has them, where nothing follows that wants floats.
func (e *engine) mergePass(dtype string) *lora.Merge {
	o := lora.Options{Type: storage.F32, AllowPartial: e.r.Source.AllowBaseMismatch}
	switch {
	case dtype == "keep" && e.keepsTypes:
		o.Type, o.Requantize = "", requantize
	case dtype != "keep" && dtype != "" && !e.single: // a single step casts the whole model at its end
		o.Type = storage.Type(dtype)
	}
	return lora.New(e.adapters, o)
}

// requantize encodes a float tensor by the uniform scheme that another one has.
func requantize(ctx context.Context, float, like *ir.Tensor) (*ir.Tensor, error) {
	m := &ir.Model{}
	t := *float
	t.Role = ir.RoleMLPUp // a linear layer as far as the pass is concerned
	if err := m.Add(&t); err != nil {
		return nil, err
	}
	pass := &quantize.RTN{Request: quantize.Request{Scheme: like.Scheme, Clip: quantize.ClipSearch}}
	p, err := pass.Plan(ctx, m)
	if err != nil {
		return nil, err
	}
	if _, err := pass.Apply(ctx, m, p, ir.Env{Progress: progress.Discard}); err != nil {
		return nil, err
	}
	q := m.Find(t.Name)
	return float.With(q.Type, q.Scheme, q.Data), nil
}

// prepare makes ref and base from the source.
func (e *engine) prepare(ctx context.Context) error {
	if e.net != nil {
		return e.prepareGraph(ctx)
	}
	e.refKey = key(e.o.Tool, e.origins.Model, e.src.Decoder, e.src.Tokenizer, e.origins.Adapters, e.r.Source)
	e.key = e.refKey
	e.ref, e.base = e.src.Clone(), e.src.Clone()
	if len(e.adapters) > 0 {
		if err := e.timed("merge", "", func() (bool, error) { return e.merge(ctx) }); err != nil {
			return err
		}
	}
	for i := range e.r.Passes {
		if p := &e.r.Passes[i]; p.Use != "lora.merge" {
			if err := e.timed("prune", "", func() (bool, error) { return e.prune(ctx, i) }); err != nil {
				return err
			}
		}
	}
	if e.r.Distill != nil {
		if err := e.timed("distill", "", func() (bool, error) { return e.distill(ctx) }); err != nil {
			return err
		}
	}
	return e.base.Check()
}

// merge puts the merged handles into ref and base and proves them.
func (e *engine) merge(ctx context.Context) (reused bool, err error) {
	res, plan, err := e.apply(ctx, e.mergePass("f32"), e.ref, e.env(nil))
	if err != nil {
		return false, err
	}
	e.base = e.ref.Clone()
	if d := e.r.Source.Dtype; d == "keep" && e.keepsTypes || d != "keep" && d != "f32" && !e.single {
		e.base = e.src.Clone()
		if res, plan, err = e.apply(ctx, e.mergePass(d), e.base, quiet(e.env(nil))); err != nil {
			return false, err
		}
	}
	e.rep.Passes = append(e.rep.Passes, passResult("lora.merge", plan, res, e.src))
	s, err := e.w.stage("merge", e.refKey)
	if err != nil {
		return false, err
	}
	m := &report.Merge{}
	if s.load(m) {
		e.rep.Merge = m
		if e.spillsReference() {
			err = e.spill(ctx, e.ref, e.src, s, keptName)
		}
		return true, err
	}
	if e.spillsReference() {
		if err := e.spill(ctx, e.ref, e.src, s, keptName); err != nil {
			return false, err
		}
	}
	if m, err = e.prove(ctx); err != nil {
		return false, err
	}
	e.rep.Merge = m
	return false, s.finish(m)
}

// quiet is for what repeats a stage that was shown already, on other handles.
func quiet(env ir.Env) ir.Env {
	env.Progress = progress.Discard
	return env
}

// proofTokens is how much text the proof of a merge reads: enough for every layer to be exercised
// with hundreds of inputs.
const proofTokens = 512

// prove compares the merged model with base plus adapters, computed side by side without merging.
func (e *engine) prove(ctx context.Context) (*report.Merge, error) {
	ids := e.proof
	if e.src.Decoder == nil || ids == nil {
		return &report.Merge{Verdict: report.None, Notes: []string{"not proved: it takes a model that can be run and a text"}}, nil
	}
	if why := e.unproved(); why != "" {
		e.note("merge " + why)
		return &report.Merge{Verdict: report.None, Notes: []string{why}}, nil
	}
	attached, err := e.mergePass("f32").Attached(ctx, e.src, quiet(e.env(nil)))
	if err != nil {
		return nil, err
	}
	n := min(proofTokens/2, e.src.Decoder.Context)
	seqs := ids.read.First(proofTokens).Sequences(n, bos(e.src.Tokenizer), false)
	e.meter.Stage("prove", 0, "tokens")
	defer e.mapping(2)()
	o := e.runOptions()
	o.Memory = e.runMemory()
	o.Activations = runner.ActivationsF32 // codes of 8 bits would make steps of differences that are none
	a, err := runner.Load(ctx, attached, o)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	b, err := runner.Load(ctx, e.ref, o)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	p, err := lora.Prove(ctx, opener(a), opener(b), seqs)
	if err != nil {
		return nil, err
	}
	m := &report.Merge{Tokens: p.Tokens, MaxAbsDiff: p.MaxAbs, KL: p.KLMean, Spread: p.Spread, Verdict: report.Pass}
	return m, p.Err()
}

// load prepares a model to run beside another one.
func (e *engine) load(ctx context.Context, m *ir.Model) (*runner.Runner, error) {
	o := e.runOptions()
	o.Memory = e.runMemory()
	return runner.Load(ctx, m, o)
}

// session fits a runner's session to what the proof asks for.
type session struct{ *runner.Session }

func (s session) Append(ctx context.Context, tokens []int32, fn func(pos int, logits []float32) error) error {
	return s.Session.Append(ctx, tokens, runner.WantAll, fn)
}

func opener(r *runner.Runner) func() (lora.Session, error) {
	return func() (lora.Session, error) { return session{r.NewSession()}, nil }
}

// apply plans and applies a pass and checks what came out.
func (e *engine) apply(ctx context.Context, p ir.Pass, m *ir.Model, env ir.Env) (*ir.Result, *ir.Plan, error) {
	plan, err := p.Plan(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	if p.Needs() == ir.NeedActivations {
		if e.calib != nil {
			env.Tokens = e.calibration()
		}
		defer e.mapping(1)()
		env.Executor = runner.NewExecutor(runner.Options{Threads: e.o.Threads, Pool: e.pool, ISA: e.o.ISA, Memory: e.passMemory(), Work: env.Work})
		env.Learner = distill.Learner{K: kernels.For(e.o.ISA), Threads: e.o.Threads, Memory: e.passMemory()}
	}
	res, err := p.Apply(ctx, m, plan, env)
	if err != nil {
		return nil, nil, err
	}
	return res, plan, m.Check()
}

// passResult is what the report says of a pass.
func passResult(name string, plan *ir.Plan, res *ir.Result, before *ir.Model) report.PassResult {
	out := report.PassResult{Name: name, Changed: res.Changed, Notes: res.Notes}
	for _, tensor := range sortedKeys(res.Skipped) {
		out.Skipped = append(out.Skipped, report.Line{Tensor: tensor, Reason: res.Skipped[tensor]})
	}
	for _, s := range plan.Steps {
		if s.Change {
			out.Tensors = append(out.Tensors, tensorLine(s, before.Find(s.Tensor), res.Tensors[s.Tensor]))
		}
	}
	return out
}

func tensorLine(s ir.Step, before *ir.Tensor, figures map[string]float64) report.Tensor {
	t := report.Tensor{Name: s.Tensor, From: string(s.From), To: typeName(s.To, s.Scheme), Reason: s.Reason, Bytes: s.Bytes}
	if before != nil {
		t.Shape, t.From = before.Shape, typeName(before.Type, before.Scheme)
	}
	for k, v := range figures {
		if t.Figures == nil {
			t.Figures = map[string]float64{}
		}
		t.Figures[k] = finite(v)
	}
	return t
}

// importance is the importance matrix of the base model: the recipe's file, or one measured on the
// calibration text and kept in the work folder.
func (e *engine) importance(ctx context.Context) (map[string][]float32, error) {
	if file := e.r.Calibration.Imatrix; file != "" {
		s, err := quantize.ReadStatistics(file)
		if err != nil {
			return nil, err
		}
		return s.Importance(), nil
	}
	st, err := e.w.stage("calibrate", e.importanceKey())
	if err != nil {
		return nil, err
	}
	file := st.path("imatrix.gguf")
	var done struct{}
	if !st.load(&done) {
		err := e.timed("calibrate", "", func() (bool, error) {
			defer e.mapping(1)()
			ex := runner.NewExecutor(runner.Options{Threads: e.o.Threads, Pool: e.pool, ISA: e.o.ISA, Memory: e.passMemory(), Work: st.dir})
			stats, err := quantize.Calibrate(ctx, e.base, ex, e.calibration(),
				quantize.CalibrateOptions{Head: true, Datasets: []string{e.calib.Name}, Progress: e.meter})
			if err != nil {
				return false, err
			}
			if err := writeStatistics(file, stats); err != nil {
				return false, err
			}
			return false, st.finish(done)
		})
		if err != nil {
			return nil, err
		}
	}
	s, err := quantize.ReadStatistics(file)
	if err != nil {
		return nil, err
	}
	return s.Importance(), nil
}

func writeStatistics(file string, s *quantize.Statistics) error {
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		return err
	}
	return pack.WriteFile(file, b.Bytes())
}

func (e *engine) importanceKey() string {
	return key(e.key, e.calibKey(), e.o.ISA)
}

// calibKey stands for the calibration tokens, "" when there are none.
func (e *engine) calibKey() string {
	if e.calib == nil {
		return ""
	}
	return key(e.calib.read.Key(), e.r.Calibration.Context, e.r.Calibration.Unpacked)
}

// calibration is the calibration text in the sequences that passes read.
func (e *engine) calibration() [][]int32 {
	return e.calib.read.Sequences(e.r.Calibration.Context, bos(e.src.Tokenizer), e.r.Calibration.Unpacked)
}

// spill writes tensors of a model that differ from another's into the stage's folder and makes the
// model read them from there: what is expensive to compute is computed once. file is the name;
// a file that is there already is used as it is.
func (e *engine) spill(ctx context.Context, m, from *ir.Model, s *stage, name string) error {
	file := s.path(name)
	if !exists(file) {
		out := &ir.Model{Path: m.Path}
		var total int64
		for _, t := range m.Tensors() {
			if from.Find(t.Name) == t {
				continue
			}
			c := *t
			c.Aliases = nil
			if err := out.Add(&c); err != nil {
				return err
			}
			n, err := t.Bytes()
			if err != nil {
				return err
			}
			total += n
		}
		e.meter.Stage("keep", total, "bytes")
		if err := formats.Write(ctx, "safetensors", out, file, formats.WriteOptions{Threads: e.o.Threads, Memory: e.streamMemory(), Progress: e.meter}); err != nil {
			return err
		}
	}
	kept, err := formats.Open(ctx, file)
	if err != nil {
		return err
	}
	e.closers = append(e.closers, func() { _ = kept.Close() })
	for _, k := range kept.Tensors() {
		t := m.Find(k.Name)
		if t == nil {
			return fmt.Errorf("%s holds tensor %q, which the model lacks", file, k.Name)
		}
		c := t.With(k.Type, k.Scheme, k.Data)
		c.Shape = k.Shape
		if err := m.Replace(c); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// decode turns tokens into text for people.
func (e *engine) decode(ids []int32) string {
	if e.tok == nil {
		return "" // compared on random tokens
	}
	return e.tok.Decode(ids, tokenizer.DecodeOptions{SkipSpecial: true})
}
