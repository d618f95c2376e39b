package prune

import (
	"context"
	"errors"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
)

func stageOf(r ir.Role) int {
	return slices.IndexFunc(ir.Stages, func(s ir.Stage) bool { return slices.Contains(s.Roles, r) })
}

// walk runs the calibration tokens through the model, block by block and stage by stage, and hands over
// the chosen matrices of each stage before any that reads what they give: visit prunes them, so that
// later ones see the inputs that the pruned ones produce. With settle, visit only looks: settle prunes all that were
// visited of a block, which then runs anew.
func walk(ctx context.Context, op string, m *ir.Model, chosen []*request, env ir.Env, visit func(ir.Walk, ir.Stage, []*request) error, settle func() error) (err error) {
	if env.Executor == nil || len(env.Tokens) == 0 {
		return &fault.Error{Op: op, Err: fault.As(fault.ErrMisuse, errors.New("no calibration tokens")), Hint: "give --calibration FILE, or --imatrix FILE to prune.wanda"}
	}
	byPlace := map[[2]int][]*request{}
	last := 0
	for _, r := range chosen {
		at := [2]int{r.t.Block, stageOf(r.t.Role)}
		byPlace[at] = append(byPlace[at], r)
		last = max(last, r.t.Block)
	}
	w, err := env.Executor.Start(ctx, m, env.Tokens)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for b := 0; b <= last; b++ {
		if settle != nil {
			if err := w.Mark(ctx); err != nil {
				return err
			}
		}
		for i, s := range ir.Stages {
			if list := byPlace[[2]int{b, i}]; len(list) > 0 {
				if err := visit(w, s, list); err != nil {
					return err
				}
			}
		}
		if settle != nil {
			if err := errors.Join(settle(), w.Back(ctx)); err != nil {
				return err
			}
		}
		if b < last {
			if err := w.Next(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
