package distill

import (
	"context"

	"github.com/pare-dev/pare/internal/kernels"
)

// grads are gradients of what acts holds, for one block at a time.
type grads[T number] struct {
	norm, prod, gate, up, attn, q, k, v []T
}

// Backward takes the gradient of the loss by the hidden states that Forward gave for the same sequences
// and adds the gradients of all parameters that have room for them. dx is overwritten. inject, when not
// nil, may add to the gradient of a block's output before the block is gone through.
func (n *Net[T]) Backward(ctx context.Context, seqs [][]int32, dx kernels.Dense[T], inject func(block int, dx kernels.Dense[T])) error {
	length := len(seqs[0])
	for i := len(n.blocks) - 1; i >= 0; i-- {
		b := n.blocks[i]
		if inject != nil {
			inject(i, dx)
		}
		a := b.acts
		if a == nil {
			a = &n.shared
			if err := n.block(ctx, b, a, kernels.View(b.output, dx.Rows, dx.Cols), kernels.View(b.input, dx.Rows, dx.Cols), length); err != nil {
				return err
			}
		}
		if err := n.blockBack(ctx, b, a, dx, length); err != nil {
			return err
		}
	}
	if g := n.embedding.Grad; g != nil {
		for i, s := range seqs {
			for j, id := range s {
				add(n.k, g[int(id)*n.d.Hidden:][:n.d.Hidden], dx.Row(i*length+j))
			}
		}
	}
	return nil
}

// blockBack turns the gradient of a block's output into that of its input, in place.
func (n *Net[T]) blockBack(ctx context.Context, b *block[T], a *acts[T], dx kernels.Dense[T], length int) error {
	d, t, g := n.d, dx.Rows, &n.grads
	view := func(buf *[]T, cols int) kernels.Dense[T] { return kernels.View(need(buf, t*cols), t, cols) }
	old := func(x []T, cols int) kernels.Dense[T] { return kernels.View(x, t, cols) }
	dprod, dgate, dup := view(&g.prod, d.FFN), view(&g.gate, d.FFN), view(&g.up, d.FFN)
	dnorm, dattn := view(&g.norm, d.Hidden), view(&g.attn, d.QDim())
	dq, dk, dv := view(&g.q, d.QDim()), view(&g.k, d.KVDim()), view(&g.v, d.KVDim())
	var err error
	do := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	rows := func(fn func(lo, hi int)) { do(func() error { return n.rows(ctx, t, fn) }) }

	// out = mid + down(silu(gate) up)
	do(func() error { return b.down.backward(ctx, n, dprod, dx, old(a.prod, d.FFN), a.low[6], false) })
	rows(func(lo, hi int) {
		lo, hi = lo*d.FFN, hi*d.FFN
		gate, up, sig := a.gate[lo:hi], a.up[lo:hi], a.sig[lo:hi]
		dp, dg, du := dprod.Data[lo:hi], dgate.Data[lo:hi], dup.Data[lo:hi]
		for i, v := range dp {
			s, x := sig[i], gate[i]
			du[i] = v * x * s
			dg[i] = v * up[i] * s * (1 + T(x*(1-s)))
		}
	})
	do(func() error { return b.gate.backward(ctx, n, dnorm, dgate, old(a.norm2, d.Hidden), a.low[4], false) })
	do(func() error { return b.up.backward(ctx, n, dnorm, dup, old(a.norm2, d.Hidden), a.low[5], true) })
	n.normBack(ctx, do, dx, dnorm, old(a.mid, d.Hidden), b.mlpNorm, a.r2)

	// mid = x + o(attention)
	do(func() error { return b.o.backward(ctx, n, dattn, dx, old(a.attn, d.QDim()), a.low[3], false) })
	rows(func(lo, hi int) {
		clear(dk.Data[lo*d.KVDim() : hi*d.KVDim()])
		clear(dv.Data[lo*d.KVDim() : hi*d.KVDim()])
	})
	do(func() error {
		return n.attend(ctx, t, length, b.window, func(h *heads[T], s *headScratch[T], at func(kernels.Dense[T], int) kernels.Dense[T]) {
			h.backward(at(dq, h.group), at(dk, 1), at(dv, 1), at(dattn, h.group), at(old(a.q, d.QDim()), h.group), at(old(a.k, d.KVDim()), 1), at(old(a.v, d.KVDim()), 1), s)
		})
	})
	rows(func(lo, hi int) {
		for i := lo; i < hi; i++ {
			n.angles.rotate(dq.Row(i), i%length, true)
			n.angles.rotate(dk.Row(i), i%length, true)
		}
	})
	if b.qNorm != nil {
		n.headsBack(ctx, do, dq, a.qRaw, a.rq, b.qNorm)
		n.headsBack(ctx, do, dk, a.kRaw, a.rk, b.kNorm)
	}
	norm1 := old(a.norm1, d.Hidden)
	do(func() error { return b.q.backward(ctx, n, dnorm, dq, norm1, a.low[0], false) })
	do(func() error { return b.k.backward(ctx, n, dnorm, dk, norm1, a.low[1], true) })
	do(func() error { return b.v.backward(ctx, n, dnorm, dv, norm1, a.low[2], true) })
	n.normBack(ctx, do, dx, dnorm, old(b.input, d.Hidden), b.attnNorm, a.r1)
	return err
}

// normBack adds to dx what the gradient dy of a norm's output gives, and the gradient of its gains.
func (n *Net[T]) normBack(ctx context.Context, do func(func() error), dx, dy, x kernels.Dense[T], gain *Param[T], r []T) {
	do(func() error {
		return n.rows(ctx, x.Rows, func(lo, hi int) {
			rmsNormBack(dx.Slice(lo, hi, 0, dx.Cols), dy.Slice(lo, hi, 0, dx.Cols), x.Slice(lo, hi, 0, dx.Cols), gain.W, r[lo:hi])
		})
	})
	n.gainBack(ctx, do, dy, x, gain, r)
}

func (n *Net[T]) gainBack(ctx context.Context, do func(func() error), dy, x kernels.Dense[T], gain *Param[T], r []T) {
	if gain.Grad != nil {
		do(func() error {
			return n.rows(ctx, x.Cols, func(lo, hi int) { rmsNormGain(gain.Grad, dy, x, r, lo, hi) })
		})
	}
}

// headsBack goes back through the norm of every head, in place.
func (n *Net[T]) headsBack(ctx context.Context, do func(func() error), dy kernels.Dense[T], raw, r []T, gain *Param[T]) {
	dim := len(gain.W)
	per := dy.Cols / dim
	n.gainBack(ctx, do, byHead(dy.Data, dy.Cols, dim, 0, dy.Rows), byHead(raw, dy.Cols, dim, 0, dy.Rows), gain, r)
	do(func() error {
		return n.rows(ctx, dy.Rows, func(lo, hi int) {
			dx := make([]T, (hi-lo)*dy.Cols)
			rmsNormBack(kernels.View(dx, (hi-lo)*per, dim), byHead(dy.Data, dy.Cols, dim, lo, hi), byHead(raw, dy.Cols, dim, lo, hi), gain.W, r[lo*per:hi*per])
			copy(dy.Data[lo*dy.Cols:hi*dy.Cols], dx)
		})
	})
}
