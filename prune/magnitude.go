package prune

import (
	"context"
	"math"

	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/ir"
)

// Magnitude is the pass "prune.magnitude": the smallest weights go.
type Magnitude struct{ Options }

func init() {
	register(&Method{
		Name: "magnitude", Doc: "the smallest weights go", Scope: ScopeLayer,
		New: func(o Options, _ map[string][]float32) ir.Pass { return &Magnitude{Options: o} },
	})
}

// Name implements ir.Pass.
func (*Magnitude) Name() string { return "prune.magnitude" }

// Needs implements ir.Pass.
func (*Magnitude) Needs() ir.Need { return ir.NeedWeights }

// Plan implements ir.Pass.
func (p *Magnitude) Plan(ctx context.Context, m *ir.Model) (*ir.Plan, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	plan, _, err := p.choose(p.Name(), m, ScopeLayer)
	return plan, err
}

// Apply implements ir.Pass. Rows and N:M groups are decided when they are read; the layer and global
// scopes read the chosen weights here. The figure "sparsity" is the share of the weights that go.
func (p *Magnitude) Apply(ctx context.Context, m *ir.Model, _ *ir.Plan, env ir.Env) (*ir.Result, error) {
	_, chosen, err := p.choose(p.Name(), m, ScopeLayer)
	if err != nil {
		return nil, err
	}
	sink := stage(env, len(chosen))
	rules := make([]rule, len(chosen))
	scorers := make([]scorer, len(chosen))
	counts := make([]int64, len(chosen))
	for i, r := range chosen {
		scorers[i], counts[i] = scorer{scale: 1}, r.zeros()
	}
	if r := chosen[0]; r.m == 0 && r.scope == ScopeGlobal {
		err = global(ctx, env.Threads, chosen, scorers, rules, counts)
	} else {
		err = par.Range(ctx, env.Threads, len(chosen), 1, func(_, i, _ int) error {
			defer sink.Add(1)
			var err error
			rules[i], err = chosen[i].rule(ctx, scorers[i])
			return ir.Wrap(chosen[i].t, p.Name(), err)
		})
	}
	if err != nil {
		return nil, err
	}
	res := &ir.Result{Tensors: map[string]map[string]float64{}, Notes: p.notes(chosen)}
	for i, r := range chosen {
		if err := m.Replace(newMasked(r.t, scorers[i], rules[i])); err != nil {
			return nil, err
		}
		res.Changed++
		res.Tensors[r.t.Name] = map[string]float64{"sparsity": float64(counts[i]) / float64(r.t.Elems())}
	}
	return res, nil
}

func stage(env ir.Env, n int) progress.Sink {
	sink := env.Progress
	if sink == nil {
		sink = progress.Discard
	}
	sink.Stage("prune", int64(n), "tensors")
	return sink
}

// rule makes the rule of one tensor; for the layer scope it reads the tensor.
func (r *request) rule(ctx context.Context, s scorer) (rule, error) {
	switch {
	case r.m > 0:
		return byGroup{r.n, r.m}, nil
	case r.scope == ScopeRow:
		return byRow{int(r.count(int64(r.t.Cols())))}, nil
	}
	p := pool{tensors: []*ir.Tensor{r.t}, scorers: []scorer{s}}
	rules, err := p.thresholds(ctx, 1, r.count(r.t.Elems()))
	if err != nil {
		return nil, err
	}
	return rules[0], nil
}

// global makes the rules of the global scope: one threshold for all matrices after dividing each by
// its root mean square, so that a matrix of small weights is not emptied.
func global(ctx context.Context, threads int, chosen []*request, scorers []scorer, rules []rule, counts []int64) error {
	var total int64
	p := pool{scorers: scorers}
	for _, r := range chosen {
		p.tensors = append(p.tensors, r.t)
		total += r.t.Elems()
	}
	err := par.Range(ctx, threads, len(chosen), 1, func(_, i, _ int) error {
		var sum float64
		err := ir.EachBand(ctx, chosen[i].t, bandBytes, func(_ ir.Band, x []float32) error {
			for _, v := range x {
				sum += float64(float64(v) * float64(v))
			}
			return nil
		})
		if rms := math.Sqrt(sum / float64(chosen[i].t.Elems())); rms > 0 {
			if s := float32(1 / rms); s > 0 && s <= math.MaxFloat32 {
				scorers[i].scale = s
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	found, err := p.thresholds(ctx, threads, chosen[0].count(total))
	if err != nil {
		return err
	}
	for i := range found {
		rules[i] = found[i]
	}
	return par.Range(ctx, threads, len(chosen), 1, func(_, i, _ int) error {
		counts[i] = 0
		return p.each(ctx, i, func(from int64, keys []uint32) bool {
			found[i].drop(keys, from, nil, func(int) { counts[i]++ })
			return true
		})
	})
}
