package quantize

import (
	"context"
	"errors"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// RTN is the pass "quantize.rtn": every weight is rounded to the nearest value that its new type
// can hold, after the scale search of the type (block types, with or without importance) or of the
// scheme. It needs no activations and streams: no tensor is loaded whole.
type RTN struct{ Request }

func init() {
	register(&Method{
		Name: "rtn", Doc: "every weight is rounded to the nearest value of its block's or row's grid",
		New: func(base *RTN) ir.Pass { return base },
	})
}

// Name is "quantize.rtn".
func (q *RTN) Name() string { return "quantize.rtn" }

// Needs weights only.
func (q *RTN) Needs() ir.Need { return ir.NeedWeights }

// Plan names the new type of every tensor and reports all mistakes together.
func (q *RTN) Plan(ctx context.Context, m *ir.Model) (*ir.Plan, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := q.assign(m, q.Name())
	if err != nil {
		return nil, err
	}
	for _, t := range m.Tensors() {
		if err := checkImportance(t, importanceOf(q.Importance, t)); err != nil {
			return nil, &fault.Error{
				File: m.Path, Tensor: t.Name, Op: q.Name(), Err: err,
				Hint: "the importance matrix was made for another model: make one with pare calibrate",
			}
		}
	}
	return p, nil
}

// Apply swaps the handles that the plan changes.
func (q *RTN) Apply(ctx context.Context, m *ir.Model, p *ir.Plan, env ir.Env) (*ir.Result, error) {
	res := &ir.Result{Skipped: map[string]string{}}
	keep := newScaleCache(env.Memory)
	var without int
	for _, s := range p.Steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t := m.Find(s.Tensor)
		if t == nil {
			return nil, &fault.Error{File: m.Path, Tensor: s.Tensor, Op: q.Name(), Err: errors.New("planned, but not in the model")}
		}
		if !s.Change {
			why := s.Reason
			if why == "" {
				why = "already " + string(t.Type)
			}
			res.Skipped[t.Name] = why
			continue
		}
		src, err := q.derive(t, s, env, keep)
		if err != nil {
			return nil, &fault.Error{File: m.Path, Tensor: t.Name, Op: q.Name(), Err: err}
		}
		if err := m.Replace(t.With(s.To, s.Scheme, src)); err != nil {
			return nil, err
		}
		if s.Reason != "" && env.Progress != nil {
			env.Progress.Note(t.Name, fmt.Sprintf("%s: %s", s.To, s.Reason))
		}
		if q.Importance != nil && t.Role.Linear() && importanceOf(q.Importance, t) == nil {
			without++
		}
		res.Changed++
	}
	if res.Changed == 0 {
		return nil, &fault.Error{
			File: m.Path, Op: q.Name(), Err: fmt.Errorf("%s changes none of %d tensors: they have that type already, or are kept", q, len(p.Steps)),
			Hint: "pare plan shows the reason for each",
		}
	}
	if without > 0 {
		res.Notes = append(res.Notes, fmt.Sprintf("the importance matrix has no entry for %d linear layers; they were encoded without", without))
	}
	return res, nil
}

func (q *RTN) derive(t *ir.Tensor, s ir.Step, env ir.Env, keep *scaleCache) (ir.Source, error) {
	imp := importanceOf(q.Importance, t)
	if s.To == storage.Planes {
		return newPlanes(t, *s.Scheme, q.Clip, imp, env, keep)
	}
	return newEncoded(t, s.To, imp, env)
}
