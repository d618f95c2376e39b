package runner

import (
	"context"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// handles are the tensors of a block that a stage's result depends on, in a fixed order, nil where
// the model has none; those of later stages follow those of earlier ones.
type handles []*ir.Tensor

var (
	attnRoles = []ir.Role{
		ir.RoleAttnNorm, ir.RoleAttnQ, ir.RoleAttnQBias, ir.RoleAttnK, ir.RoleAttnKBias,
		ir.RoleAttnV, ir.RoleAttnVBias, ir.RoleAttnQNorm, ir.RoleAttnKNorm,
	}
	midRoles = []ir.Role{ir.RoleAttnO, ir.RoleAttnOBias}
	ffnRoles = []ir.Role{ir.RoleMLPNorm, ir.RoleMLPGate, ir.RoleMLPGateBias, ir.RoleMLPUp, ir.RoleMLPUpBias}
	outRoles = []ir.Role{ir.RoleMLPDown, ir.RoleMLPDownBias}
)

func (h handles) attn() []*ir.Tensor { return h[:len(attnRoles)] }
func (h handles) mid() []*ir.Tensor  { return h[:len(attnRoles)+len(midRoles)] }
func (h handles) ffn() []*ir.Tensor  { return h[:len(attnRoles)+len(midRoles)+len(ffnRoles)] }

// drop gives the pages of mapped files behind the block's weights back.
func (h handles) drop() {
	for _, t := range h {
		if t == nil {
			continue
		}
		if m, ok := t.Data.(ir.Mapped); ok {
			m.DropRaw(ir.PartData, 0, t.Rows())
		}
	}
}

// handles lists the tensors of the current block as the model has them now, and all by their roles.
func (w *walk) handles() (index, handles) {
	x := indexOf(w.m)
	var h handles
	for _, r := range slices.Concat(attnRoles, midRoles, ffnRoles, outRoles) {
		h = append(h, x[indexKey{r, w.block}])
	}
	return x, h
}

// load prepares those weights of the current block that roles name, and no others: a handle may
// stand for work, such as the encoding of the whole tensor, that is thrown away when a method is
// about to replace it. Nothing is kept for the next stage, which needs other weights.
func (w *walk) load(ctx context.Context, x index, roles ...ir.Role) (*block, error) {
	b := &block{}
	for _, n := range blockNorms(b) {
		if !slices.Contains(roles, n.role) {
			continue
		}
		var err error
		if *n.dst, err = x.vector(ctx, n.role, w.block); err != nil {
			return nil, err
		}
	}
	for _, n := range blockLinears(b) {
		if !slices.Contains(roles, n.weight) {
			continue
		}
		var err error
		if *n.dst, err = x.linear(ctx, w.loader(), n.weight, n.bias, w.block); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// runAttention makes w.work the input of the output projection for all sequences.
func (w *walk) runAttention(ctx context.Context, all index, h handles) error {
	if slices.Equal(w.attn, h.attn()) {
		return nil
	}
	b, err := w.load(ctx, all, attnRoles...)
	if err != nil {
		return err
	}
	d := w.m.Decoder
	if err := w.room(d.QDim()); err != nil {
		return err
	}
	base := 0
	for _, n := range w.lengths {
		for lo := 0; lo < n; lo += walkRows {
			if err := ctx.Err(); err != nil {
				return err
			}
			t := min(walkRows, n-lo)
			x, err := w.x.read(&w.xs, base+lo, base+lo+t)
			if err != nil {
				return err
			}
			out := need(&w.as, t*d.QDim())
			w.e.place(lo, t)
			w.attend(b, kernels.View(out, t, d.QDim()), kernels.View(x, t, d.Hidden), lo)
			if err := w.work.write(base+lo, out); err != nil {
				return err
			}
		}
		base += n
	}
	w.attn = slices.Clone(h.attn())
	return nil
}

// runMid moves the residual stream behind the attention. What was computed on the way is given up
// with that: there is no second copy of the stream to go back to.
func (w *walk) runMid(ctx context.Context, all index, h handles) error {
	if w.mid != nil {
		if !slices.Equal(w.mid, h.mid()) {
			return w.passed("attention with other weights")
		}
		return nil
	}
	if err := w.runAttention(ctx, all, h); err != nil {
		return err
	}
	b, err := w.load(ctx, all, midRoles...)
	if err != nil {
		return err
	}
	d := w.m.Decoder
	err = w.change(ctx, func(x []float32, lo, hi int) error {
		attn, err := w.work.read(&w.as, lo, hi)
		if err != nil {
			return err
		}
		w.e.multiply(kernels.View(attn, hi-lo, d.QDim()), product{w: b.o, dst: kernels.View(x, hi-lo, d.Hidden), add: true})
		return nil
	})
	if err != nil {
		return err
	}
	w.mid = slices.Clone(h.mid())
	return nil
}

// runExpand makes w.work the input of the down projection.
func (w *walk) runExpand(ctx context.Context, all index, h handles) error {
	if err := w.runMid(ctx, all, h); err != nil || slices.Equal(w.ffn, h.ffn()) {
		return err
	}
	b, err := w.load(ctx, all, ffnRoles...)
	if err != nil {
		return err
	}
	d := w.m.Decoder
	if err := w.room(d.FFN); err != nil {
		return err
	}
	for lo := 0; lo < w.tokens; lo += walkRows {
		if err := ctx.Err(); err != nil {
			return err
		}
		hi := min(w.tokens, lo+walkRows)
		x, err := w.x.read(&w.xs, lo, hi)
		if err != nil {
			return err
		}
		out := need(&w.fs, (hi-lo)*d.FFN)
		w.e.expand(b, &w.buf, kernels.View(out, hi-lo, d.FFN), kernels.View(x, hi-lo, d.Hidden))
		if err := w.work.write(lo, out); err != nil {
			return err
		}
	}
	w.ffn = slices.Clone(h.ffn())
	return nil
}

// room makes w.work a matrix of cols columns, whatever it held; it is as large as a block ever needs
// from the first use on.
func (w *walk) room(cols int) error {
	w.attn, w.ffn = nil, nil
	if w.work == nil {
		m, err := w.newStates(max(w.m.Decoder.QDim(), w.m.Decoder.FFN))
		if err != nil {
			return err
		}
		w.work = m
	}
	w.work.cols = cols
	return nil
}
