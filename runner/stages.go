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

// load gives the weights of the current block as the model's handles are now. Weights whose handle
// is still the same are kept, all others are dropped.
func (w *walk) load(ctx context.Context) (*block, handles, error) {
	var h handles
	all := indexOf(w.m)
	for _, r := range slices.Concat(attnRoles, midRoles, ffnRoles, outRoles) {
		h = append(h, all[indexKey{r, w.block}])
	}
	keptWeights, keptVectors := map[*ir.Tensor]*linear{}, map[*ir.Tensor][]float32{}
	for _, t := range h {
		if l := w.weights[t]; l != nil {
			keptWeights[t] = l
		}
		if v := w.vectors[t]; v != nil {
			keptVectors[t] = v
		}
	}
	w.weights, w.vectors = keptWeights, keptVectors
	b := &block{}
	for _, n := range blockNorms(b) {
		t := all[indexKey{n.role, w.block}]
		if t == nil {
			continue
		}
		if w.vectors[t] == nil {
			v, err := loadVector(ctx, t)
			if err != nil {
				return nil, nil, err
			}
			w.vectors[t] = v
		}
		*n.dst = w.vectors[t]
	}
	for _, n := range blockLinears(b) {
		t, bias := all[indexKey{n.weight, w.block}], all[indexKey{n.bias, w.block}]
		if t == nil || w.weights[t] == nil {
			l, err := all.linear(ctx, w.e.k, n.weight, ir.RoleUnknown, w.block)
			if err != nil {
				return nil, nil, err
			}
			w.weights[t] = l
		}
		l := *w.weights[t]
		if bias != nil {
			if w.vectors[bias] == nil {
				v, err := loadVector(ctx, bias)
				if err != nil {
					return nil, nil, err
				}
				w.vectors[bias] = v
			}
			l.bias = w.vectors[bias]
		}
		*n.dst = &l
	}
	return b, h, nil
}

// runAttention brings w.attn up to date: the input of the output projection for all sequences.
func (w *walk) runAttention(ctx context.Context, b *block, h handles) error {
	if slices.Equal(w.attn.from, h.attn()) {
		return nil
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
func (w *walk) runMid(ctx context.Context, b *block, h handles) error {
	if err := w.runAttention(ctx, b, h); err != nil || slices.Equal(w.mid.from, h.mid()) {
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
func (w *walk) runExpand(ctx context.Context, b *block, h handles, width int) error {
	if err := w.runMid(ctx, b, h); err != nil || slices.Equal(w.ffn.from, h.ffn()) {
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
