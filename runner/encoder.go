package runner

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/mapped"
	"github.com/pare-dev/pare/ir"
)

// Encoder is a loaded text encoder. Texts of any lengths are computed together, one after the other in the
// rows of one matrix: nothing is padded, and products never see which text a row belongs to. A text's
// results are the same bytes in any company and at any number of threads, save that a text of one token,
// where products take float32 activations, may differ within rounding.
//
// It is used by one goroutine at a time.
type Encoder struct {
	opt    Options
	d      *ir.Encoder
	e      *engine
	batch  int
	tables [3]*linear // tokens, positions, types (nil without)
	norm   affine
	blocks []*encoderBlock
	tiles  *mapped.Anonymous // nil when there are none
	step   encoderStep
	buf    struct{ x, q, k, v, up []float32 }
}

// affine is the gain and bias of a norm.
type affine struct{ gain, bias []float32 }

// encoderBlock is the weights of one block.
type encoderBlock struct {
	q, k, v, o, up, down *linear
	attnNorm, mlpNorm    affine
}

// Text is what an encoder reads: token ids, special ones included, and their types; nil types are all 0.
type Text struct{ IDs, Types []int32 }

// encoderStep is what the workers need to know of the step under way.
type encoderStep struct {
	x, q, k, v kernels.Matrix
	norm       affine
	texts      []Text
	starts     []int // the first row of each text, and the end
	rows       []int // the text of each row
}

// LoadEncoder prepares a text encoder for execution. Weights that take float32 activations are laid out once
// for products, in float32, where Options.Memory leaves room for it. It fails with ir.ErrNoEncoder, with
// fault.ErrBudget, or with what reading a weight fails with. The model must stay open as long as the
// encoder is used.
func LoadEncoder(ctx context.Context, m *ir.Model, opt Options) (*Encoder, error) {
	if err := m.CannotEncode(); err != nil {
		return nil, &fault.Error{File: m.Path, Op: "run", Err: err}
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	if err := opt.Activations.check(); err != nil {
		return nil, &fault.Error{File: m.Path, Op: "run", Err: err, Hint: "use auto, int8 or f32"}
	}
	x := &Encoder{opt: opt, d: m.Encoder, batch: opt.Batch}
	if x.batch <= 0 {
		x.batch = encoderBatch
	}
	x.batch = max(x.batch, x.d.Context)
	layout, err := x.plan(m)
	if err != nil {
		return nil, err
	}
	x.e = newEngine(opt, nil)
	if err := x.load(ctx, m, layout); err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// encoderBatch is how many tokens are computed together: enough to pay for passing by all weights, few
// enough for their activations to stay in the caches.
const encoderBatch = 512

// encoderLayout is what weights take.
type encoderLayout struct {
	tiles int64 // bytes of weights in tiles
	pack  bool  // the others are laid out for products
}

// plan decides how weights are held and refuses a model that does not fit in the budget.
func (x *Encoder) plan(m *ir.Model) (how encoderLayout, err error) {
	k := kernels.For(x.opt.ISA)
	var owned, filed, packed int64
	for _, t := range m.Tensors() {
		if t.Role == ir.RoleUnknown || t.Role == ir.RolePooler {
			continue
		}
		own, file, err := sizeOf(t)
		if err != nil {
			return how, ir.Wrap(t, "run", err)
		}
		switch l := tiler(k, x.opt.Activations, t); {
		case !t.Role.Linear():
			owned, filed = owned+own, filed+file
		case l != nil:
			how.tiles += int64(roundUp(tileBytes(l, t.Rows(), t.Cols())))
		default:
			owned, filed = owned+own, filed+file
			packed += 4 * int64(k.RightLen(t.Rows(), t.Cols()))
		}
	}
	work := x.activationBytes() + int64(x.opt.workers())*4*int64(2*bandNumbers+x.attendNumbers())
	total := owned + filed + how.tiles + work
	how.pack = x.opt.Memory <= 0 || total+packed <= x.opt.Memory
	if x.opt.Memory > 0 && total > x.opt.Memory {
		return how, &fault.Error{
			File: m.Path, Op: "run", Err: fault.As(fault.ErrBudget, fmt.Errorf("needs %s (weights %s, activations of %d tokens and workers %s), the budget is %s",
				human.Bytes(total), human.Bytes(total-work), x.batch, human.Bytes(work), human.Bytes(x.opt.Memory))),
			Hint: "raise --max-memory or use fewer threads",
		}
	}
	return how, nil
}

// activationBytes is what a batch takes.
func (x *Encoder) activationBytes() int64 {
	widest := max(x.d.Hidden, x.d.FFN)
	return int64(x.batch)*4*int64(4*x.d.Hidden+x.d.FFN+widest) + kernels.ActivationBytes(x.batch, widest)
}

func (x *Encoder) load(ctx context.Context, m *ir.Model, how encoderLayout) error {
	all := indexOf(m)
	ld := newLoader(x.e, x.opt.Activations)
	var room []byte
	if how.tiles > 0 {
		x.tiles = mapped.NewAnonymous(int(how.tiles))
		room = x.tiles.Bytes()
	}
	table := func(r ir.Role) (*linear, error) {
		t, err := all.find(r, -1)
		if err != nil {
			return nil, err
		}
		return ld.linear(ctx, t, nil, true)
	}
	roles := []ir.Role{ir.RoleEmbedding, ir.RolePosition, ir.RoleTokenType}
	if x.d.Types == 0 {
		roles = roles[:2]
	}
	var err error
	for i, r := range roles {
		if x.tables[i], err = table(r); err != nil {
			return err
		}
	}
	norm := func(gain, bias ir.Role, b int) (a affine, err error) {
		if a.gain, err = all.vector(ctx, gain, b); err == nil {
			a.bias, err = all.vector(ctx, bias, b)
		}
		return a, err
	}
	if x.norm, err = norm(ir.RoleEmbedNorm, ir.RoleEmbedNormBias, -1); err != nil {
		return err
	}
	for b := range x.d.Layers {
		w := &encoderBlock{}
		for _, l := range []blockLinear{
			{&w.q, ir.RoleAttnQ, ir.RoleAttnQBias},
			{&w.k, ir.RoleAttnK, ir.RoleAttnKBias},
			{&w.v, ir.RoleAttnV, ir.RoleAttnVBias},
			{&w.o, ir.RoleAttnO, ir.RoleAttnOBias},
			{&w.up, ir.RoleMLPUp, ir.RoleMLPUpBias},
			{&w.down, ir.RoleMLPDown, ir.RoleMLPDownBias},
		} {
			if *l.dst, err = x.loadLinear(ctx, all, ld, l, b, how.pack, &room); err != nil {
				return err
			}
		}
		if w.attnNorm, err = norm(ir.RoleAttnPostNorm, ir.RoleAttnPostNormBias, b); err != nil {
			return err
		}
		if w.mlpNorm, err = norm(ir.RoleMLPPostNorm, ir.RoleMLPPostNormBias, b); err != nil {
			return err
		}
		x.blocks = append(x.blocks, w)
	}
	return nil
}

func (x *Encoder) loadLinear(ctx context.Context, all index, ld *loader, l blockLinear, b int, pack bool, room *[]byte) (*linear, error) {
	t, err := all.find(l.weight, b)
	if err != nil {
		return nil, err
	}
	if l := tiler(ld.k, ld.act, t); l != nil { // mapped or not, a weight has one place
		n := roundUp(tileBytes(l, t.Rows(), t.Cols()))
		ld.room, ld.spare = (*room)[:n], (*room)[:n]
		*room = (*room)[n:]
	}
	w, err := ld.linear(ctx, t, all[indexKey{l.bias, b}], false)
	if err != nil {
		return nil, err
	}
	if pack && w.tiler == nil && w.side == nil {
		w.pack(x.e)
	}
	return w, nil
}

// Close stops the workers and gives memory back.
func (x *Encoder) Close() {
	x.e.close()
	if x.tiles != nil {
		_ = x.tiles.Close() // nothing is lost with memory that stays
		x.tiles = nil
	}
}

// Describe is the architecture that runs.
func (x *Encoder) Describe() *ir.Encoder { return x.d }

// ISA is the level of the kernels in use.
func (x *Encoder) ISA() cpu.Level { return x.e.k.Level() }

// ErrText is the reason when a text cannot be computed.
var ErrText = errors.New("text cannot be encoded")

// check refuses texts that the model has no rows for.
func (x *Encoder) check(texts []Text) error {
	for i, t := range texts {
		fail := func(format string, args ...any) error {
			return &fault.Error{Op: "run", Err: fmt.Errorf("%w: text %d: %w", ErrText, i+1, fmt.Errorf(format, args...))}
		}
		switch {
		case len(t.IDs) == 0:
			return fail("no tokens")
		case len(t.IDs) > x.d.Context:
			return fail("%w: %d tokens, the model has %d positions", ErrContext, len(t.IDs), x.d.Context)
		case t.Types != nil && len(t.Types) != len(t.IDs):
			return fail("%d tokens and %d types", len(t.IDs), len(t.Types))
		}
		for _, id := range t.IDs {
			if id < 0 || int(id) >= x.d.Vocab {
				return fail("%w: %d, the vocabulary has %d", ErrToken, id, x.d.Vocab)
			}
		}
		for _, typ := range t.Types {
			if typ != 0 && (typ < 0 || int(typ) >= x.d.Types) {
				return fail("type %d, the model has %d", typ, x.d.Types)
			}
		}
	}
	return nil
}

// Hidden hands over the last hidden states of every text, [tokens, Hidden], in order; they are valid during
// the call only.
func (x *Encoder) Hidden(ctx context.Context, texts []Text, fn func(text int, states kernels.Matrix) error) error {
	if err := x.check(texts); err != nil {
		return err
	}
	for lo := 0; lo < len(texts); {
		hi, tokens := lo, 0
		for hi < len(texts) && (hi == lo || tokens+len(texts[hi].IDs) <= x.batch) {
			tokens += len(texts[hi].IDs)
			hi++
		}
		if err := x.compute(ctx, texts[lo:hi], tokens); err != nil {
			return err
		}
		for i := range hi - lo {
			from, to := x.step.starts[i], x.step.starts[i+1]
			if err := fn(lo+i, x.step.x.Slice(from, to, 0, x.d.Hidden)); err != nil {
				return err
			}
		}
		lo = hi
	}
	return nil
}

// Embed hands over the embedding of every text, in order: pooled by the way the model asks for, or the mean
// when it asks for none, and of length 1 when it asks for that. It is valid during the call only.
func (x *Encoder) Embed(ctx context.Context, texts []Text, fn func(text int, v []float32) error) error {
	v := make([]float32, x.d.Hidden)
	return x.Hidden(ctx, texts, func(i int, states kernels.Matrix) error {
		x.pool(v, states)
		return fn(i, v)
	})
}

// pool makes one vector of the states of a text.
func (x *Encoder) pool(v []float32, states kernels.Matrix) {
	copy(v, states.Row(0))
	switch x.d.Pooling {
	case ir.PoolCLS:
	case ir.PoolMax:
		for t := 1; t < states.Rows; t++ {
			for i, s := range states.Row(t) {
				v[i] = max(v[i], s)
			}
		}
	default:
		for t := 1; t < states.Rows; t++ {
			x.e.k.Add(v, states.Row(t))
		}
		x.e.k.Scale(v, 1/float32(states.Rows))
	}
	if x.d.Normalize {
		// 1e-12 is what torch.nn.functional.normalize puts in place of shorter lengths
		length := math.Sqrt(float64(x.e.k.Dot(v, v)))
		x.e.k.Scale(v, float32(1/max(length, 1e-12)))
	}
}

// Cosine is the cosine of the angle between two embeddings; 0 when one of them is zero.
func Cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i, x := range a {
		ab += float64(x) * float64(b[i])
		aa += float64(x) * float64(x)
		bb += float64(b[i]) * float64(b[i])
	}
	if aa == 0 || bb == 0 {
		return 0
	}
	return ab / math.Sqrt(aa*bb)
}
