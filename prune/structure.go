package prune

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// Structure says how much smaller a model becomes when whole parts of it go. Of the budgets at most one is
// set; counts that are named hold whatever the budget, which the other parts then have to meet.
type Structure struct {
	Ratio      float64 // share of the weights in matrices of blocks that goes
	Parameters int64   // most that the model has afterwards
	Bytes      int64   // the same, as stored
	FFN        int     // neurons of the MLP in every block
	KVHeads    int     // key heads in every block, each with the query heads that share it
	Hidden     int     // channels of the residual stream
	Blocks     int     // blocks that stay
	Multiple   int     // what FFN is a multiple of when the budget decides about it; 0: see multiple
	Score      string  // what tells parts that matter from others; empty: the method's first
}

// budget reports whether one is set.
func (s *Structure) budget() bool { return s.Ratio != 0 || s.Parameters != 0 || s.Bytes != 0 }

// size is what a decoder of these dimensions takes, with the types that the tensors of m have: the
// weights in matrices of its blocks, and of all of it parameters and bytes.
func size(m *ir.Model, d *ir.Decoder) (blocks, all, bytes int64) {
	for _, t := range m.Tensors() {
		if t.Block >= d.Layers {
			continue
		}
		c := *t
		if shape := d.Shape(t.Role); shape != nil {
			c.Shape = shape
		}
		n := c.Elems()
		all += n
		if t.Role.Linear() {
			blocks += n
		}
		if b, err := c.Bytes(); err == nil {
			bytes += b
		}
	}
	return blocks, all, bytes
}

// fits reports whether a decoder of these dimensions is within the budget.
func (s *Structure) fits(m *ir.Model, d *ir.Decoder) bool {
	was, _, _ := size(m, m.Decoder)
	blocks, all, bytes := size(m, d)
	return (s.Ratio == 0 || float64(blocks) <= (1-s.Ratio)*float64(was)+0.5) &&
		(s.Parameters == 0 || all <= s.Parameters) && (s.Bytes == 0 || bytes <= s.Bytes)
}

// multiple is what the width of the MLP stays a multiple of: blocks of the types that a quantization
// afterwards may choose have 256 or 32 weights, and kernels take whole vectors. 256 is kept where it
// leaves a fine choice.
func (s *Structure) multiple(ffn int) int {
	if s.Multiple > 0 {
		return s.Multiple
	}
	for _, n := range []int{256, 128, 64, 32, 16, 8, 4, 2} {
		if ffn%n == 0 && ffn >= 16*n {
			return n
		}
	}
	return 1
}

// check finds what is wrong with a request whatever the model is.
func (s *Structure) check(pass string, scores []string) error {
	misuse := func(hint, format string, a ...any) error {
		return &fault.Error{Op: pass, Err: fault.As(fault.ErrMisuse, fmt.Errorf(format, a...)), Hint: hint}
	}
	budgets := 0
	for _, set := range []bool{s.Ratio != 0, s.Parameters != 0, s.Bytes != 0} {
		if set {
			budgets++
		}
	}
	switch {
	case !(s.Ratio >= 0 && s.Ratio < 1):
		return misuse("", "ratio %v is not in [0,1)", s.Ratio)
	case s.Parameters < 0 || s.Bytes < 0 || s.FFN < 0 || s.KVHeads < 0 || s.Hidden < 0 || s.Blocks < 0 || s.Multiple < 0:
		return misuse("", "a negative count")
	case budgets > 1:
		return misuse("leave the others out", "more than one of ratio, parameters and bytes")
	case s.Score != "" && !slices.Contains(scores, s.Score):
		return misuse("choose "+strings.Join(scores, ", "), "no score is called %q", s.Score)
	}
	return nil
}

// plain refuses options that are about single weights.
func (o *Options) plain(pass string) error {
	if o.Sparsity != 0 || o.Pattern != "" || o.Scope != "" || len(o.Only) > 0 || len(o.Skip) > 0 || len(o.Schedule) > 0 {
		return &fault.Error{
			Op: pass, Err: fault.As(fault.ErrMisuse, errors.New("sparsity, pattern, scope, only, skip and schedule choose single weights")),
			Hint: "say how much smaller the model becomes with ratio",
		}
	}
	return nil
}

// shrinkable refuses models whose parts cannot be taken out.
func shrinkable(pass string, m *ir.Model) error {
	if err := m.CannotRun(); err != nil {
		return &fault.Error{File: m.Path, Op: pass, Err: fault.As(fault.ErrMisuse, err), Hint: "whole parts are taken out of decoders whose architecture is known"}
	}
	if m.Decoder == nil {
		return &fault.Error{File: m.Path, Op: pass, Err: fault.As(fault.ErrMisuse, errors.New("the model is no decoder")), Hint: "whole parts are taken out of decoders"}
	}
	return m.Check()
}

// steps is the plan of a pass after which the decoder is d.
func steps(pass string, m *ir.Model, d *ir.Decoder, rewritten func(t *ir.Tensor) bool) (*ir.Plan, error) {
	plan := &ir.Plan{Decoder: d, Notes: []string{smaller(m, m.Decoder, d)}}
	var errs []error
	for _, t := range m.Tensors() {
		if t.Block >= d.Layers {
			continue
		}
		c := *t
		shape := d.Shape(t.Role)
		if shape != nil && t.Role != ir.RoleUnknown {
			c.Shape = shape
		}
		step := ir.Step{Tensor: t.Name, From: t.Type, To: t.Type, Scheme: t.Scheme, Reason: "as it is"}
		if !slices.Equal(c.Shape, t.Shape) || rewritten(t) {
			step.Change, step.Reason = true, fmt.Sprintf("%s becomes %s", dims(t.Shape), dims(c.Shape))
			step.Shape = c.Shape
			if info, ok := storage.Lookup(t.Type); !ok || !info.Float {
				errs = append(errs, &fault.Error{File: m.Path, Tensor: t.Name, Op: pass, Err: fmt.Errorf("type %s is already quantized", t.Type), Hint: "prune the float model, then quantize"})
			}
		}
		var err error
		if step.Bytes, err = c.Bytes(); err != nil {
			errs = append(errs, ir.Wrap(t, pass, err))
		}
		plan.Steps = append(plan.Steps, step)
	}
	return plan, errors.Join(errs...)
}

func dims(shape []int) string {
	s := make([]string, len(shape))
	for i, n := range shape {
		s[i] = fmt.Sprint(n)
	}
	return strings.Join(s, "x")
}

// smaller is the line that says what a pass took away.
func smaller(m *ir.Model, was, now *ir.Decoder) string {
	b0, n0, _ := size(m, was)
	b1, n1, _ := size(m, now)
	var parts []string
	count := func(what string, old, left int) {
		if old != left {
			parts = append(parts, fmt.Sprintf("%s %d → %d", what, old, left))
		}
	}
	count("blocks", was.Layers, now.Layers)
	count("hidden channels", was.Hidden, now.Hidden)
	count("MLP neurons", was.FFN, now.FFN)
	count("heads", was.Heads, now.Heads)
	count("key heads", was.KVHeads, now.KVHeads)
	return fmt.Sprintf("%s: %d parameters → %d, in matrices of blocks %.1f %% fewer", strings.Join(parts, ", "), n0, n1, 100*(1-float64(b1)/float64(max(b0, 1))))
}
