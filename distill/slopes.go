package distill

import (
	"context"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// Learner gives gradients to passes that choose by them.
type Learner struct {
	K       *kernels.Set
	Threads int
	Memory  int64 // bytes that may be held, 0: no limit
}

var _ ir.Learner = Learner{}

// Slopes implements ir.Learner.
func (l Learner) Slopes(ctx context.Context, m *ir.Model, sequences [][]int32, roles []ir.Role, fn func(t *ir.Tensor, columns []float64) error) error {
	longest := 0
	for _, s := range sequences {
		longest = max(longest, len(s))
	}
	learns := func(t *ir.Tensor) bool { return slices.Contains(roles, t.Role) }
	f := Subject{Student: m, Learns: learns}.Footprint(longest)
	if need := f.Least(longest); l.Memory > 0 && need > l.Memory {
		return &fault.Error{
			Op: "gradients", Err: fault.As(fault.ErrBudget, fmt.Errorf("they take %s of memory, %s are there for them", human.BytesUp(need), human.Bytes(l.Memory))),
			Hint: "raise --max-memory, or choose by activation",
		}
	}
	n, err := Load[float32](ctx, m, l.K, l.Threads, longest, learns)
	if err != nil {
		return err
	}
	var of []*Param[float32]
	for _, p := range n.params {
		if slices.Contains(roles, p.Role) {
			p.Grad = make([]float32, len(p.W))
			of = append(of, p)
		}
	}
	keep := l.Memory <= 0 || f.Least(longest)+int64(longest)*f.Remember <= l.Memory
	for _, s := range sequences {
		if len(s) < 2 {
			continue // predicts nothing
		}
		n.ZeroGrad()
		one := [][]int32{s}
		x, err := n.Forward(ctx, one, keep)
		if err != nil {
			return err
		}
		dx := kernels.View(make([]float32, len(x.Data)), x.Rows, x.Cols)
		if _, err := n.Score(ctx, Loss{}, Plain(one), x, dx, nil, kernels.Dense[float32]{}, 1/float64(len(s)-1)); err != nil {
			return err
		}
		if err := n.Backward(ctx, one, dx, nil); err != nil {
			return err
		}
		for _, p := range of {
			sums := make([]float64, p.Cols)
			for r := range p.Rows {
				w, g := p.W[r*p.Cols:][:p.Cols], p.Grad[r*p.Cols:][:p.Cols]
				for c, v := range w {
					sums[c] += float64(float64(v) * float64(g[c]))
				}
			}
			if err := fn(m.Find(p.Name), sums); err != nil {
				return err
			}
		}
	}
	return nil
}
