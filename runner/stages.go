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
		if *n.dst, err = x.linear(ctx, w.e.k, n.weight, n.bias, w.block); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// runAttention brings w.attn up to date: the input of the output projection for all sequences.
func (w *walk) runAttention(ctx context.Context, all index, h handles) error {
	if slices.Equal(w.attn.from, h.attn()) {
		return nil
	}
	b, err := w.load(ctx, all, attnRoles...)
	if err != nil {
		return err
	}
	d := w.m.Decoder
	if err := w.room(&w.attn, d.QDim()); err != nil {
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
			w.e.attention(b, w.block, &w.cache, &w.buf, kernels.View(out, t, d.QDim()), kernels.View(x, t, d.Hidden), lo)
			if err := w.attn.write(base+lo, out); err != nil {
				return err
			}
		}
		base += n
	}
	w.attn.from = slices.Clone(h.attn())
	return nil
}

// runMid brings w.mid up to date: the residual stream after attention.
func (w *walk) runMid(ctx context.Context, all index, h handles) error {
	if err := w.runAttention(ctx, all, h); err != nil || slices.Equal(w.mid.from, h.mid()) {
		return err
	}
	b, err := w.load(ctx, all, midRoles...)
	if err != nil {
		return err
	}
	d := w.m.Decoder
	if err := w.room(&w.mid, d.Hidden); err != nil {
		return err
	}
	for lo := 0; lo < w.tokens; lo += walkRows {
		if err := ctx.Err(); err != nil {
			return err
		}
		hi := min(w.tokens, lo+walkRows)
		x := need(&w.xs, (hi-lo)*d.Hidden)
		if err := w.midRows(b, x, lo, hi, false); err != nil {
			return err
		}
		if err := w.mid.write(lo, x); err != nil {
			return err
		}
	}
	w.mid.from = slices.Clone(h.mid())
	return nil
}

// midRows writes the residual stream after attention of tokens [lo,hi) to dst; done says that it is
// stored. The attention of these tokens is up to date.
func (w *walk) midRows(b *block, dst []float32, lo, hi int, done bool) error {
	d := w.m.Decoder
	src := w.x
	if done {
		src = w.mid.states
	}
	x, err := src.read(&w.ns, lo, hi)
	if err != nil {
		return err
	}
	copy(dst, x)
	if done {
		return nil
	}
	attn, err := w.attn.read(&w.as, lo, hi)
	if err != nil {
		return err
	}
	w.e.matmul(kernels.View(attn, hi-lo, d.QDim()), nil, product{w: b.o, dst: kernels.View(dst, hi-lo, d.Hidden), add: true})
	return nil
}

// runExpand brings w.ffn up to date: the input of the down projection.
func (w *walk) runExpand(ctx context.Context, all index, h handles, width int) error {
	if err := w.runMid(ctx, all, h); err != nil || slices.Equal(w.ffn.from, h.ffn()) {
		return err
	}
	b, err := w.load(ctx, all, ffnRoles...)
	if err != nil {
		return err
	}
	if err := w.room(&w.ffn, width); err != nil {
		return err
	}
	for lo := 0; lo < w.tokens; lo += walkRows {
		if err := ctx.Err(); err != nil {
			return err
		}
		hi := min(w.tokens, lo+walkRows)
		x, err := w.mid.read(&w.xs, lo, hi)
		if err != nil {
			return err
		}
		out := need(&w.fs, (hi-lo)*width)
		w.e.expand(b, &w.buf, kernels.View(out, hi-lo, width), kernels.View(x, hi-lo, w.m.Decoder.Hidden))
		if err := w.ffn.write(lo, out); err != nil {
			return err
		}
	}
	w.ffn.from = slices.Clone(h.ffn())
	return nil
}

// room makes the matrix of a stage at its first use, and marks what it holds as stale.
func (w *walk) room(s *stageStates, cols int) error {
	s.from = nil
	if s.states != nil {
		return nil
	}
	m, err := w.newStates(cols)
	s.states = m
	return err
}
