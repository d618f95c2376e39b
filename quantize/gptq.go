package quantize

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
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

// SecondMomentsFit reports whether GPTQ can solve a layer with so many inputs in memory bytes (0: no
// limit); others are rounded to nearest. It takes second moments in float64, a copy to factor, and the
// factor in float32, which may be half of the memory.
func SecondMomentsFit(cols int, memory int64) bool {
	return memory <= 0 || int64(cols)*int64(cols)*20 <= memory/2
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
	run := &gptqRun{GPTQ: g, m: m, env: env, res: res, source: source, k: kernels.For(env.ISA)}
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
	if !SecondMomentsFit(cols, g.env.Memory) {
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
	problem, damping, err := newGPTQ(ctx, h, cols, g.Damping, g.env.Threads, g.k)
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
		if err := g.tensor(ctx, t, problem, damping, importance); err != nil {
			return err
		}
	}
	return nil
}

// tensor solves one matrix, a band of rows at a time, and spills it.
func (g *gptqRun) tensor(ctx context.Context, t *ir.Tensor, p *gptqProblem, damping float64, importance []float32) error {
	info := storage.MustLookup(t.Type)
	rowBytes, err := t.Type.RowBytes(t.Cols())
	if err != nil {
		return ir.Wrap(t, g.Name(), err)
	}
	path := g.spill(t)
	f, err := os.Create(path + ".part")
	if err != nil {
		return err
	}
	defer f.Close()
	src := g.source[t.Name]
	srcBytes, err := src.Bytes()
	if err != nil {
		return err
	}
	out := outcome{Damping: damping}
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
		if _, err := f.Write(dst); err != nil {
			return &fault.Error{File: path, Op: "write", Err: err}
		}
		g.env.Progress.Add(srcBytes * int64(n) / int64(max(t.Rows(), 1)))
		return nil
	})
	if err != nil {
		return err
	}
	if err := errors.Join(binary.Write(f, binary.LittleEndian, out), f.Sync(), f.Close()); err != nil {
		return &fault.Error{File: path, Op: "write", Err: err}
	}
	if err := os.Rename(path+".part", path); err != nil {
		return err
	}
	return g.adopt(t, out)
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

// spill is the file that holds the finished tensor: its rows, then the outcome.
func (g *gptqRun) spill(t *ir.Tensor) string {
	return filepath.Join(g.env.Work, fmt.Sprintf("gptq-%x.bin", sha256.Sum256([]byte(t.Name)))) // names may hold any character
}

// resume adopts a tensor that an earlier run finished; its file appears by rename, so it is whole.
func (g *gptqRun) resume(t *ir.Tensor) (bool, error) {
	rows, err := t.Bytes()
	if err != nil {
		return false, err
	}
	f, err := os.Open(g.spill(t))
	if err != nil {
		return false, nil //nolint:nilerr // not there: solve it
	}
	defer f.Close()
	var out outcome
	st, err := f.Stat()
	if err != nil || st.Size() != rows+int64(binary.Size(out)) {
		return false, nil //nolint:nilerr // of another shape or cut short: solve it again
	}
	if err := binary.Read(io.NewSectionReader(f, rows, int64(binary.Size(out))), binary.LittleEndian, &out); err != nil {
		return false, &fault.Error{File: g.spill(t), Op: "read", Err: err}
	}
	if n, err := g.source[t.Name].Bytes(); err == nil {
		g.env.Progress.Add(n)
	}
	return true, g.adopt(t, out)
}

// adopt puts the spilled tensor into the model and its figures into the result.
func (g *gptqRun) adopt(t *ir.Tensor, out outcome) error {
	g.solved++
	g.res.Tensors[t.Name] = out.figures()
	rowBytes, err := t.Type.RowBytes(t.Cols())
	if err != nil {
		return err
	}
	return g.m.Replace(t.With(t.Type, nil, &spilled{path: g.spill(t), info: storage.MustLookup(t.Type), rows: t.Rows(), rowBytes: rowBytes}))
}

// spilled is a Source over a file of encoded rows. It opens the file for each read, so that a model
// of many tensors does not hold many descriptors.
type spilled struct {
	path     string
	info     *storage.Info
	rows     int
	rowBytes int64
}

func (s *spilled) ReadRaw(_ context.Context, part ir.Part, dst []byte, lo, hi int) error {
	if err := ir.CheckRange(s.rows, lo, hi); err != nil {
		return err
	}
	if part != ir.PartData || int64(len(dst)) != int64(hi-lo)*s.rowBytes {
		return fmt.Errorf("part %q of %d bytes asked of %d rows of %d bytes", part, len(dst), hi-lo, s.rowBytes)
	}
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(dst, int64(lo)*s.rowBytes)
	return err
}

func (s *spilled) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	raw := make([]byte, int64(hi-lo)*s.rowBytes)
	if err := s.ReadRaw(ctx, ir.PartData, raw, lo, hi); err != nil {
		return err
	}
	s.info.Decode(dst, raw)
	return nil
}
