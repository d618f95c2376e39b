package distill

import (
	"context"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// Param is one tensor of a network: a matrix [Rows,Cols], or a vector as one row.
type Param[T number] struct {
	Name       string
	Role       ir.Role // empty for what was put beside the model's own
	Block      int     // -1 outside the blocks
	Rows, Cols int
	W          []T     // nil when it is frozen
	Grad       []T     // nil: it is not trained
	frozen     *frozen // the values as they are stored, nil when W holds them
	used       []T     // what products use in place of W, nil for W itself: its values as they will be stored
}

func (p *Param[T]) matrix() kernels.Dense[T] {
	if p.used != nil {
		return kernels.View(p.used, p.Rows, p.Cols)
	}
	return kernels.View(p.W, p.Rows, p.Cols)
}

// gemm is a product on this thread.
func gemm[T number](k *kernels.Set, form kernels.Form, dst, a, b kernels.Dense[T], add bool) {
	// only the context could make it fail
	_ = kernels.Gemm(context.Background(), k, 1, form, dst, a, b, add)
}

// linear is y = x W^T + b, beside it the low-rank change (x A^T) B^T Scale when there is one.
type linear[T number] struct {
	w, bias *Param[T]
	a, b    *Param[T] // [rank,in] and [out,rank]; nil without
	scale   T
}

// forward computes y [n,out] of x [n,in]; low keeps x A^T [n,rank] for the way back.
func (l *linear[T]) forward(ctx context.Context, n *Net[T], y, x kernels.Dense[T], low []T) error {
	w, err := n.weight(ctx, l.w)
	if err != nil {
		return err
	}
	if err := kernels.Gemm(ctx, n.k, n.threads, kernels.NT, y, x, w, false); err != nil {
		return err
	}
	if l.a != nil {
		xa := kernels.View(low, x.Rows, l.a.Rows)
		if err := kernels.Gemm(ctx, n.k, n.threads, kernels.NT, xa, x, l.a.matrix(), false); err != nil {
			return err
		}
		for i := range xa.Data[:xa.Rows*xa.Cols] {
			xa.Data[i] *= l.scale
		}
		if err := kernels.Gemm(ctx, n.k, n.threads, kernels.NT, y, xa, l.b.matrix(), true); err != nil {
			return err
		}
	}
	if l.bias != nil {
		for i := range y.Rows {
			add(n.k, y.Row(i), l.bias.W)
		}
	}
	return nil
}

// backward adds the gradients of the parameters and, when dx has room, of the input: dx = dy W, or
// dx += dy W.
func (l *linear[T]) backward(ctx context.Context, n *Net[T], dx, dy, x kernels.Dense[T], low []T, more bool) error {
	product := func(form kernels.Form, dst, a, b kernels.Dense[T], add bool) error {
		return kernels.Gemm(ctx, n.k, n.threads, form, dst, a, b, add)
	}
	if g := l.w.Grad; g != nil {
		if err := product(kernels.TN, kernels.View(g, l.w.Rows, l.w.Cols), dy, x, true); err != nil {
			return err
		}
	}
	if l.bias != nil && l.bias.Grad != nil {
		sum := make([]float64, l.bias.Cols)
		for i := range dy.Rows {
			for j, v := range dy.Row(i) {
				sum[j] += float64(v)
			}
		}
		for j, v := range sum {
			l.bias.Grad[j] += T(v)
		}
	}
	if dx.Rows > 0 {
		w, err := n.weight(ctx, l.w)
		if err != nil {
			return err
		}
		if err := product(kernels.NN, dx, dy, w, more); err != nil {
			return err
		}
	}
	if l.a == nil {
		return nil
	}
	xa := kernels.View(low, x.Rows, l.a.Rows) // scaled
	if l.b.Grad != nil {
		if err := product(kernels.TN, kernels.View(l.b.Grad, l.b.Rows, l.b.Cols), dy, xa, true); err != nil {
			return err
		}
	}
	dxa := kernels.View(make([]T, x.Rows*l.a.Rows), x.Rows, l.a.Rows)
	if err := product(kernels.NN, dxa, dy, l.b.matrix(), false); err != nil {
		return err
	}
	for i := range dxa.Data {
		dxa.Data[i] *= l.scale
	}
	if l.a.Grad != nil {
		if err := product(kernels.TN, kernels.View(l.a.Grad, l.a.Rows, l.a.Cols), dxa, x, true); err != nil {
			return err
		}
	}
	if dx.Rows > 0 {
		return product(kernels.NN, dx, dxa, l.a.matrix(), true)
	}
	return nil
}
