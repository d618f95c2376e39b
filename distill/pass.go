package distill

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// Train says which parameters learn.
type Train string

// What can be trained.
const (
	All    Train = "all"    // everything
	Blocks Train = "blocks" // what the blocks hold, not the embedding and the output matrix
	Norms  Train = "norms"  // norms and biases
)

// Trains lists what can be trained.
func Trains() []Train { return []Train{All, Blocks, Norms} }

// Pass is the pass "distill": the model learns from Teacher on Env.Tokens, sequences of one length.
// Weights that are zero in a matrix of a block that was pruned stay zero.
type Pass struct {
	Options
	Train   Train     // empty: All
	Teacher *ir.Model // nil: from the text alone
	// Stored are the types that tensors will be stored in, by name: products use the weights as these will
	// give them back, so that what is learned is right for them. Such tensors come out as float32.
	Stored map[string]storage.Type
	// Curve is called after every step.
	Curve func(Point)
}

// Name implements ir.Pass.
func (*Pass) Name() string { return "distill" }

// Needs implements ir.Pass.
func (*Pass) Needs() ir.Need { return ir.NeedActivations }

// Plan implements ir.Pass.
func (p *Pass) Plan(ctx context.Context, m *ir.Model) (*ir.Plan, error) {
	misuse := func(file, hint string, err error) error {
		return &fault.Error{File: file, Op: p.Name(), Err: fault.As(fault.ErrMisuse, err), Hint: hint}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := p.Loss.Check(); err != nil {
		return nil, misuse("", "", err)
	}
	if p.Train != "" && !slices.Contains(Trains(), p.Train) {
		return nil, misuse("", "choose all, blocks or norms", fmt.Errorf("nothing called %q can be trained", p.Train))
	}
	if err := m.CannotRun(); err != nil {
		return nil, misuse(m.Path, "", err)
	}
	if t := p.Teacher; t != nil {
		if err := t.CannotRun(); err != nil {
			return nil, misuse(t.Path, "give a teacher that pare can run", err)
		}
		if t.Decoder.Vocab != m.Decoder.Vocab {
			return nil, misuse(t.Path, "give a teacher with the student's tokenizer", fmt.Errorf("the teacher has a vocabulary of %d tokens, the student of %d", t.Decoder.Vocab, m.Decoder.Vocab))
		}
	}
	plan := &ir.Plan{}
	for _, t := range m.Tensors() {
		n, err := t.Bytes()
		if err != nil {
			return nil, ir.Wrap(t, p.Name(), err)
		}
		step := ir.Step{Tensor: t.Name, From: t.Type, To: t.Type, Scheme: t.Scheme, Bytes: n}
		info, known := storage.Lookup(t.Type)
		switch {
		case t.Role == ir.RoleUnknown:
			step.Reason = "no part of the network"
		case !p.trains(t.Role):
			step.Reason = "not trained"
		case !known || !info.Float:
			return nil, &fault.Error{File: m.Path, Tensor: t.Name, Op: p.Name(), Err: fmt.Errorf("type %s is quantized already", t.Type), Hint: "train the float model; --type trains it for a stored type"}
		default:
			step.Change = true
			if _, ok := p.Stored[t.Name]; ok {
				step.To, step.Bytes = storage.F32, 4*t.Elems()
			}
		}
		plan.Steps = append(plan.Steps, step)
	}
	return plan, nil
}

// Subject is what the pass trains of a model.
func (p *Pass) Subject(m *ir.Model) Subject {
	return Subject{Student: m, Teacher: p.Teacher, Learns: p.learns, Stored: p.Stored}
}

func (p *Pass) learns(t *ir.Tensor) bool { return p.trains(t.Role) }

// Nothing is what a teacher learns, for Load.
func Nothing(*ir.Tensor) bool { return false }

func (p *Pass) trains(r ir.Role) bool {
	switch r {
	case ir.RoleUnknown:
		return false
	case ir.RoleEmbedding, ir.RoleHead:
		return p.Train == "" || p.Train == All
	case ir.RoleAttnQ, ir.RoleAttnK, ir.RoleAttnV, ir.RoleAttnO, ir.RoleMLPGate, ir.RoleMLPUp, ir.RoleMLPDown:
		return p.Train != Norms
	}
	return true
}

// Apply implements ir.Pass. The state is kept in env.Work: a training that was interrupted goes on, and
// ends with the same bits.
func (p *Pass) Apply(ctx context.Context, m *ir.Model, _ *ir.Plan, env ir.Env) (*ir.Result, error) {
	if len(env.Tokens) == 0 {
		return nil, &fault.Error{Op: p.Name(), Err: fault.As(fault.ErrMisuse, errors.New("no text to learn from")), Hint: "give one with --text FILE"}
	}
	plan, err := p.Plan(ctx, m)
	if err != nil {
		return nil, err
	}
	k := kernels.For(env.ISA)
	length := len(env.Tokens[0])
	o := p.Options
	o.Seed, o.Threads = env.Seed, par.Threads(env.Threads)
	o, err = p.Subject(m).Footprint(length).Fit(o, length, env.Memory)
	if err != nil {
		return nil, err
	}
	student, err := Load[float32](ctx, m, k, env.Threads, length, p.learns)
	if err != nil {
		return nil, err
	}
	var teacher *Net[float32]
	if p.Teacher != nil {
		if teacher, err = Load[float32](ctx, p.Teacher, k, env.Threads, length, Nothing); err != nil {
			return nil, err
		}
	}
	steps := map[string]*ir.Step{}
	for i := range plan.Steps {
		steps[plan.Steps[i].Tensor] = &plan.Steps[i]
	}
	t, err := NewTrainer(student, teacher, Plain(env.Tokens), func(q *Param[float32]) bool { return steps[q.Name].Change }, o)
	if err != nil {
		return nil, &fault.Error{File: m.Path, Op: p.Name(), Err: err}
	}
	for _, q := range t.Trained() {
		h := m.Find(q.Name)
		if h.Role.Linear() {
			t.KeepZeros(q)
		}
		if typ, ok := p.Stored[q.Name]; ok {
			t.StoreAs(q, storage.MustLookup(typ))
		}
	}
	if err := t.Run(ctx, filepath.Join(env.Work, "distill.state"), env.Progress, p.Curve); err != nil {
		return nil, err
	}
	res := &ir.Result{Tensors: map[string]map[string]float64{}}
	for _, q := range t.Trained() {
		h := m.Find(q.Name)
		if err := m.Replace(h.With(steps[q.Name].To, nil, &trained{storage.MustLookup(steps[q.Name].To), q})); err != nil {
			return nil, err
		}
		res.Changed++
	}
	return res, nil
}

// trained is the Source of a parameter.
type trained struct {
	info *storage.Info
	p    *Param[float32]
}

// ReadRows implements ir.Source.
func (s *trained) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if s.info.Type == storage.F32 {
		if err := ir.CheckRange(s.p.Rows, lo, hi); err != nil {
			return err
		}
		copy(dst, s.p.W[lo*s.p.Cols:hi*s.p.Cols])
		return ctx.Err()
	}
	rowBytes, err := s.info.Type.RowBytes(s.p.Cols)
	if err != nil {
		return err
	}
	raw := make([]byte, int64(hi-lo)*rowBytes)
	if err := s.ReadRaw(ctx, ir.PartData, raw, lo, hi); err != nil {
		return err
	}
	s.info.Decode(dst, raw)
	return nil
}

// ReadRaw implements ir.Source.
func (s *trained) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	if err := ir.CheckRange(s.p.Rows, lo, hi); err != nil {
		return err
	}
	if part != ir.PartData {
		return fmt.Errorf("part %q of floats", part)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.info.Encode(dst, s.p.W[lo*s.p.Cols:hi*s.p.Cols], nil)
}
