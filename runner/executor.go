package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// walkRows is how many tokens the row-wise steps of a walk take at a time, and how many rows Inputs
// hands over at most.
const walkRows = 512

// walkMemory is what a walk's hidden states may take when no budget is given.
const walkMemory = 2 << 30

// Executor runs models block by block for methods that need activations.
type Executor struct{ opt Options }

// NewExecutor makes an executor. Of the options it uses Threads, Pool, ISA, Memory (at most half of it for
// hidden states) and Work.
func NewExecutor(opt Options) *Executor { return &Executor{opt} }

var _ ir.Executor = (*Executor)(nil)

// walk stands before one block, or inside it: behind its attention, when a later stage was asked
// for. It keeps the result of the last stage and the handles it was computed from, so that a block
// costs about one forward pass even when a method asks for all four stages, and a stage is computed
// again exactly when a weight before it was replaced. No more than the residual stream and one such
// result is ever held.
type walk struct {
	opt     Options
	e       *engine
	m       *ir.Model
	lengths []int
	tokens  int
	block   int
	broken  error // set when the hidden states are neither those before nor after a block

	spare  int64        // bytes of hidden states that may still be kept in memory
	x      *states      // [tokens, Hidden] residual stream before the block, or behind its attention
	kept   *states      // x as it was before the block that Mark was asked for in
	marked int          // that block
	mid    []*ir.Tensor // what x was computed from when it is behind the attention; nil before
	work   *states      // what the second or fourth stage reads, or nothing
	attn   []*ir.Tensor // what work was computed from when it holds the second stage's; nil otherwise
	ffn    []*ir.Tensor // the same of the fourth stage

	cache  rowCache
	buf    buffers
	xs, as []float32 // scratch for rows of states
	fs, ns []float32
}

// Start embeds the sequences. See ir.Executor.
func (x *Executor) Start(ctx context.Context, m *ir.Model, sequences [][]int32) (ir.Walk, error) {
	opt := x.opt
	if err := executable(m, &opt); err != nil {
		return nil, err
	}
	w := &walk{opt: opt, m: m, spare: walkMemory}
	for _, s := range sequences {
		for i, id := range s {
			if id < 0 || int(id) >= m.Decoder.Vocab {
				return nil, &fault.Error{Op: "run", Err: fmt.Errorf("%w: %d at position %d, the vocabulary has %d", ErrToken, id, i, m.Decoder.Vocab)}
			}
		}
		w.lengths = append(w.lengths, len(s))
		w.tokens += len(s)
	}
	if w.tokens == 0 {
		return nil, &fault.Error{Op: "run", Err: errors.New("no calibration tokens")}
	}
	if opt.Memory > 0 {
		need, err := WalkDemand(m, opt, slices.Max(w.lengths))
		if err != nil {
			return nil, err
		}
		w.spare = max(0, min(opt.Memory/2, opt.Memory-need))
	}
	w.e = newEngine(opt, m.Decoder)
	w.cache = rowCache{heads: m.Decoder.KVHeads, dim: m.Decoder.HeadDim}
	if err := w.embed(ctx, sequences); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *walk) embed(ctx context.Context, sequences [][]int32) error {
	d := w.m.Decoder
	embedding, err := indexOf(w.m).find(ir.RoleEmbedding, -1)
	if err != nil {
		return err
	}
	table, err := w.loader().linear(ctx, embedding, nil, true)
	if err != nil {
		return err
	}
	if w.opt.Memory > 0 {
		defer table.drop()
	}
	if w.x, err = w.newStates(d.Hidden); err != nil {
		return err
	}
	at := 0
	for _, s := range sequences {
		for lo := 0; lo < len(s); lo += walkRows {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := s[lo:min(len(s), lo+walkRows)]
			x := need(&w.xs, len(part)*d.Hidden)
			for i, id := range part {
				table.lookup(x[i*d.Hidden:][:d.Hidden], int(id))
			}
			if err := w.x.write(at, x); err != nil {
				return err
			}
			at += len(part)
		}
	}
	return nil
}

// loader prepares weights for real inputs: what methods learn from a walk does not depend on how a
// runtime rounds.
func (w *walk) loader() *loader { return newLoader(w.e, ActivationsF32) }

// newStates makes a matrix with a row for every token, in memory as long as the budget lasts.
func (w *walk) newStates(cols int) (*states, error) {
	size := int64(w.tokens) * int64(cols) * 4
	spill := size > w.spare
	if !spill {
		w.spare -= size
	}
	return newStates(w.tokens, cols, spill, w.opt.Work)
}

// Block is the index of the current block.
func (w *walk) Block() int { return w.block }

// Close stops the workers and removes spilled states.
func (w *walk) Close() error {
	if w.e != nil {
		w.e.close()
		w.e = nil
	}
	w.broken = errors.New("the walk is closed")
	return errors.Join(w.x.close(), w.work.close(), w.kept.close())
}

// ready reports why the walk cannot go on, if so.
func (w *walk) ready(needBlock bool) error {
	if w.broken != nil {
		return w.broken
	}
	if layers := w.m.Decoder.Layers; needBlock != (w.block < layers) {
		return fmt.Errorf("the walk stands at block %d of %d", w.block, layers)
	}
	return nil
}

// Inputs hands over the input of a stage. See ir.Walk.
func (w *walk) Inputs(ctx context.Context, stage ir.Stage, fn func(x []float32, rows, cols int) error) error {
	if err := w.ready(true); err != nil {
		return err
	}
	all, h := w.handles()
	switch stage.Name {
	case "qkv":
		if w.mid != nil {
			return w.passed("stage " + stage.Name)
		}
		gain, err := all.vector(ctx, ir.RoleAttnNorm, w.block)
		if err != nil {
			return err
		}
		return w.stream(ctx, w.x, gain, fn)
	case "o":
		if w.mid != nil {
			return w.passed("stage " + stage.Name)
		}
		if err := w.runAttention(ctx, all, h); err != nil {
			return err
		}
		return w.stream(ctx, w.work, nil, fn)
	case "gate_up":
		if err := w.runMid(ctx, all, h); err != nil {
			return err
		}
		gain, err := all.vector(ctx, ir.RoleMLPNorm, w.block)
		if err != nil {
			return err
		}
		return w.stream(ctx, w.x, gain, fn)
	case "down":
		if err := w.runExpand(ctx, all, h); err != nil {
			return err
		}
		return w.stream(ctx, w.work, nil, fn)
	}
	return fmt.Errorf("stage %q is not one of a decoder block", stage.Name)
}

// passed is the reason when the walk would have to go back.
func (w *walk) passed(what string) error {
	return fmt.Errorf("block %d: %s is asked for when the walk has passed it", w.block, what)
}

// Mark keeps the position before the current block. See ir.Walk.
func (w *walk) Mark(ctx context.Context) (err error) {
	if err := w.ready(true); err != nil {
		return err
	}
	if w.mid != nil {
		return w.passed("its beginning")
	}
	if w.kept == nil {
		if w.kept, err = w.newStates(w.m.Decoder.Hidden); err != nil {
			return err
		}
	}
	w.marked = w.block
	return w.copyStates(ctx, w.kept, w.x)
}

// Back returns to it. See ir.Walk.
func (w *walk) Back(ctx context.Context) error {
	if err := w.ready(true); err != nil {
		return err
	}
	if w.kept == nil || w.marked != w.block {
		return fmt.Errorf("block %d: its beginning was not kept", w.block)
	}
	w.mid, w.attn, w.ffn = nil, nil, nil
	return w.copyStates(ctx, w.x, w.kept)
}

// copyStates copies a row for every token.
func (w *walk) copyStates(ctx context.Context, to, from *states) error {
	for lo := 0; lo < w.tokens; lo += walkRows {
		if err := ctx.Err(); err != nil {
			return err
		}
		x, err := from.read(&w.xs, lo, min(w.tokens, lo+walkRows))
		if err != nil {
			return err
		}
		if err := to.write(lo, x); err != nil {
			return err
		}
	}
	return nil
}

// Next runs the current block and moves on. See ir.Walk.
func (w *walk) Next(ctx context.Context) error {
	if err := w.ready(true); err != nil {
		return err
	}
	all, h := w.handles()
	if err := w.runMid(ctx, all, h); err != nil {
		return err
	}
	done := slices.Equal(w.ffn, h.ffn())
	roles := outRoles
	if !done {
		roles = slices.Concat(ffnRoles, outRoles)
	}
	b, err := w.load(ctx, all, roles...)
	if err != nil {
		return err
	}
	d := w.m.Decoder
	err = w.change(ctx, func(x []float32, lo, hi int) error {
		t := hi - lo
		var ffn []float32
		if done {
			if ffn, err = w.work.read(&w.fs, lo, hi); err != nil {
				return err
			}
		} else {
			ffn = need(&w.fs, t*d.FFN)
			w.e.expand(b, &w.buf, kernels.View(ffn, t, d.FFN), kernels.View(x, t, d.Hidden))
		}
		w.e.multiply(kernels.View(ffn, t, d.FFN), product{w: b.down, dst: kernels.View(x, t, d.Hidden), add: true})
		return nil
	})
	if err != nil {
		return err
	}
	if w.opt.Memory > 0 {
		h.drop()
	}
	w.block++
	w.mid, w.attn, w.ffn = nil, nil, nil
	return nil
}

// change replaces the residual stream, some rows at a time.
func (w *walk) change(ctx context.Context, fn func(x []float32, lo, hi int) error) error {
	for lo := 0; lo < w.tokens; lo += walkRows {
		hi := min(w.tokens, lo+walkRows)
		err := ctx.Err()
		if err == nil {
			err = w.changeRows(lo, hi, fn)
		}
		if err != nil {
			return w.fail(lo, err)
		}
	}
	return nil
}

func (w *walk) changeRows(lo, hi int, fn func(x []float32, lo, hi int) error) error {
	x, err := w.x.read(&w.xs, lo, hi)
	if err != nil {
		return err
	}
	if err := fn(x, lo, hi); err != nil {
		return err
	}
	return w.x.write(lo, x)
}

// fail marks the walk unusable when some of the hidden states were already replaced.
func (w *walk) fail(done int, err error) error {
	if done > 0 {
		w.broken = fmt.Errorf("the walk stopped inside block %d: %w", w.block, err)
	}
	return err
}

// Head hands over the input of the output matrix. See ir.Walk.
func (w *walk) Head(ctx context.Context, fn func(x []float32, rows, cols int) error) error {
	if err := w.ready(false); err != nil {
		return err
	}
	norm, err := indexOf(w.m).vector(ctx, ir.RoleFinalNorm, -1)
	if err != nil {
		return err
	}
	return w.stream(ctx, w.x, norm, fn)
}

// Hidden hands over the residual stream. See ir.Walk.
func (w *walk) Hidden(ctx context.Context, fn func(x []float32, rows, cols int) error) error {
	switch {
	case w.broken != nil:
		return w.broken
	case w.mid != nil:
		return w.passed("the residual stream before it")
	}
	return w.stream(ctx, w.x, nil, fn)
}

// stream hands over states, through a norm when gain is not nil.
func (w *walk) stream(ctx context.Context, s *states, gain []float32, fn func(x []float32, rows, cols int) error) error {
	for lo := 0; lo < w.tokens; lo += walkRows {
		if err := ctx.Err(); err != nil {
			return err
		}
		hi := min(w.tokens, lo+walkRows)
		x, err := s.read(&w.xs, lo, hi)
		if err != nil {
			return err
		}
		// The receiver gets a copy, or it could change states that later stages read.
		out := need(&w.ns, len(x))
		if gain != nil {
			w.e.norm(kernels.View(out, hi-lo, s.cols), kernels.View(x, hi-lo, s.cols), gain)
		} else {
			copy(out, x)
		}
		if err := fn(out, hi-lo, s.cols); err != nil {
			return err
		}
	}
	return nil
}
