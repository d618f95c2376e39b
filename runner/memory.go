package runner

import (
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// footprint is what the weights of a model take when they are executed, in bytes.
type footprint struct {
	owned  int64 // on the heap
	mapped int64 // pages of mapped files, once all have been touched
	part   int64 // the most of mapped that one step needs: a block, the output matrix
	block  int64 // the most that one block takes, on the heap and mapped
}

// footprintOf adds up a model's weights without reading them.
func footprintOf(m *ir.Model) (footprint, error) {
	var f footprint
	block, mapped := map[int]int64{}, map[int]int64{}
	for _, t := range m.Tensors() {
		if t.Role == ir.RoleUnknown {
			continue
		}
		own, file, err := sizeOf(t)
		if err != nil {
			return f, ir.Wrap(t, "run", err)
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
func activationBytes(d *ir.Decoder, t int, limited bool) int64 {
	return 4 * (bufferFloats(d, t) + int64(t)*int64(d.Hidden+d.QDim()+d.FFN) + int64(logitRows(d, t, limited))*int64(d.Vocab))
}

// workBytes is what workers take at most for a batch of t tokens, short of very long rows.
func workBytes(d *ir.Decoder, t, context, threads int) int64 {
	widest := max(d.Hidden, d.QDim(), d.FFN)
	each := max(bandNumbers, 16*widest) + attendNumbers(d.Heads, d.KVHeads, d.HeadDim, t)
	return 4 * (int64(each)*int64(threads) + int64(partNumbers(d, max(context, t), threads)))
}

// walkWorkBytes is what workers take at most in a walk over texts of a length.
func walkWorkBytes(d *ir.Decoder, length, threads int) int64 {
	widest := max(d.Hidden, d.QDim(), d.FFN)
	each := max(bandNumbers, 16*widest) + min(scoreNumbers, min(queryTile, walkRows)*d.Heads/d.KVHeads*length)
	return 4 * int64(each) * int64(threads)
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
// batch, and with the pages of one block at a time.
func Demand(m *ir.Model, opt Options) (int64, error) {
	if err := executable(m, &opt); err != nil {
		return 0, err
	}
	f, err := footprintOf(m)
	if err != nil {
		return 0, err
	}
	if opt.Context <= 0 {
		opt.Context = m.Decoder.Context
	}
	opt.Memory = 1 // some limit
	return f.owned + f.part + heapBytes(m.Decoder, opt, leastBatch), nil
}

// heapBytes is what a runner holds beside weights: activations, workers, cache.
func heapBytes(d *ir.Decoder, opt Options, batch int) int64 {
	return activationBytes(d, batch, opt.Memory > 0) + workBytes(d, batch, opt.Context, par.Threads(opt.Threads)) + cacheBytes(d, opt.KV, max(1, opt.Tokens), batch)
}

// Usual is what sessions of Options.Tokens take on the heap where there is no limit, weights included
// that cannot be mapped.
func Usual(m *ir.Model, opt Options) (int64, error) {
	if err := executable(m, &opt); err != nil {
		return 0, err
	}
	f, err := footprintOf(m)
	if err != nil {
		return 0, err
	}
	opt.Memory = 0
	return f.owned + heapBytes(m.Decoder, opt, min(defaultBatch, max(opt.Tokens, 1))), nil
}

// WalkDemand is the least that a calibration walk over sequences of at most the given length takes,
// with all hidden states in files.
func WalkDemand(m *ir.Model, opt Options, length int) (int64, error) {
	if err := executable(m, &opt); err != nil {
		return 0, err
	}
	f, err := footprintOf(m)
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
	return max(embedding, f.block) + walkBytes(d, length) + walkWorkBytes(d, length, par.Threads(opt.Threads)), nil
}

// walkBytes is what the buffers of a walk take: rows of states, and those on their way to and from
// files; and one layer's keys and values.
func walkBytes(d *ir.Decoder, length int) int64 {
	rows := walkRows * int64(2*d.Hidden+d.QDim()+d.FFN)
	c := rowCache{heads: d.KVHeads, dim: d.HeadDim}
	return 4*(2*rows+bufferFloats(d, walkRows)) + int64((length+pageLen-1)/pageLen)*c.pageBytes()
}

// chooseBatch is the largest batch whose activations take at most a quarter of the budget, and with
// which everything fits. Results do not depend on it.
func (r *Runner) chooseBatch() int {
	b := r.opt.Batch
	if b <= 0 {
		b = defaultBatch
	}
	if r.opt.Memory <= 0 {
		return b
	}
	rest := r.opt.Memory - r.weights.owned - r.weights.part
	for b > leastBatch && (activationBytes(r.d, b, true) > r.opt.Memory/4 || heapBytes(r.d, r.opt, b) > rest) {
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
	heap := heapBytes(r.d, r.opt, r.batch)
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
	if r.opt.Memory <= 0 {
		return math.MaxInt64
	}
	return max(0, r.opt.Memory-heapBytes(r.d, r.opt, r.batch)-r.weights.owned-r.pages())
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
