package quantize

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

// GPTQ chooses the codes of block types by the second moments of what each layer really reads
// (arXiv 2210.17323), on the block scales that the type's own search finds, so that the result is
// a stock file of the same size. Layers see the inputs that the already quantized layers before
// them give (true sequential), stage by stage within a block.
//
// Base decides the types and encodes everything else: tensors that no block computes with, types
// without a grid, and layers whose second moments do not fit in memory.
type GPTQ struct {
	Base ir.Pass
	// Damping is the fraction of the mean diagonal added to the second moments; 0 means 0.01.
	Damping float64
}

// gptqBits is the size above which choosing codes by GPTQ is not worth its time by default: 8 and 6
// bit types are hardly distinguishable from the original as they are.
const gptqBits = 5.1

func init() {
	register(&Method{
		Name: "gptq", Doc: "rounding errors are repaired by the weights that follow, on the inputs that calibration text gives",
		Runs: true,
		Gains: func(r Request) bool {
			if r.Preset == nil {
				return false
			}
			info := storage.MustLookup(r.Preset.Base)
			return info.Grid != nil && info.Bits() <= gptqBits
		},
		New: func(base *RTN) ir.Pass { return &GPTQ{Base: base} },
	})
}

// Name is "quantize.gptq".
func (g *GPTQ) Name() string { return "quantize.gptq" }

// Needs activations.
func (g *GPTQ) Needs() ir.Need { return ir.NeedActivations }

// Plan is the plan of Base: GPTQ changes codes, not types.
func (g *GPTQ) Plan(ctx context.Context, m *ir.Model) (*ir.Plan, error) {
	if err := m.CannotRun(); err != nil {
		return nil, &fault.Error{File: m.Path, Op: g.Name(), Err: fault.As(fault.ErrMisuse, err), Hint: "use --method rtn, which looks at weights only"}
	}
	return g.Base.Plan(ctx, m)
}

// Apply quantizes by Base and then replaces the layers of one block after the other. Finished
// tensors are kept in env.Work: a run that was interrupted goes on behind the last one.
func (g *GPTQ) Apply(ctx context.Context, m *ir.Model, p *ir.Plan, env ir.Env) (*ir.Result, error) {
	if env.Executor == nil || len(env.Tokens) == 0 {
		return nil, &fault.Error{Op: g.Name(), Err: fault.As(fault.ErrMisuse, errors.New("no calibration tokens")), Hint: "give a text with --calibration FILE, or use --method rtn"}
	}
	source := map[string]*ir.Tensor{}
	for _, t := range m.Tensors() {
		source[t.Name] = t
	}
	res, err := g.Base.Apply(ctx, m, p, env)
	if err != nil {
		return nil, err
	}
	if res.Tensors == nil {
		res.Tensors = map[string]map[string]float64{}
	}
	walk, err := env.Executor.Start(ctx, m, env.Tokens)
	if err != nil {
		return nil, err
	}
	defer walk.Close()
	run := &gptqRun{GPTQ: g, m: m, env: env, res: res, source: source, spill: ir.Spill{Dir: env.Work, Prefix: "gptq"}, k: kernels.For(env.ISA)}
	if run.Damping == 0 {
		run.Damping = 0.01
	}
	env.Progress.Stage("gptq", run.total(), "bytes")
	for walk.Block() < m.Decoder.Layers {
		for _, stage := range ir.Stages {
			inputs := func(fn func([]float32, int, int) error) error { return walk.Inputs(ctx, stage, fn) }
			if err := run.stage(ctx, walk.Block(), stage.Roles, inputs); err != nil {
				return nil, err
			}
		}
		if err := walk.Next(ctx); err != nil {
			return nil, err
		}
	}
	head := func(fn func([]float32, int, int) error) error { return walk.Head(ctx, fn) }
	if err := run.stage(ctx, -1, []ir.Role{ir.RoleHead}, head); err != nil {
		return nil, err
	}
	if run.solved == 0 {
		return nil, &fault.Error{File: m.Path, Op: g.Name(), Err: errors.New("no layer is stored in a type whose codes GPTQ can choose"), Hint: "choose a block type such as q4_0 or q4_k_m, or use --method rtn"}
	}
	return res, nil
}

// gptqRun is the state of one Apply.
type gptqRun struct {
	*GPTQ
	m      *ir.Model
	env    ir.Env
	res    *ir.Result
	source map[string]*ir.Tensor // the handles before Base
	spill  ir.Spill
	k      *kernels.Set
	solved int
}

// eligible says whether GPTQ chooses the codes of a tensor: Base must have encoded it into a type
// with a grid. A tied embedding is left alone, for it is also a table.
func (g *gptqRun) eligible(t *ir.Tensor) bool {
	if t == nil || t == g.source[t.Name] || t.Scheme != nil {
		return false
	}
	info, ok := storage.Lookup(t.Type)
	return ok && info.Grid != nil && info.SetCodes != nil
}

// total is the number of source bytes that will be solved, for the progress.
func (g *gptqRun) total() (n int64) {
	for _, t := range g.m.Tensors() {
		if (t.Role.Linear() || t.Role == ir.RoleHead) && g.eligible(t) {
			b, err := g.source[t.Name].Bytes()
			if err == nil {
				n += b
			}
		}
	}
	return n
}

// stage solves the layers that read one input.
func (g *gptqRun) stage(ctx context.Context, block int, roles []ir.Role, inputs func(func(x []float32, rows, cols int) error) error) error {
	var todo []*ir.Tensor
	for _, r := range roles {
		t := g.m.Role(r, block)
		if !g.eligible(t) {
			continue
		}
		if done, err := g.resume(t); err != nil {
			return err
		} else if !done {
			todo = append(todo, t)
		}
	}
	if len(todo) == 0 {
		return nil
	}
	cols := todo[0].Cols()
	if !obs.Fits(cols, g.env.Memory) {
		for _, t := range todo {
			reason := fmt.Sprintf("rounded to nearest: the second moments of %d inputs do not fit --max-memory", cols)
			g.res.Notes = append(g.res.Notes, t.Name+": "+reason)
			g.env.Progress.Note(t.Name, reason)
		}
		return nil
	}
	gram := g.k.NewGram(cols)
	if err := inputs(func(x []float32, _, _ int) error { return gram.Add(ctx, g.env.Threads, x) }); err != nil {
		return err
	}
	h, err := gram.Sum(ctx, g.env.Threads)
	if err != nil {
		return err
	}
	importance := make([]float32, cols)
	for i := range importance {
		importance[i] = float32(h[i*cols+i] / float64(gram.Rows()))
	}
	problem, err := obs.New(ctx, h, cols, obs.Options{ByEnergy: true, Damping: g.Damping, Threads: g.env.Threads}, g.k)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, t := range todo {
			g.res.Notes = append(g.res.Notes, fmt.Sprintf("%s: rounded to nearest: %v", t.Name, err))
			g.env.Progress.Note(t.Name, "rounded to nearest: "+err.Error())
		}
		return nil
	}
	for _, t := range todo {
		if err := g.tensor(ctx, t, gptqProblem{problem}, importance); err != nil {
			return err
		}
	}
	return nil
}

// tensor solves one matrix, a band of rows at a time, and spills it.
func (g *gptqRun) tensor(ctx context.Context, t *ir.Tensor, p gptqProblem, importance []float32) error {
	info := storage.MustLookup(t.Type)
	rowBytes, err := t.Type.RowBytes(t.Cols())
	if err != nil {
		return ir.Wrap(t, g.Name(), err)
	}
	f, err := g.spill.Create(t)
	if err != nil {
		return err
	}
	defer f.Close()
	src := g.source[t.Name]
	srcBytes, err := src.Bytes()
	if err != nil {
		return err
	}
	out := outcome{Damping: p.Damping}
	var dst []byte
	const band = 32 << 20
	err = ir.EachBand(ctx, src, band, func(b ir.Band, x []float32) error {
		n := b.Hi - b.Lo
		dst = append(dst[:0], make([]byte, int64(n)*rowBytes)...)
		loss, plain, err := p.solve(ctx, dst, x, n, info, importance, g.env.Threads)
		if err != nil {
			return ir.Wrap(t, g.Name(), err)
		}
		out.Loss, out.Plain = out.Loss+loss, out.Plain+plain
		g.env.Progress.Add(srcBytes * int64(n) / int64(max(t.Rows(), 1)))
		return f.Write(dst)
	})
	if err != nil {
		return err
	}
	made, err := f.Finish(&out)
	if err != nil {
		return err
	}
	return g.adopt(made, out)
}

// outcome is what solving a tensor gave besides its codes. It stands behind them in the spilled
// file, so that the report of a run that was interrupted says the same.
type outcome struct{ Damping, Loss, Plain float64 }

// figures are for the report.
func (o outcome) figures() map[string]float64 {
	f := map[string]float64{"gptq_damping": o.Damping}
	if o.Plain > 0 {
		f["gptq_loss_ratio"] = o.Loss / o.Plain
	}
	return f
}

// resume adopts a tensor that an earlier run finished.
func (g *gptqRun) resume(t *ir.Tensor) (bool, error) {
	var out outcome
	made, err := g.spill.Open(t, &out)
	if made == nil || err != nil {
		return false, err
	}
	if n, err := g.source[t.Name].Bytes(); err == nil {
		g.env.Progress.Add(n)
	}
	return true, g.adopt(made, out)
}

// adopt puts the spilled tensor into the model and its figures into the result.
func (g *gptqRun) adopt(made *ir.Tensor, out outcome) error {
	g.solved++
	g.res.Tensors[made.Name] = out.figures()
	return g.m.Replace(made)
}
