package prune

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir"
)

// Wanda is the pass "prune.wanda": weights with the smallest |w| * sqrt(mean x^2) go, x being the
// input that the weight multiplies (Sun et al., arXiv 2306.11695). Nothing is updated. The inputs
// come from Importance when it is given, else from running the calibration tokens through the model
// block by block: those that the pruned blocks in front produce, in a block that is still whole, as the method's authors
// measure them. (Measured behind the pruned stages of the same block they lose more.)
type Wanda struct {
	Options
	// Importance holds a value per input of each tensor (by name) that is proportional to the
	// mean of x^2, such as an importance matrix has. nil: measure.
	Importance map[string][]float32
}

func init() {
	register(&Method{
		Name: "wanda", Doc: "the weights go that matter least for the inputs they multiply", Learns: true, Scope: ScopeRow,
		New: func(o Options, importance map[string][]float32) ir.Pass {
			return &Wanda{Options: o, Importance: importance}
		},
	})
}

// Name implements ir.Pass.
func (*Wanda) Name() string { return "prune.wanda" }

// Needs implements ir.Pass.
func (p *Wanda) Needs() ir.Need {
	if p.Importance != nil {
		return ir.NeedWeights
	}
	return ir.NeedActivations
}

// choose is Options.choose with what only Wanda asks for.
func (p *Wanda) choose(m *ir.Model) (*ir.Plan, []*request, error) {
	if p.Scope == ScopeGlobal {
		return nil, nil, &fault.Error{
			Op: p.Name(), Err: fault.As(fault.ErrMisuse, errors.New("scope global: inputs of different layers have no common scale")),
			Hint: "use scope row, or prune.magnitude",
		}
	}
	plan, chosen, err := p.Options.choose(p.Name(), m, ScopeRow)
	if err != nil {
		return nil, nil, err
	}
	if p.Importance == nil && m.Decoder == nil {
		return nil, nil, &fault.Error{
			File: m.Path, Op: p.Name(), Err: fmt.Errorf("the model cannot be run to measure its inputs (architecture %q)", m.Arch),
			Hint: "give an importance matrix, or use prune.magnitude",
		}
	}
	var errs []error
	for _, r := range chosen {
		if err := p.check(r); err != nil {
			errs = append(errs, &fault.Error{File: m.Path, Tensor: r.t.Name, Op: p.Name(), Err: err, Hint: "leave the tensor out, or use prune.magnitude for it"})
		}
	}
	return plan, chosen, errors.Join(errs...)
}

// check verifies that the inputs of a tensor will be known.
func (p *Wanda) check(r *request) error {
	if p.Importance == nil {
		if stageOf(r.t.Role) < 0 {
			return errors.New("its inputs are not measured: it is no matrix of a block")
		}
		return nil
	}
	x := p.find(r.t)
	switch {
	case x == nil:
		return errors.New("the importance matrix has no entry for it")
	case len(x) != r.t.Cols():
		return fmt.Errorf("the importance matrix has %d inputs, the tensor %d", len(x), r.t.Cols())
	}
	for i, v := range x {
		if !(v >= 0) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("importance of input %d is %v", i, v)
		}
	}
	return nil
}

func (p *Wanda) find(t *ir.Tensor) []float32 {
	for _, n := range append([]string{t.Name}, t.Aliases...) {
		if x := p.Importance[n]; x != nil {
			return x
		}
	}
	return nil
}

// Plan implements ir.Pass.
func (p *Wanda) Plan(ctx context.Context, m *ir.Model) (*ir.Plan, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	plan, _, err := p.choose(m)
	return plan, err
}

// Apply implements ir.Pass. With Importance it only swaps handles; otherwise it walks the model.
func (p *Wanda) Apply(ctx context.Context, m *ir.Model, _ *ir.Plan, env ir.Env) (*ir.Result, error) {
	_, chosen, err := p.choose(m)
	if err != nil {
		return nil, err
	}
	res := &ir.Result{Tensors: map[string]map[string]float64{}, Notes: p.notes(chosen)}
	sink := stage(env, len(chosen))
	// swap prunes tensors that share an input, given mean x^2 up to a factor.
	swap := func(list []*request, of func(*request) []float32) error {
		handles := make([]*ir.Tensor, len(list))
		err := par.Range(ctx, env.Threads, len(list), 1, func(_, i, _ int) error {
			defer sink.Add(1)
			s := scorer{norm: roots(of(list[i])), scale: 1}
			rule, err := list[i].rule(ctx, s)
			handles[i] = newMasked(list[i].t, s, rule)
			return ir.Wrap(list[i].t, p.Name(), err)
		})
		if err != nil {
			return err
		}
		for i, h := range handles {
			if err := m.Replace(h); err != nil {
				return err
			}
			res.Changed++
			res.Tensors[h.Name] = map[string]float64{"sparsity": float64(list[i].zeros()) / float64(h.Elems())}
		}
		return nil
	}
	if p.Importance != nil {
		err = swap(chosen, func(r *request) []float32 { return p.find(r.t) })
	} else {
		var seen []*request // of a block
		means := map[*request][]float32{}
		look := func(w ir.Walk, s ir.Stage, list []*request) error {
			mean, err := meanSquares(ctx, w, s)
			if err != nil {
				return err
			}
			for _, r := range list {
				if len(mean) != r.t.Cols() {
					return ir.Wrap(r.t, p.Name(), fmt.Errorf("%d inputs measured for %d columns", len(mean), r.t.Cols()))
				}
			}
			for _, r := range list {
				means[r] = mean
			}
			seen = append(seen, list...)
			return nil
		}
		err = walk(ctx, p.Name(), m, chosen, env, look, func() error {
			list := seen
			seen = nil
			return swap(list, func(r *request) []float32 { return means[r] })
		})
	}
	if err != nil {
		return nil, err
	}
	return res, nil
}

// meanSquares is the mean of x^2 of every input of a stage over all tokens, summed in float64 in the
// order of the tokens.
func meanSquares(ctx context.Context, w ir.Walk, s ir.Stage) ([]float32, error) {
	var sums []float64
	var n int64
	err := w.Inputs(ctx, s, func(x []float32, rows, cols int) error {
		if sums == nil {
			sums = make([]float64, cols)
		}
		for r := range rows {
			for j, v := range x[r*cols:][:cols] {
				sums[j] += float64(float64(v) * float64(v))
			}
		}
		n += int64(rows)
		return nil
	})
	if err != nil {
		return nil, err
	}
	mean := make([]float32, len(sums))
	for j, v := range sums {
		if mean[j] = float32(v / float64(n)); mean[j]-mean[j] != 0 {
			return nil, fmt.Errorf("input %d of stage %s: mean square %v: %w", j, s.Name, v/float64(n), fault.ErrNotFinite)
		}
	}
	return mean, nil
}

// roots is the element-wise square root.
func roots(x []float32) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(math.Sqrt(float64(v)))
	}
	return y
}
