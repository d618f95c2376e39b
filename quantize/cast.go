package quantize

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// Cast is the pass "quantize.cast": it stores every real-valued tensor in one floating-point type.
// Quantized tensors are decoded, integers are left alone. Values that a smaller type cannot hold
// are an error when they are written.
type Cast struct {
	Type storage.Type // f32, f16 or bf16
	Only []string     // patterns; empty means all
}

// Name is "quantize.cast".
func (c *Cast) Name() string { return "quantize.cast" }

// Needs weights only.
func (c *Cast) Needs() ir.Need { return ir.NeedWeights }

// Plan lists the tensors whose type differs.
func (c *Cast) Plan(ctx context.Context, m *ir.Model) (*ir.Plan, error) {
	switch c.Type {
	case storage.F32, storage.F16, storage.BF16:
	default:
		return nil, &fault.Error{Op: c.Name(), Err: fault.As(fault.ErrMisuse, fmt.Errorf("cannot cast to %q", c.Type)), Hint: "choose f32, f16 or bf16"}
	}
	for _, o := range c.Only {
		if err := ir.CheckPattern(o); err != nil {
			return nil, err
		}
	}
	p := &ir.Plan{}
	for _, t := range m.Tensors() {
		s := ir.Step{Tensor: t.Name, From: t.Type, To: t.Type, Scheme: t.Scheme}
		info, ok := storage.Lookup(t.Type)
		switch {
		case len(c.Only) > 0 && !t.MatchAny(c.Only):
			s.Reason = "kept: not selected"
		case !ok || t.Scheme == nil && (info.Decode == nil || !info.Float && info.BlockElems == 1):
			s.Reason = "kept: not real-valued"
		default:
			s.To, s.Scheme = c.Type, nil
			s.Change = s.From != s.To
		}
		var err error
		if s.Bytes, err = t.With(s.To, s.Scheme, nil).Bytes(); err != nil {
			return nil, &fault.Error{File: m.Path, Tensor: t.Name, Op: c.Name(), Err: err}
		}
		p.Steps = append(p.Steps, s)
	}
	return p, ctx.Err()
}

// Apply swaps the handles. A model that already has the type everywhere is not an error: the type
// was asked for, and it is there.
func (c *Cast) Apply(ctx context.Context, m *ir.Model, p *ir.Plan, env ir.Env) (*ir.Result, error) {
	res := &ir.Result{Skipped: map[string]string{}}
	for _, s := range p.Steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t := m.Find(s.Tensor)
		if t == nil || !s.Change {
			if s.Reason != "" {
				res.Skipped[s.Tensor] = s.Reason
			}
			continue
		}
		src, err := newEncoded(t, s.To, nil, env)
		if err != nil {
			return nil, &fault.Error{File: m.Path, Tensor: t.Name, Op: c.Name(), Err: err}
		}
		if err := m.Replace(t.With(s.To, nil, src)); err != nil {
			return nil, err
		}
		res.Changed++
	}
	if res.Changed == 0 {
		res.Notes = append(res.Notes, fmt.Sprintf("every tensor is %s already", c.Type))
	}
	return res, nil
}
