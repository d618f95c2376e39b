package build

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/pare-dev/pare/distill"
	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// Defaults of [distill]; docs/recipe.md repeats them.
const (
	defaultLearnContext = 256
	defaultLearnBatch   = 16
	defaultLearnRate    = 1e-3
	mostBatch           = 1 << 16 // far beyond what one step of any use averages over
	// noTeacher in place of a model means that the text alone is learned.
	noTeacher = "none"
)

// resolveDistill spells out the defaults.
func resolveDistill(d *recipe.Distill, m *ir.Model) {
	if d.Context == 0 {
		d.Context = defaultLearnContext
		if m != nil && m.Decoder != nil && m.Decoder.Context > 0 {
			d.Context = min(d.Context, m.Decoder.Context)
		}
	}
	if d.Batch == 0 {
		d.Batch = defaultLearnBatch
	}
	if d.Rate == 0 {
		d.Rate = defaultLearnRate
	}
	if d.Temperature == 0 {
		d.Temperature = 1
	}
	if d.Loss == "" {
		d.Loss = string(distill.Forward)
	}
	if d.Train == "" {
		d.Train = string(distill.All)
	}
}

// checkDistill finds what is wrong with the section before anything is opened.
func checkDistill(d *recipe.Distill) error {
	switch {
	case d == nil:
		return nil
	case len(d.Text) == 0:
		return misuse("distill", "name a text with --text FILE, or text = [...] in [distill]", "no text to learn from")
	case d.Context < 0 || d.Context == 1 || d.Batch < 0 || d.Tokens < 0 || !positive(float64(d.Rate)) || !positive(float64(d.Decay)):
		return misuse("distill", "", "context, batch, tokens, rate and decay must be positive, and a context has two tokens or more")
	case d.Batch > mostBatch:
		return misuse("distill", "", "a batch of %d sequences; at most %d make a step", d.Batch, mostBatch)
	}
	return nil
}

// positive says that x is a number of use: neither below zero nor infinite, and a number at all. 0 stands for a default.
func positive(x float64) bool { return x >= 0 && !math.IsInf(x, 1) }

// distillPass makes the pass. teacher is what it learns from; m is the catalogue it will be applied to.
func (e *engine) distillPass(ctx context.Context, teacher, m *ir.Model) (*distill.Pass, error) {
	d := e.r.Distill
	p := &distill.Pass{
		Options: distill.Options{
			Loss:   distill.Loss{Kind: distill.Kind(d.Loss), Temperature: float64(d.Temperature), CrossEntropy: float64(d.CrossEntropy)},
			Tokens: int64(d.Tokens), Batch: d.Batch, Rate: float64(d.Rate), Decay: float64(d.Decay),
		},
		Train: distill.Train(d.Train), Teacher: teacher,
	}
	if d.Aware == "" {
		return p, nil
	}
	t := recipe.Target{Quantize: d.Aware, Method: "rtn"}
	req, err := request(&t, anyTarget)
	if err != nil {
		return nil, err
	}
	if req.Preset == nil {
		return nil, misuse("distill", "choose a block type or a mix of them, such as q4_0 or q4_k_m", "training for %s", d.Aware)
	}
	plan, err := (&job{t: &t, table: anyTarget, req: req}).pass().Plan(ctx, m)
	if err != nil {
		return nil, err
	}
	p.Stored = map[string]storage.Type{}
	for _, s := range plan.Steps {
		if s.Change && s.Scheme == nil && quantizes(s) {
			p.Stored[s.Tensor] = s.To
		}
	}
	return p, nil
}

// openTeacher gives the model that is learned from, nil for none.
func (e *engine) openTeacher(ctx context.Context) (*ir.Model, error) {
	switch path := e.r.Distill.Teacher; {
	case path == noTeacher:
		return nil, nil
	case path != "":
		m, err := formats.Open(ctx, path)
		if err == nil {
			e.closers = append(e.closers, func() { _ = m.Close() })
		}
		return m, err
	case e.single && len(e.r.Passes) == 0:
		return nil, misuse("distill", "name it with --teacher MODEL, or --teacher none to learn from the text alone", "no teacher")
	case e.ref != nil:
		return e.ref, nil
	}
	return e.src, nil
}

// planDistill adds the pass to the plan and returns the catalogue behind it.
func (e *engine) planDistill(ctx context.Context, m *ir.Model) (*ir.Model, error) {
	if e.r.Distill == nil {
		return m, nil
	}
	if e.tok == nil {
		why := e.notRun
		if why == "" {
			why = "the model has no tokenizer that can be used"
		}
		return nil, misuse("distill", "", "%s", why)
	}
	teacher, err := e.openTeacher(ctx)
	if err != nil {
		return nil, err
	}
	pass, err := e.distillPass(ctx, teacher, m)
	if err != nil {
		return nil, err
	}
	p, err := pass.Plan(ctx, m)
	if err != nil {
		return nil, err
	}
	e.learning = pass.Subject(m).Footprint(e.r.Distill.Context)
	e.rep.Passes = append(e.rep.Passes, planned(pass.Name(), p, e.src))
	return imagine(m, p), nil
}

// learned is the record of the stage.
type learned struct {
	Pass  report.PassResult
	Curve *report.Distill
}

// distill trains the base model. What came out is kept in the work folder, and so is a training that was
// interrupted.
func (e *engine) distill(ctx context.Context) (reused bool, err error) {
	d := e.r.Distill
	text, err := e.encode(ctx, d.Text, nil, 0)
	if err != nil {
		return false, err
	}
	if len(text.ids) < d.Context {
		return false, &fault.Error{File: d.Text[0], Op: "distill", Err: fault.As(fault.ErrMisuse, fmt.Errorf("the text has %d tokens, one sequence takes %d", len(text.ids), d.Context)), Hint: "give a longer text, or a shorter --context"}
	}
	teacher, err := e.openTeacher(ctx)
	if err != nil {
		return false, err
	}
	origin := e.refKey
	if d.Teacher != "" && d.Teacher != noTeacher {
		if origin, err = pack.SourceDigest(ctx, d.Teacher, func(int64) {}); err != nil {
			return false, err
		}
	}
	pass, err := e.distillPass(ctx, teacher, e.base)
	if err != nil {
		return false, err
	}
	memory := e.learnMemory(len(text.ids)) // nothing else is at work
	fit, err := pass.Subject(e.base).Footprint(d.Context).Fit(pass.Options, d.Context, memory)
	if err != nil {
		return false, err
	}
	// sums of gradients depend on how many sequences are gone through at once
	e.key = key(e.key, *d, text.read.Key(), origin, e.o.ISA, fit.Micro)
	s, err := e.w.stage("distill", e.key)
	if err != nil {
		return false, err
	}
	before := e.base.Clone()
	var rec learned
	if s.load(&rec) {
		e.rep.Passes, e.rep.Distill = append(e.rep.Passes, rec.Pass), rec.Curve
		return true, e.spill(ctx, e.base, before, s, keptName)
	}
	plan, err := pass.Plan(ctx, e.base)
	if err != nil {
		return false, err
	}
	curve := &report.Distill{Source: text.Text, Teacher: d.Teacher}
	if d.Teacher == "" {
		curve.Teacher = e.against
	}
	if d.Tokens == 0 {
		pass.Tokens = int64(len(text.ids))
	}
	pass.Curve = curve.Add
	env := e.env(s)
	env.Memory = memory
	env.Tokens = whole(text.read.Sequences(d.Context, bos(e.src.Tokenizer), false), d.Context)
	res, err := pass.Apply(ctx, e.base, plan, env)
	if err != nil {
		return false, err
	}
	if err := e.base.Check(); err != nil {
		return false, err
	}
	rec = learned{passResult(pass.Name(), plan, res, e.src), curve}
	e.rep.Passes, e.rep.Distill = append(e.rep.Passes, rec.Pass), rec.Curve
	if err := e.spill(ctx, e.base, before, s, keptName); err != nil {
		return false, err
	}
	return false, errors.Join(s.finish(rec), s.forget("distill.state"))
}

// learnMemory is what training may take beside the tokens of its text, which are held twice: as they were read and
// cut into sequences. Slack has room for those of short texts.
func (e *engine) learnMemory(tokens int) int64 {
	memory := e.memory()
	if held := 8 * int64(tokens); memory > 0 && held > 1<<20 {
		memory = max(1, memory-held)
	}
	return memory
}

// whole leaves out a last sequence that is too short.
func whole(seqs [][]int32, n int) [][]int32 {
	if k := len(seqs); k > 0 && len(seqs[k-1]) != n {
		return seqs[:k-1]
	}
	return seqs
}
