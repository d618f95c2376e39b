package runner

import (
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// footprint is what the weights of a model take when they are executed, in bytes.
type footprint struct {
	k      *kernels.Set
	owned  int64 // on the heap, or in tiles
	mapped int64 // pages of mapped files, once all have been touched
	part   int64 // the most of mapped that one step needs: a block, the output matrix
	block  int64 // the most that one block takes, on the heap and mapped
	tiles  int64 // what owned has of tiles of weights that would be on the heap anyway,
	spare  int64 // and of tiles that can be made anew from mapped files
	tile   int64 // the largest tile that is made when it is used
	buf    int64 // the most that a thread reads at a time of what becomes tiles that stay
	tiled  bool  // some products take quantized activations,
	real   bool  // some take real numbers,
	decode bool  // some of these have weights that are neither f32, f16 nor bf16
}

// layout says how weights are held.
type layout struct {
	k    *kernels.Set
	act  Activations
	kept bool // tiles of mapped weights stay in memory
}

// footprintOf adds up a model's weights without reading them.
func footprintOf(m *ir.Model, how layout) (footprint, error) {
	f := footprint{k: how.k}
	block, mapped := map[int]int64{}, map[int]int64{}
	tied := m.Role(ir.RoleHead, -1) == nil
	for _, t := range m.Tensors() {
		if t.Role == ir.RoleUnknown {
			continue
		}
		own, file, err := sizeOf(t)
		if err != nil {
			return f, ir.Wrap(t, "run", err)
		}
		multiplied := t.Role.Linear() || t.Role == ir.RoleHead || t.Role == ir.RoleEmbedding && tied
		switch l := tiler(how.k, how.act, t); {
		case !multiplied:
		case l == nil:
			f.real = true
			f.decode = f.decode || t.Type != storage.F32 && t.Type != storage.F16 && t.Type != storage.BF16
		default:
			f.tiled = true
			if file > 0 && !how.kept {
				f.tile = max(f.tile, int64(l.Bytes(t.Cols())))
				break
			}
			n := int64(roundUp(tileBytes(l, t.Rows(), t.Cols())))
			if file > 0 {
				f.spare += n
			} else {
				f.tiles += n
			}
			f.buf = max(f.buf, packBand, kernels.TileRows*(own+file)/int64(max(1, t.Rows())))
			if t.Role != ir.RoleEmbedding { // of which rows are looked up
				own, file = 0, 0
			}
			own += n
		}
		f.owned, f.mapped = f.owned+own, f.mapped+file
		if t.Block < 0 { // embedding, norm and output matrix are used one at a time
			f.part = max(f.part, file)
			continue
		}
		mapped[t.Block] += file
		block[t.Block] += own + file
		f.part, f.block = max(f.part, mapped[t.Block]), max(f.block, block[t.Block])
	}
	return f, nil
}

const (
	defaultBatch = 512
	leastBatch   = 16 // smaller ones save little and cost much time
)

// activationBytes is what a batch of t tokens takes in a runner's own buffers.
func activationBytes(d *ir.Decoder, f footprint, t int, limited bool) int64 {
	n := bufferFloats(d, t) + int64(t)*int64(d.Hidden+d.QDim()+d.FFN) + int64(logitRows(d, t, limited))*int64(d.Vocab)
	return 4*n + inputBytes(d, f, t)
}

// inputBytes is what inputs of products take in the forms that weights need.
func inputBytes(d *ir.Decoder, f footprint, t int) (n int64) {
	if f.tiled {
		n += kernels.ActivationBytes(t, widest(d))
	}
	if f.real && t > 1 {
		n += 4 * int64(f.k.LeftLen(t, widest(d)))
	}
	return n
}

// widest is the longest row of a weight.
func widest(d *ir.Decoder) int { return max(d.Hidden, d.QDim(), d.FFN) }

// bandBytes is what one worker takes for the weights that it prepares.
func bandBytes(d *ir.Decoder, f footprint) (n int64) {
	if f.real {
		band := int64(max(bandNumbers, max(bandLeast, f.k.RightGroup())*widest(d)))
		n = 4 * band
		if f.decode {
			n += 4 * band
		}
	}
	if f.tile > 0 {
		n += max(shareBytes, bandTiles*f.tile)
	}
	return n
}

// workBytes is what workers take at most for a batch of t tokens, in a text of so many tokens.
func workBytes(d *ir.Decoder, f footprint, t, tokens, threads int) int64 {
	each := bandBytes(d, f) + 4*int64(attendNumbers(d.Heads, d.KVHeads, d.HeadDim, t))
	return each*int64(threads) + 4*int64(partNumbers(d, max(tokens, t), threads))
}

// walkWorkBytes is what workers take at most in a walk over texts of a length.
func walkWorkBytes(d *ir.Decoder, f footprint, length, threads int) int64 {
	scores := 4 * int64(min(scoreNumbers, min(queryTile, walkRows)*d.Heads/d.KVHeads*length))
	return (bandBytes(d, f) + scores) * int64(threads)
}

// cacheBytes is what keys and values of a number of tokens, computed in batches, take in all layers.
func cacheBytes(d *ir.Decoder, kv storage.Type, tokens, batch int) (sum int64) {
	for i := range d.Layers {
		c := cacheFor(d, i, kv)
		pages := (tokens + pageLen - 1) / pageLen
		if c.window > 0 { // what a batch sees and what it adds begin and end within pages
			pages = min(pages, (c.window+batch)/pageLen+2)
		}
		sum += int64(pages) * c.pageBytes()
	}
	return sum
}

// Demand is the least Options.Memory that Load and sessions of Options.Tokens take: with the smallest
// batch, with the pages of one block at a time, and with tiles that are made when they are used.
func Demand(m *ir.Model, opt Options) (int64, error) {
	if err := executable(m, &opt); err != nil {
		return 0, err
	}
	f, err := footprintOf(m, layout{k: kernels.For(opt.ISA), act: opt.Activations})
	if err != nil {
		return 0, err
	}
	opt.Memory = 1 // some limit
	return f.owned + f.part + heapBytes(m.Decoder, f, opt, leastBatch), nil
}

// heapBytes is what a runner holds beside weights: activations, workers, cache; or, before there are any
// of these, what it reads weights through.
func heapBytes(d *ir.Decoder, f footprint, opt Options, batch int) int64 {
	threads, tokens := opt.workers(), max(1, opt.Tokens)
	n := activationBytes(d, f, batch, opt.Memory > 0) + workBytes(d, f, batch, tokens, threads) + cacheBytes(d, opt.KV, tokens, batch)
	return max(n, f.buf*int64(threads))
}

// Usual is what sessions of Options.Tokens take where there is no limit, weights included that cannot
// be mapped or are kept in tiles.
func Usual(m *ir.Model, opt Options) (int64, error) {
	if err := executable(m, &opt); err != nil {
		return 0, err
	}
	f, err := footprintOf(m, layout{k: kernels.For(opt.ISA), act: opt.Activations, kept: true})
	if err != nil {
		return 0, err
	}
	opt.Memory = 0
	return f.owned + heapBytes(m.Decoder, f, opt, min(defaultBatch, max(opt.Tokens, 1))), nil
}

// WalkDemand is the least that a calibration walk over sequences of at most the given length takes,
// with all hidden states in files.
func WalkDemand(m *ir.Model, opt Options, length int) (int64, error) {
	if err := executable(m, &opt); err != nil {
		return 0, err
	}
	f, err := footprintOf(m, layout{k: kernels.For(opt.ISA), act: ActivationsF32})
	if err != nil {
		return 0, err
	}
	d := m.Decoder
	embedding := int64(0)
	if t := m.Role(ir.RoleEmbedding, -1); t != nil {
		own, file, err := sizeOf(t)
		if err != nil {
			return 0, err
		}
		embedding = own + file // before the first block, then it is given back
	}
	return max(embedding, f.block) + walkBytes(d, f, length) + walkWorkBytes(d, f, length, opt.workers()), nil
}

// walkBytes is what the buffers of a walk take: rows of states, and those on their way to and from
// files; and one layer's keys and values.
func walkBytes(d *ir.Decoder, f footprint, length int) int64 {
	rows := walkRows * int64(2*d.Hidden+d.QDim()+d.FFN)
	c := rowCache{heads: d.KVHeads, dim: d.HeadDim}
	return 4*(2*rows+bufferFloats(d, walkRows)) + inputBytes(d, f, walkRows) + int64((length+pageLen-1)/pageLen)*c.pageBytes()
}

// plan decides how weights are held and how many tokens are computed together: weights in tiles that
// stay where everything fits in the budget; the largest batch whose activations take at most a quarter
// of it. Results do not depend on either. Tiles take what encoded rows take, so that only those of mapped
// weights are in question.
func (r *Runner) plan(m *ir.Model) error {
	how := layout{k: kernels.For(r.opt.ISA), act: r.opt.Activations}
	lean, err := footprintOf(m, how)
	if err != nil {
		return err
	}
	how.kept = true
	kept, err := footprintOf(m, how)
	if err != nil {
		return err
	}
	r.weights = kept
	if r.batch = r.chooseBatch(); r.opt.Memory > 0 && heapBytes(r.d, kept, r.wished(), r.batch)+kept.owned+kept.mapped > r.opt.Memory {
		r.weights = lean
		r.batch = r.chooseBatch()
	}
	r.lean = lean
	return r.checkBudget(m)
}

// wished is the options with room for as long a session as there may be, where nobody has said how long
// it will be: what only saves time is not to take the place of a cache.
func (r *Runner) wished() Options {
	opt := r.opt
	if opt.Tokens <= 0 {
		opt.Tokens = opt.Context
	}
	return opt
}

// chooseBatch is the largest batch whose activations take at most a quarter of the budget, and with
// which everything fits.
func (r *Runner) chooseBatch() int {
	b := r.opt.Batch
	if b <= 0 {
		b = defaultBatch
	}
	if r.opt.Memory <= 0 {
		return b
	}
	rest := r.opt.Memory - r.weights.owned - r.weights.part
	for b > leastBatch && (activationBytes(r.d, r.weights, b, true) > r.opt.Memory/4 || heapBytes(r.d, r.weights, r.wished(), b) > rest) {
		b /= 2
	}
	return b
}

// checkBudget refuses a model that cannot run in opt.Memory, before anything large is allocated, and
// finds out whether its mapped weights fit as well.
func (r *Runner) checkBudget(m *ir.Model) error {
	if r.opt.Memory <= 0 {
		return nil
	}
	heap := heapBytes(r.d, r.weights, r.opt, r.batch)
	r.tight = heap+r.weights.owned+r.weights.mapped > r.opt.Memory
	total := heap + r.weights.owned + r.pages()
	if total <= r.opt.Memory {
		return nil
	}
	cache := cacheBytes(r.d, r.opt.KV, max(1, r.opt.Tokens), r.batch)
	return &fault.Error{
		File: m.Path, Op: "run", Err: fault.As(fault.ErrBudget, fmt.Errorf(
			"needs %s (weights %s, activations of %d tokens and workers %s, cache of %d tokens %s), the budget is %s",
			human.Bytes(total), human.Bytes(r.weights.owned+r.pages()), r.batch, human.Bytes(heap-cache), max(pageLen, r.opt.Tokens), human.Bytes(cache), human.Bytes(r.opt.Memory))),
		Hint: "raise --max-memory or use fewer threads",
	}
}

// pages is what mapped weights take at most at one time.
func (r *Runner) pages() int64 {
	if r.tight {
		return r.weights.part
	}
	return r.weights.mapped
}

// Spare is what the runner leaves of Options.Memory when its sessions hold Options.Tokens; without a
// limit it is as large as a number can be.
func (r *Runner) Spare() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opt.Memory <= 0 {
		return math.MaxInt64
	}
	return max(0, r.opt.Memory-heapBytes(r.d, r.weights, r.opt, r.batch)-r.weights.owned-r.pages())
}

// Held is about what an open model takes on the heap beside its weights: catalogue, assets, tokenizer.
func Held(m *ir.Model) int64 {
	const tensor, token = 4 << 10, 256
	n := tensor * int64(len(m.Tensors()))
	for _, b := range m.Assets {
		n += 3 * int64(len(b))
	}
	if m.Tokenizer != nil {
		n += token * int64(len(m.Tokenizer.Tokens))
	}
	return n
}
