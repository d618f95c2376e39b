package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/mapped"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
)

// Options say how a model is executed. The zero value uses all cores and the best kernels.
type Options struct {
	Threads int       // 0: all usable cores
	ISA     cpu.Level // kernels to use; empty: the best that run here
	// Pool is workers to share with others that compute in turns with this model, in place of Threads of
	// its own: workers of two pools that wait for their turn take the cores from each other. It stays open
	// as long as what is loaded with it.
	Pool *par.Pool
	// Context is the most tokens of a session; 0: the context the model was trained for.
	Context int
	// Tokens is how many tokens all sessions together are going to hold: room for their keys and
	// values is left in Memory. 0: it is not known.
	Tokens int
	// KV is the type of cached keys and values: storage.F32 (also when empty), F16 or Q8_0.
	KV storage.Type
	// Activations says how inputs of products are represented: ActivationsAuto when empty.
	Activations Activations
	Batch       int // tokens computed together in prefill; 0: 512, fewer where Memory is short
	// Memory is the most bytes to hold: weights, on the heap and in mapped files, cache, activations.
	// Where mapped weights do not fit, each block's pages are given back when it has been computed,
	// and read again for the next tokens. 0: no limit.
	Memory int64
	// Work is the folder for hidden states of a calibration walk that do not fit in Memory; empty:
	// the system's folder for temporary files.
	Work string
}

// workers is how many workers there are going to be.
func (o *Options) workers() int {
	if o.Pool != nil {
		return o.Pool.Threads()
	}
	return par.Threads(o.Threads)
}

// logitNumbers bounds the logits held at once where memory is limited, manyLogits where it is not: the
// more rows, the less often the output matrix, which is large where the vocabulary is, is decoded.
const (
	logitNumbers = 4 << 20
	manyLogits   = 16 << 20
)

// logitRows is how many rows of logits are held at once in batches of a length.
func logitRows(d *ir.Decoder, batch int, limited bool) int {
	numbers := manyLogits
	if limited {
		numbers = logitNumbers
	}
	return max(1, min(batch, numbers/d.Vocab))
}

// Runner is a loaded model. Its sessions may be used from several goroutines; they take turns.
type Runner struct {
	mu      sync.Mutex // held while a session computes
	opt     Options
	batch   int
	d       *ir.Decoder
	e       *engine
	embed   *linear
	norm    []float32
	head    *linear
	blocks  []*block
	weights footprint
	lean    footprint         // of the same weights, without spare tiles
	tiles   *mapped.Anonymous // of weights that are not mapped; nil when there are none
	spare   *mapped.Anonymous // of weights that are; nil when these do not stay
	used    bool              // there was a pass over the weights
	tight   bool              // pages of mapped weights are given back after each block
	cached  int64             // heap of the sessions' caches
	spec    *tokenizer.Spec
	buf     buffers
	hidden  []float32
	attn    []float32
	ffn     []float32
	logits  []float32

	tokOnce sync.Once
	tok     *tokenizer.Tokenizer
	tokErr  error
}

// ErrContext is the reason when a session would grow beyond its context.
var ErrContext = errors.New("context is full")

// ErrToken is the reason when a token id is outside the vocabulary.
var ErrToken = errors.New("token id outside the vocabulary")

// Load prepares a model for execution. Weights in mapped files stay there; others are read once, in
// the type they are stored in. It fails with ir.ErrNoArchitecture, with fault.ErrBudget when the model
// does not fit in opt.Memory, or with what reading a weight fails with.
//
// The model must stay open as long as the runner is used. Close stops the runner's workers.
func Load(ctx context.Context, m *ir.Model, opt Options) (*Runner, error) {
	if err := executable(m, &opt); err != nil {
		return nil, err
	}
	r := &Runner{opt: opt, d: m.Decoder, spec: m.Tokenizer}
	if r.opt.Context <= 0 {
		r.opt.Context = r.d.Context
	}
	if err := r.plan(m); err != nil {
		return nil, err
	}
	r.e = newEngine(opt, r.d)
	if err := r.load(ctx, m); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// executable checks what Load and NewExecutor need alike, and fills in defaults.
func executable(m *ir.Model, opt *Options) error {
	fail := func(err error, hint string) error {
		return &fault.Error{File: m.Path, Op: "run", Err: err, Hint: hint}
	}
	d := m.Decoder
	if d == nil {
		err, hint := m.CannotRun(), "weight-by-weight steps such as quantize and prune still work"
		if errors.Is(err, ir.ErrShape) || errors.Is(err, ir.ErrMissing) {
			hint = "configuration and weights seem to come from different models: copy both again"
		}
		return fail(err, hint)
	}
	if err := m.Check(); err != nil {
		return err
	}
	if d.HeadDim <= 0 || d.HeadDim%2 != 0 || d.KVHeads <= 0 || d.Heads%d.KVHeads != 0 || d.Layers <= 0 {
		return fail(fmt.Errorf("%d heads over %d key heads of %d numbers do not make an attention layer", d.Heads, d.KVHeads, d.HeadDim), "")
	}
	if d.RopeFactors != nil && len(d.RopeFactors) != d.HeadDim/2 {
		return fail(fmt.Errorf("%d rope factors, %d needed", len(d.RopeFactors), d.HeadDim/2), "")
	}
	if s := d.RopeScaling; d.RopeFactors == nil && s != nil && s.Kind != "linear" && s.Kind != "llama3" {
		return fail(fmt.Errorf("rope scaling %q is not known", s.Kind), "")
	}
	if limit := cmp.Or(max(opt.Context, 0), d.Context); limit > 0 {
		opt.Tokens = min(opt.Tokens, limit)
	}
	if err := opt.Activations.check(); err != nil {
		return fail(err, "use auto, int8 or f32")
	}
	if opt.KV == "" {
		opt.KV = storage.F32
	}
	switch opt.KV {
	case storage.F32, storage.F16:
	case storage.Q8_0:
		if d.HeadDim%32 != 0 {
			return fail(fmt.Errorf("heads of %d numbers, which are no blocks of 32 for a cache of q8_0", d.HeadDim), "use f16")
		}
	default:
		return fail(fault.As(fault.ErrMisuse, fmt.Errorf("cache type %s", opt.KV)), "use f32, f16 or q8_0")
	}
	return nil
}

func (r *Runner) load(ctx context.Context, m *ir.Model) error {
	x := indexOf(m)
	ld := newLoader(r.e, r.opt.Activations)
	ld.later = r.opt.Memory <= 0 // or the file's pages and the tiles would be there together
	if r.weights.tiles > 0 {
		r.tiles = mapped.NewAnonymous(int(r.weights.tiles))
		ld.room = r.tiles.Bytes()
	}
	if r.weights.spare > 0 {
		r.spare = mapped.NewAnonymous(int(r.weights.spare))
		ld.spare = r.spare.Bytes()
	}
	embedding, err := x.find(ir.RoleEmbedding, -1)
	if err != nil {
		return err
	}
	if r.embed, err = ld.linear(ctx, embedding, nil, true); err != nil {
		return err
	}
	if r.norm, err = x.vector(ctx, ir.RoleFinalNorm, -1); err != nil {
		return err
	}
	head := cmp.Or(x[indexKey{ir.RoleHead, -1}], embedding)
	if r.head = r.embed; head != embedding || tiler(ld.k, ld.act, head) != nil {
		if r.head, err = ld.linear(ctx, head, nil, false); err != nil {
			return err
		}
	}
	for b := range r.d.Layers {
		w, err := x.loadBlock(ctx, ld, b)
		if err != nil {
			return err
		}
		r.blocks = append(r.blocks, w)
	}
	return nil
}

// unpack gives up the tiles that can be made anew from mapped files.
func (r *Runner) unpack() {
	if r.spare == nil {
		return
	}
	all := []*linear{r.head}
	for _, b := range r.blocks {
		for _, l := range blockLinears(b) {
			all = append(all, *l.dst)
		}
	}
	for _, l := range all {
		if l.raw != nil {
			l.tiles = nil
		}
	}
	r.weights = r.lean
	_ = r.spare.Close() // as in Close
	r.spare = nil
}

// Close stops the workers, unless they are shared, and, where memory is limited, gives the pages of mapped
// weights back. The sessions of a closed runner must not be used.
func (r *Runner) Close() {
	r.e.close()
	for _, tiles := range []**mapped.Anonymous{&r.tiles, &r.spare} {
		if *tiles != nil {
			_ = (*tiles).Close() // nothing is lost with memory that stays
			*tiles = nil
		}
	}
	if r.opt.Memory <= 0 {
		return
	}
	r.embed.drop()
	r.head.drop()
	for _, b := range r.blocks {
		b.drop()
	}
}

// Decoder describes the architecture that runs.
func (r *Runner) Decoder() *ir.Decoder { return r.d }

// Vocab is the length of a row of logits.
func (r *Runner) Vocab() int { return r.d.Vocab }

// Context is the most tokens of a session; 0 means no limit is known.
func (r *Runner) Context() int { return r.opt.Context }

// Threads is the number of workers in use.
func (r *Runner) Threads() int { return r.e.pool.Threads() }

// ISA is the level of the kernels in use.
func (r *Runner) ISA() cpu.Level { return r.e.k.Level() }

// Batch is the number of tokens computed together in prefill.
func (r *Runner) Batch() int { return r.batch }

// MemoryBytes is the heap held by weights, caches, activations and workers at present.
func (r *Runner) MemoryBytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.memory()
}

func (r *Runner) memory() int64 { return r.weights.owned + r.cached + r.buffers() }

// buffers is what activations and workers hold at present.
func (r *Runner) buffers() int64 {
	return r.e.bytes() + r.buf.bytes() + 4*int64(cap(r.hidden)+cap(r.attn)+cap(r.ffn)+cap(r.logits))
}

// committed is what the runner holds once a session has so many tokens, without their keys and values:
// buffers count for what they are going to be.
func (r *Runner) committed(tokens int) int64 {
	tokens = max(1, tokens, r.opt.Tokens)
	buffers := activationBytes(r.d, r.weights, r.batch, true) + workBytes(r.d, r.weights, r.batch, tokens, r.Threads())
	return r.weights.owned + r.cached + max(r.buffers(), buffers)
}

// Activations says how inputs of products are represented.
func (r *Runner) Activations() Activations { return r.opt.Activations }

// KV is the type of cached keys and values.
func (r *Runner) KV() storage.Type { return r.opt.KV }

// MappedBytes is the size of the weights that are used where they lie in mapped files.
func (r *Runner) MappedBytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.weights.mapped
}

// Tokenizer is the model's tokenizer, made at the first call.
func (r *Runner) Tokenizer() (*tokenizer.Tokenizer, error) {
	r.tokOnce.Do(func() {
		if r.spec == nil {
			r.tokErr = &fault.Error{Op: "run", Err: errors.New("the model comes without a tokenizer"), Hint: "give token ids"}
			return
		}
		r.tok, r.tokErr = tokenizer.New(r.spec)
	})
	return r.tok, r.tokErr
}
