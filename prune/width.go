package prune

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/obs"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

// Width is the pass "prune.width": every block loses neurons of its MLP and whole key heads with the query
// heads that share them, the same number in each; which ones is decided block by block. The layer that
// read them, which is the last of the MLP or of the attention, is fitted to give what it gave: by least
// squares over the calibration tokens, with the inputs that the blocks made smaller before produce. Channels
// of the residual stream go first, all through the model, when their number is named.
type Width struct{ Options }

// widthScores are the scores that the pass knows, its own choice first.
var widthScores = []string{ScoreActivation, ScoreFit, ScoreTaylor, ScoreFisher, ScoreMagnitude}

func init() {
	register(&Method{
		Name: "width", Doc: "neurons and heads go from every block, and what read them is fitted", Learns: true, Runs: true, Structured: true,
		Scores: widthScores,
		New:    func(o Options, _ map[string][]float32) ir.Pass { return &Width{o} },
	})
}

// Name implements ir.Pass.
func (*Width) Name() string { return "prune.width" }

// Needs implements ir.Pass.
func (*Width) Needs() ir.Need { return ir.NeedActivations }

// target is the decoder that the pass makes.
func (p *Width) target(m *ir.Model) (*ir.Decoder, error) {
	misuse := func(hint, format string, a ...any) error {
		return &fault.Error{File: m.Path, Op: p.Name(), Err: fault.As(fault.ErrMisuse, fmt.Errorf(format, a...)), Hint: hint}
	}
	s := &p.Structure
	if err := errors.Join(p.plain(p.Name()), s.check(p.Name(), widthScores)); err != nil {
		return nil, err
	}
	if err := shrinkable(p.Name(), m); err != nil {
		return nil, err
	}
	was := m.Decoder
	switch {
	case s.Blocks != 0:
		return nil, misuse("use prune.depth", "blocks go by depth, not by width")
	case !s.budget() && s.FFN == 0 && s.KVHeads == 0 && s.Hidden == 0:
		return nil, misuse("say how much goes, such as ratio = 0.25, or how much stays, such as ffn = 512", "nothing to prune")
	case s.FFN > was.FFN || s.KVHeads > was.KVHeads || s.Hidden > was.Hidden:
		return nil, misuse("", "more is to stay than there is: %d MLP neurons, %d key heads, %d channels", was.FFN, was.KVHeads, was.Hidden)
	}
	d := *was
	group := was.Heads / was.KVHeads
	if s.Hidden > 0 {
		d.Hidden = s.Hidden
		// norms add it to a mean that is over fewer channels now
		d.NormEps = float32(float64(d.NormEps) * float64(was.Hidden) / float64(s.Hidden))
	}
	heads := func(kv int) { d.KVHeads, d.Heads = kv, kv*group }
	if s.KVHeads > 0 {
		heads(s.KVHeads)
	}
	if s.FFN > 0 {
		d.FFN = s.FFN
	}
	step := s.multiple(was.FFN)
	for s.budget() && !s.fits(m, &d) {
		// Neurons go first: there are many, and the others make up for them well. Below half of them both
		// give way, the one that would keep the larger share of what it was.
		ffn := (d.FFN - 1) / step * step
		fewer := d.KVHeads - 1
		for fewer > 0 && uneven(m, d.Hidden, fewer*group) {
			fewer--
		}
		mlp, attention := s.FFN == 0 && ffn >= step, s.KVHeads == 0 && fewer > 0
		if mlp && attention && 2*ffn < was.FFN {
			mlp = float64(ffn)/float64(was.FFN) >= float64(fewer)/float64(was.KVHeads)/2
		}
		switch {
		case mlp:
			d.FFN = ffn
		case attention:
			heads(fewer)
		default:
			return nil, misuse("ask for less", "the budget cannot be met: %d MLP neurons and %d key heads a block are still too many", d.FFN, d.KVHeads)
		}
	}
	if d.FFN == was.FFN && d.KVHeads == was.KVHeads && d.Hidden == was.Hidden {
		return nil, misuse("", "nothing to prune: the model is within the budget")
	}
	return &d, nil
}

// uneven reports whether transformers refuses the architecture with so many channels and heads.
func uneven(m *ir.Model, hidden, heads int) bool {
	a := arch.ByName(m.Arch)
	return a != nil && a.HF.HeadsDivide && hidden%heads != 0
}

// reads are the roles whose weights the pass computes anew.
func (p *Width) reads(was, now *ir.Decoder) func(t *ir.Tensor) bool {
	return func(t *ir.Tensor) bool {
		switch t.Role {
		case ir.RoleAttnOBias:
			return was.KVHeads != now.KVHeads
		case ir.RoleMLPDownBias:
			return was.FFN != now.FFN
		case ir.RoleAttnO:
			return was.KVHeads != now.KVHeads
		case ir.RoleMLPDown:
			return was.FFN != now.FFN
		}
		return false
	}
}

// Plan implements ir.Pass.
func (p *Width) Plan(ctx context.Context, m *ir.Model) (*ir.Plan, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := p.target(m)
	if err != nil {
		return nil, err
	}
	return steps(p.Name(), m, d, p.reads(m.Decoder, d))
}

// widthRun is the state of one Apply.
type widthRun struct {
	*Width
	m     *ir.Model
	env   ir.Env
	now   *ir.Decoder
	k     *kernels.Set
	spill ir.Spill
	sink  interface{ Add(int64) }
	res   *ir.Result
	// what stays in each block once the walk is over, and the layers that read it
	heads, neurons [][]int
	fitted         []*ir.Tensor
	lost           map[string]*losses       // sums over blocks, by stage
	narrowed       string                   // what became of channels
	slopes         map[*ir.Tensor][]float64 // scores of parts by gradients, by the layer that reads them
}

// choice is what was decided about a layer, kept beside its matrix.
type choice struct {
	Keep []int // parts
	Bias []float32
	Loss losses
}

// Apply implements ir.Pass. What was decided and fitted is kept in env.Work, layer by layer: a run that was
// interrupted goes on behind the last one.
func (p *Width) Apply(ctx context.Context, m *ir.Model, plan *ir.Plan, env ir.Env) (*ir.Result, error) {
	d, err := p.target(m)
	if err != nil {
		return nil, err
	}
	if env.Executor == nil || len(env.Tokens) == 0 {
		return nil, &fault.Error{Op: p.Name(), Err: fault.As(fault.ErrMisuse, errors.New("no calibration tokens")), Hint: "give --calibration FILE"}
	}
	was := *m.Decoder
	for _, n := range []int{was.FFN, was.QDim()} {
		if !obs.Fits(n, env.Memory) {
			return nil, &fault.Error{File: m.Path, Op: p.Name(), Err: fmt.Errorf("the second moments of %d inputs do not fit --max-memory", n), Hint: "give more memory"}
		}
	}
	layers := 0
	if d.FFN != was.FFN {
		layers += was.Layers
	}
	if d.KVHeads != was.KVHeads {
		layers += was.Layers
	}
	run := &widthRun{
		Width: p, m: m, env: env, now: d, k: kernels.For(env.ISA), spill: ir.Spill{Dir: env.Work, Prefix: "width"}, sink: stage(env, layers),
		res:  &ir.Result{Tensors: map[string]map[string]float64{}},
		lost: map[string]*losses{}, heads: make([][]int, was.Layers), neurons: make([][]int, was.Layers),
	}
	note := smaller(m, &was, d)
	if d.Hidden != was.Hidden {
		if err := run.narrow(ctx); err != nil {
			return nil, err
		}
	}
	if s := p.Structure.Score; layers > 0 && (s == ScoreTaylor || s == ScoreFisher) {
		if err := run.gradients(ctx); err != nil {
			return nil, err
		}
	}
	if layers > 0 {
		if err := run.walk(ctx); err != nil {
			return nil, err
		}
	}
	if err := run.cut(); err != nil {
		return nil, err
	}
	for _, s := range plan.Steps {
		if s.Change {
			run.res.Changed++
		}
	}
	run.res.Decoder = d
	run.res.Notes = append([]string{note}, run.notes()...)
	return run.res, nil
}

// walk decides and fits, block by block.
func (r *widthRun) walk(ctx context.Context) (err error) {
	w, err := r.env.Executor.Start(ctx, r.m, r.env.Tokens)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	was := *r.m.Decoder
	for b := range was.Layers {
		if r.now.KVHeads != was.KVHeads {
			unit := was.Heads / was.KVHeads * was.HeadDim
			makes := []makesPart{{r.m.Role(ir.RoleAttnQ, b), unit}, {r.m.Role(ir.RoleAttnK, b), was.HeadDim}, {r.m.Role(ir.RoleAttnV, b), was.HeadDim}}
			if r.heads[b], err = r.layer(ctx, w, "o", ir.RoleAttnO, ir.RoleAttnOBias, unit, r.now.KVHeads, makes); err != nil {
				return err
			}
		}
		if r.now.FFN != was.FFN {
			makes := []makesPart{{r.m.Role(ir.RoleMLPGate, b), 1}, {r.m.Role(ir.RoleMLPUp, b), 1}}
			if r.neurons[b], err = r.layer(ctx, w, "down", ir.RoleMLPDown, ir.RoleMLPDownBias, 1, r.now.FFN, makes); err != nil {
				return err
			}
		}
		if b+1 < was.Layers {
			if err := w.Next(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// gradients scores the parts of all layers of the model as it is: by the mean over sequences of |gradient x
// weight|, summed over what a part hands on (Molchanov and others, arXiv 1611.06440), or of its square, which
// is the diagonal of the Fisher matrix of masks (Kwon and others, arXiv 2204.09656).
func (r *widthRun) gradients(ctx context.Context) error {
	if r.env.Learner == nil {
		return &fault.Error{Op: r.Name(), Err: errors.New("there is nothing to compute gradients with")}
	}
	was := r.m.Decoder
	r.slopes = map[*ir.Tensor][]float64{}
	return r.env.Learner.Slopes(ctx, r.m, r.env.Tokens, []ir.Role{ir.RoleAttnO, ir.RoleMLPDown}, func(t *ir.Tensor, columns []float64) error {
		unit := 1
		if t.Role == ir.RoleAttnO {
			unit = was.Heads / was.KVHeads * was.HeadDim
		}
		score := r.slopes[t]
		if score == nil {
			score = make([]float64, len(columns)/unit)
			r.slopes[t] = score
		}
		for i := range score {
			var sum float64
			for _, v := range columns[i*unit:][:unit] {
				sum += v
			}
			if sum-sum != 0 {
				return ir.Wrap(t, r.Name(), fmt.Errorf("the gradient of part %d: %w", i, fault.ErrNotFinite))
			}
			if r.Structure.Score == ScoreFisher {
				score[i] += float64(sum * sum)
			} else {
				score[i] += math.Abs(sum)
			}
		}
		return nil
	})
}

// layer decides which parts of the inputs of a layer stay, and fits it to them. Until the walk is over the
// model keeps its dimensions: the layer has zeros where it lost columns.
func (r *widthRun) layer(ctx context.Context, w ir.Walk, stage string, role, biasRole ir.Role, unit, stay int, makes []makesPart) ([]int, error) {
	t, bias := r.m.Role(role, w.Block()), r.m.Role(biasRole, w.Block())
	wide := t.Cols()
	small := t.With(t.Type, nil, t.Data)
	small.Shape = []int{t.Rows(), stay * unit}
	var c choice
	made, err := r.load(small, &c)
	if err != nil {
		return nil, err
	}
	if made == nil {
		if made, err = r.solve(ctx, w, ir.Stages[stageOf(role)], small, t, bias, unit, stay, makes, &c); err != nil {
			return nil, err
		}
	}
	if n := len(c.Keep); n != stay || !slices.IsSorted(c.Keep) || c.Keep[0] < 0 || c.Keep[n-1] >= wide/unit || bias != nil && len(c.Bias) != bias.Cols() {
		return nil, &fault.Error{File: r.choicePath(small), Op: r.Name(), Err: errors.New("not what this layer kept"), Hint: "remove the work folder"}
	}
	if bias != nil {
		changed, err := vector(bias, c.Bias)
		if err != nil {
			return nil, ir.Wrap(bias, r.Name(), err)
		}
		if err := r.m.Replace(changed); err != nil {
			return nil, err
		}
	}
	sum := r.lost[stage]
	if sum == nil {
		sum = &losses{}
		r.lost[stage] = sum
	}
	sum.Dropped += c.Loss.Dropped / float64(r.m.Decoder.Layers)
	sum.Refitted += c.Loss.Refitted / float64(r.m.Decoder.Layers)
	r.res.Tensors[t.Name] = map[string]float64{"loss_dropped": c.Loss.Dropped, "loss_refitted": c.Loss.Refitted}
	r.fitted = append(r.fitted, made)
	r.sink.Add(1)
	return c.Keep, r.m.Replace(scatter(made, spread(c.Keep, unit), wide))
}

// solve measures, decides and fits.
func (r *widthRun) solve(ctx context.Context, w ir.Walk, s ir.Stage, small, t, bias *ir.Tensor, unit, stay int, makes []makesPart, c *choice) (*ir.Tensor, error) {
	wrap := func(err error) error { return ir.Wrap(t, r.Name(), err) }
	m, err := measure(ctx, w, s, t.Cols(), bias != nil, r.k, r.env.Threads)
	if err != nil {
		return nil, wrap(err)
	}
	x, err := ir.ReadAll(ctx, t)
	if err != nil {
		return nil, err
	}
	for i, v := range x {
		if v-v != 0 {
			return nil, wrap(fmt.Errorf("row %d, element %d is %v: %w", i/t.Cols(), i%t.Cols(), v, fault.ErrNotFinite))
		}
	}
	p := &parts{reads: x, rows: t.Rows(), unit: unit, makes: makes}
	switch r.Structure.Score {
	case ScoreMagnitude:
		score, err := p.magnitude(ctx, m.n)
		if err != nil {
			return nil, err
		}
		c.Keep = best(score, stay)
	case ScoreTaylor, ScoreFisher:
		c.Keep = best(r.slopes[t], stay)
	case ScoreFit:
		if c.Keep, err = m.cheapest(ctx, x, unit, stay); err != nil {
			return nil, wrap(err)
		}
	default:
		c.Keep = best(p.activation(m), stay)
	}
	out, shift, loss, err := m.fit(ctx, x, spread(c.Keep, unit), !r.NoRefit)
	if err != nil {
		return nil, wrap(err)
	}
	c.Loss = loss
	if bias != nil {
		if c.Bias, err = ir.ReadAll(ctx, bias); err != nil {
			return nil, err
		}
		for i, v := range shift {
			c.Bias[i] += float32(v)
		}
	}
	return r.save(small, out, c)
}

func (r *widthRun) choicePath(t *ir.Tensor) string {
	return filepath.Join(r.env.Work, fmt.Sprintf("width-%d-%s.json", t.Block, t.Role))
}

// load finds a layer that an earlier run finished.
func (r *widthRun) load(small *ir.Tensor, c *choice) (*ir.Tensor, error) {
	b, err := os.ReadFile(r.choicePath(small))
	if err != nil || json.Unmarshal(b, c) != nil {
		return nil, nil //nolint:nilerr // not there, or cut short: it is made again
	}
	var none struct{}
	return r.spill.Open(small, &none)
}

// save keeps a layer: the decision first, for what has a matrix has both.
func (r *widthRun) save(small *ir.Tensor, w []float32, c *choice) (*ir.Tensor, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(r.choicePath(small), b, 0o644); err != nil { //nolint:gosec // as the other files
		return nil, &fault.Error{File: r.choicePath(small), Op: "write", Err: err}
	}
	f, err := r.spill.Create(small)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := small.Bytes()
	if err != nil {
		return nil, ir.Wrap(small, r.Name(), err)
	}
	raw := make([]byte, n)
	if err := storage.MustLookup(small.Type).Encode(raw, w, nil); err != nil {
		return nil, ir.Wrap(small, r.Name(), err)
	}
	if err := f.Write(raw); err != nil {
		return nil, err
	}
	var none struct{}
	return f.Finish(&none)
}

// cut gives all tensors their new shapes.
func (r *widthRun) cut() error {
	was := *r.m.Decoder
	for _, t := range r.fitted {
		if err := r.m.Replace(t); err != nil {
			return err
		}
	}
	group := was.Heads / was.KVHeads * was.HeadDim
	for _, t := range slices.Clone(r.m.Tensors()) {
		var rows []int
		switch t.Role {
		case ir.RoleAttnQ, ir.RoleAttnQBias:
			rows = spread(r.in(r.heads, t.Block), group)
		case ir.RoleAttnK, ir.RoleAttnV, ir.RoleAttnKBias, ir.RoleAttnVBias:
			rows = spread(r.in(r.heads, t.Block), was.HeadDim)
		case ir.RoleMLPGate, ir.RoleMLPUp, ir.RoleMLPGateBias, ir.RoleMLPUpBias:
			rows = r.in(r.neurons, t.Block)
		}
		if len(rows) == 0 {
			continue
		}
		c := pick(t, rows, nil)
		if len(t.Shape) == 1 {
			c = pick(t, nil, rows)
		}
		if err := r.m.Replace(c); err != nil {
			return err
		}
	}
	r.m.Decoder = r.now
	return nil
}

func (r *widthRun) in(list [][]int, block int) []int {
	if block < 0 || block >= len(list) {
		return nil
	}
	return list[block]
}

// notes say what the fits achieved.
func (r *widthRun) notes() (notes []string) {
	if uneven(r.m, r.now.Hidden, r.now.Heads) {
		notes = append(notes, fmt.Sprintf("transformers 5 refuses a %s of %d channels and %d heads, because these do not divide those; GGUF runtimes take it", r.m.Arch, r.now.Hidden, r.now.Heads))
	}
	if r.narrowed != "" {
		notes = append(notes, r.narrowed)
	}
	for _, s := range ir.Stages {
		if l := r.lost[s.Name]; l != nil {
			what := map[string]string{"o": "attention", "down": "MLP"}[s.Name]
			notes = append(notes, fmt.Sprintf("%s: %.2f %% of what the blocks give is lost, %.2f %% before the fit", what, 100*l.Refitted, 100*l.Dropped))
		}
	}
	return notes
}
