package prune

import (
	"context"
	"errors"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/obs"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// SparseGPT is the pass "prune.sparsegpt" (Frantar and Alistarh, arXiv 2301.00774): columns are worked
// on one after the other; weights go whose loss costs least, given what the columns behind them can
// repair, and those repair it. The inputs are those that the stages pruned before produce. What stays
// is then fitted once more, all columns together (see Options.Refit).
type SparseGPT struct {
	Options
	// Damping is the fraction of the mean diagonal added to the second moments; 0 means 0.01.
	Damping float64
}

func init() {
	register(&Method{
		Name: "sparsegpt", Doc: "the weights go that the others can replace best, and those that stay are changed to do so",
		Learns: true, Runs: true, Scope: ScopeLayer,
		New: func(o Options, _ map[string][]float32) ir.Pass { return &SparseGPT{Options: o} },
	})
}

// Name implements ir.Pass.
func (*SparseGPT) Name() string { return "prune.sparsegpt" }

// Needs implements ir.Pass.
func (*SparseGPT) Needs() ir.Need { return ir.NeedActivations }

func (p *SparseGPT) choose(m *ir.Model) (*ir.Plan, []*request, error) {
	if p.Scope == ScopeGlobal {
		return nil, nil, &fault.Error{
			Op: p.Name(), Err: fault.As(fault.ErrMisuse, errors.New("scope global: losses of different layers have no common scale")),
			Hint: "use scope layer or row, or a schedule",
		}
	}
	plan, chosen, err := p.Options.choose(p.Name(), m, ScopeLayer)
	if err != nil {
		return nil, nil, err
	}
	if err := m.CannotRun(); err != nil {
		return nil, nil, &fault.Error{File: m.Path, Op: p.Name(), Err: fault.As(fault.ErrMisuse, err), Hint: "use prune.magnitude, which looks at weights only"}
	}
	var errs []error
	for _, r := range chosen {
		if stageOf(r.t.Role) < 0 {
			errs = append(errs, &fault.Error{
				File: m.Path, Tensor: r.t.Name, Op: p.Name(), Err: errors.New("its inputs are not measured: it is no matrix of a block"),
				Hint: "leave the tensor out, or use prune.magnitude for it",
			})
		}
	}
	return plan, chosen, errors.Join(errs...)
}

// Plan implements ir.Pass.
func (p *SparseGPT) Plan(ctx context.Context, m *ir.Model) (*ir.Plan, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	plan, _, err := p.choose(m)
	return plan, err
}

// Expect lists what the pass promises for a model, before or after it ran.
func (p *SparseGPT) Expect(m *ir.Model) ([]Expectation, error) {
	_, chosen, err := p.choose(m)
	return expect(chosen), err
}

// Apply implements ir.Pass. Finished matrices are kept in env.Work: a run that was interrupted goes on
// behind the last one.
func (p *SparseGPT) Apply(ctx context.Context, m *ir.Model, _ *ir.Plan, env ir.Env) (*ir.Result, error) {
	_, chosen, err := p.choose(m)
	if err != nil {
		return nil, err
	}
	run := &sparseRun{
		SparseGPT: *p, m: m, env: env, sink: stage(env, len(chosen)), k: kernels.For(env.ISA),
		spill: ir.Spill{Dir: env.Work, Prefix: "sparsegpt"},
		res:   &ir.Result{Tensors: map[string]map[string]float64{}, Notes: p.notes(chosen)},
	}
	if run.Damping == 0 {
		run.Damping = 0.01
	}
	for _, r := range chosen {
		if need := r.t.Cols(); !obs.Fits(need, env.Memory) {
			return nil, &fault.Error{
				File: m.Path, Tensor: r.t.Name, Op: p.Name(), Err: fmt.Errorf("the second moments of %d inputs do not fit --max-memory", need),
				Hint: "give more memory, leave the tensor out, or use prune.wanda",
			}
		}
	}
	if err := walk(ctx, p.Name(), m, chosen, env, func(w ir.Walk, s ir.Stage, list []*request) error { return run.stage(ctx, w, s, list) }, nil); err != nil {
		return nil, err
	}
	return run.res, nil
}

// sparseRun is the state of one Apply.
type sparseRun struct {
	SparseGPT
	m     *ir.Model
	env   ir.Env
	sink  interface{ Add(int64) }
	k     *kernels.Set
	spill ir.Spill
	res   *ir.Result
}

// sparseFigures stand behind the rows of a finished matrix.
type sparseFigures struct {
	Damping float64
	// Losses of every sixteenth row, relative to the energy of its output: of leaving the weights out,
	// after the others repaired that, after they were fitted together.
	Dropped, Repaired, Refitted float64
}

// stage solves the matrices that read one input.
func (s *sparseRun) stage(ctx context.Context, w ir.Walk, st ir.Stage, list []*request) error {
	var todo []*request
	for _, r := range list {
		var f sparseFigures
		made, err := s.spill.Open(r.t, &f)
		if err != nil {
			return err
		}
		if made == nil {
			todo = append(todo, r)
		} else if err := s.adopt(r, made, f); err != nil {
			return err
		}
	}
	if len(todo) == 0 {
		return nil
	}
	cols := todo[0].t.Cols()
	gram := s.k.NewGram(cols)
	err := w.Inputs(ctx, st, func(x []float32, _, width int) error {
		if width != cols {
			return ir.Wrap(todo[0].t, s.Name(), fmt.Errorf("%d inputs measured for %d columns", width, cols))
		}
		return gram.Add(ctx, s.env.Threads, x)
	})
	if err != nil {
		return err
	}
	h, err := gram.Sum(ctx, s.env.Threads)
	if err != nil {
		return err
	}
	problem, err := obs.New(ctx, h, cols, obs.Options{Damping: s.Damping, Threads: s.env.Threads}, s.k)
	if err != nil {
		return ir.Wrap(todo[0].t, s.Name(), err)
	}
	layer := newSparseLayer(problem, h, s.steps())
	for _, r := range todo {
		if err := s.tensor(ctx, r, layer); err != nil {
			return err
		}
	}
	return nil
}

// tensor solves one matrix, a band of rows at a time, and spills it.
func (s *sparseRun) tensor(ctx context.Context, r *request, l *sparseLayer) error {
	f, err := s.spill.Create(r.t)
	if err != nil {
		return err
	}
	defer f.Close()
	info := storage.MustLookup(r.t.Type)
	rowBytes, err := r.t.Type.RowBytes(r.t.Cols())
	if err != nil {
		return ir.Wrap(r.t, s.Name(), err)
	}
	var sum [4]float64
	const band = 32 << 20
	err = ir.EachBand(ctx, r.t, band, func(b ir.Band, w []float32) error {
		got, err := l.solve(ctx, r, w, b.Lo, s.env.Threads)
		if err != nil {
			return ir.Wrap(r.t, s.Name(), err)
		}
		for i, v := range got {
			sum[i] += v
		}
		raw := make([]byte, int64(b.Hi-b.Lo)*rowBytes)
		if err := info.Encode(raw, w, nil); err != nil {
			return ir.Wrap(r.t, s.Name(), err)
		}
		return f.Write(raw)
	})
	if err != nil {
		return err
	}
	out := sparseFigures{Damping: l.p.Damping}
	if sum[0] > 0 {
		out.Dropped, out.Repaired, out.Refitted = sum[1]/sum[0], sum[2]/sum[0], sum[3]/sum[0]
	}
	made, err := f.Finish(&out)
	if err != nil {
		return err
	}
	return s.adopt(r, made, out)
}

// adopt puts a finished matrix into the model and its figures into the result.
func (s *sparseRun) adopt(r *request, made *ir.Tensor, f sparseFigures) error {
	s.res.Changed++
	s.res.Tensors[made.Name] = map[string]float64{
		"sparsity": float64(r.zeros()) / float64(r.t.Elems()), "damping": f.Damping,
		"loss_dropped": f.Dropped, "loss_repaired": f.Repaired, "loss_refitted": f.Refitted,
	}
	s.sink.Add(1)
	return s.m.Replace(made)
}
