package lora

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// passName is the name of the pass in recipes, logs and errors.
const passName = "lora.merge"

// Weighted is an adapter and how much of it is merged: 1 is the adapter as trained.
type Weighted struct {
	Adapter *Adapter
	Weight  float32
}

// Options of a merge.
type Options struct {
	// Type is the stored type of the tensors that change: f32, f16 or bf16. Empty keeps each
	// tensor's own type, block types included. Tensors that do not change keep their bytes.
	Type storage.Type
	// Importance weighs the inputs of tensors (by name) when their block type is encoded again.
	Importance map[string][]float32
	// AllowPartial skips modules that the base does not have, where a merge otherwise refuses.
	AllowPartial bool
	// Requantize encodes a float tensor as like is encoded. It is needed for uniformly quantized
	// bases (storage.Planes), whose encoders belong to another package; nil refuses those.
	Requantize func(ctx context.Context, float, like *ir.Tensor) (*ir.Tensor, error)
}

// Merge is the pass "lora.merge". Adapters are merged in order, in float32, and rounded once.
type Merge struct {
	adapters []Weighted
	opts     Options
}

// New makes the pass. The adapters must stay open until the result is written.
func New(adapters []Weighted, opts Options) *Merge { return &Merge{adapters, opts} }

// Name implements ir.Pass.
func (*Merge) Name() string { return passName }

// Needs implements ir.Pass.
func (*Merge) Needs() ir.Need { return ir.NeedWeights }

// outType is the stored type of a tensor after the merge.
func (p *Merge) outType(t *ir.Tensor) storage.Type {
	if p.opts.Type != "" {
		return p.opts.Type
	}
	return t.Type
}

// check refuses types that cannot be merged into.
func (p *Merge) check(t *ir.Tensor) error {
	typ := p.outType(t)
	if typ == storage.Planes {
		if p.opts.Requantize == nil {
			return fmt.Errorf("%s cannot be encoded again here: %w", t.Scheme, ErrUnsupported)
		}
		return nil
	}
	info, ok := storage.Lookup(typ)
	if !ok || info.Encode == nil || !info.Float && info.BlockElems == 1 {
		return fmt.Errorf("type %s is %w as the result of a merge", typ, ErrUnsupported)
	}
	_, err := typ.RowBytes(t.Cols())
	return err
}

// resolve matches the adapters and checks what they match.
func (p *Merge) resolve(m *ir.Model) (*resolver, error) {
	if len(p.adapters) == 0 {
		return nil, &fault.Error{Op: passName, Err: fault.As(fault.ErrMisuse, errors.New("no adapter given"))}
	}
	if p.opts.Type != "" {
		if info, ok := storage.Lookup(p.opts.Type); !ok || !info.Float || info.Encode == nil {
			return nil, &fault.Error{Op: passName, Err: fault.As(fault.ErrMisuse, fmt.Errorf("type %q is not a floating-point type", p.opts.Type)), Hint: "choose keep, f32, f16 or bf16"}
		}
	}
	var errs []error
	for _, w := range p.adapters {
		if w.Weight == 0 || w.Weight-w.Weight != 0 {
			errs = append(errs, &fault.Error{File: w.Adapter.Dir, Op: passName, Err: fault.As(fault.ErrMisuse, fmt.Errorf("weight %v merges nothing", w.Weight))})
		}
	}
	r, err := resolve(m, p.adapters, p.opts.AllowPartial)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	for _, name := range sortedKeys(r.targets) {
		if err := p.check(r.targets[name].t); err != nil {
			errs = append(errs, &fault.Error{File: m.Path, Tensor: name, Op: passName, Err: err, Hint: "merge into a float type (--dtype bf16), then quantize"})
		}
	}
	return r, errors.Join(errs...)
}

// Plan implements ir.Pass.
func (p *Merge) Plan(ctx context.Context, m *ir.Model) (*ir.Plan, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := p.resolve(m)
	if err != nil {
		return nil, err
	}
	plan := &ir.Plan{}
	list := m.Tensors()
	if r.untied != nil {
		list = append(list[:len(list):len(list)], r.untied)
	}
	for _, t := range list {
		s := ir.Step{Tensor: t.Name, From: t.Type, To: t.Type, Scheme: t.Scheme}
		after := *t
		if at := r.targets[t.Name]; at != nil {
			s.Change, s.To, s.Reason = true, p.outType(t), at.describe()
			if s.To != storage.Planes {
				s.Scheme = nil
			}
			after.Type, after.Scheme = s.To, s.Scheme
		} else if t == r.untied {
			s.Change, s.Reason = true, "untied from "+r.tied.Name
		}
		if s.Bytes, err = after.Bytes(); err != nil {
			return nil, ir.Wrap(t, passName, err)
		}
		plan.Steps = append(plan.Steps, s)
	}
	return plan, nil
}

// describe says which adapters touch a tensor and how.
func (t *target) describe() string {
	var parts []string
	for _, o := range t.ops {
		what := "replaced"
		switch {
		case o.saved != nil && o.saved.base:
			continue
		case o.forBias:
			what = "bias"
		case o.module != nil:
			what = o.a.Method()
			if o.module.rank > 0 {
				what = strings.Replace(what, fmt.Sprintf("r=%d", o.a.Config.Rank), fmt.Sprintf("r=%d", o.module.rank), 1)
			}
		}
		if o.weight != 1 {
			what += fmt.Sprintf(" x %g", o.weight)
		}
		parts = append(parts, what+" of "+o.a.Name())
	}
	return strings.Join(parts, ", ")
}

// job is a target whose steps are ready: values checked, DoRA norms measured.
type job struct {
	name  string
	chain *chain // nil when every step turned out to change nothing
	notes []string
}

// prepare reads the adapters once, refuses values that are not finite, drops steps that change
// nothing, and measures DoRA norms.
func (p *Merge) prepare(ctx context.Context, r *resolver, env ir.Env) ([]job, error) {
	sink := env.Progress
	if sink == nil {
		sink = progress.Discard
	}
	budget := int64(256 << 20)
	if env.Memory > 0 {
		budget = env.Memory / 8
	}
	shared := &cache{budget: budget}
	names := sortedKeys(r.targets)
	jobs := make([]job, len(names))
	errs := make([]error, len(names))
	sink.Stage("merge", int64(len(names)), "tensors")
	err := par.Range(ctx, env.Threads, len(names), 1, func(_, lo, _ int) error {
		defer sink.Add(1)
		jobs[lo], errs[lo] = r.targets[names[lo]].prepare(ctx, names[lo], shared)
		return ctx.Err()
	})
	if err == nil {
		err = errors.Join(errs...)
	}
	return jobs, err
}

func (t *target) prepare(ctx context.Context, name string, shared *cache) (job, error) {
	j := job{name: name}
	c := &chain{t: t.t, cache: shared}
	rows, cols := matrix(t.t)
	for _, o := range t.ops {
		fail := func(err error) (job, error) {
			var fe *fault.Error
			if errors.As(err, &fe) && fe.File == "" && fe.Tensor != "" && fe.Tensor != name {
				return j, &fault.Error{File: o.a.File, Tensor: fe.Tensor, Op: passName, Err: fe.Err, Hint: fe.Hint}
			}
			return j, &fault.Error{File: o.a.File, Tensor: name, Op: passName, Err: err}
		}
		nothing, err := o.scan(ctx, t.t)
		if err != nil {
			return fail(err)
		}
		if nothing {
			continue
		}
		if o.saved != nil && o.saved.base {
			j.notes = append(j.notes, fmt.Sprintf("%s: the adapter %s brings its own copy of the base weight, with other values; they are used", name, o.a.Name()))
		}
		s := &step{op: o, rows: rows, cols: cols}
		if o.forBias {
			s.rows, s.cols = 1, int(t.t.Elems())
		}
		if o.module != nil && o.module.magnitude != nil && !o.forBias {
			if err := s.measureDoRA(ctx, name, &chain{t: c.t, cache: shared, steps: append([]*step(nil), c.steps...)}); err != nil {
				return fail(err)
			}
		}
		c.steps = append(c.steps, s)
	}
	if len(c.steps) > 0 {
		j.chain = c
	}
	return j, nil
}

// scan reads the tensors of an operation once. It refuses NaN and infinities and reports whether
// the operation would leave the weight as it is: a factor of zeros, or a copy of the base's own
// values.
func (o *op) scan(ctx context.Context, base *ir.Tensor) (nothing bool, err error) {
	if o.saved != nil {
		if _, err := zeros(ctx, o.saved.t); err != nil {
			return false, err
		}
		return sameValues(ctx, o.saved.t, base)
	}
	m := o.module
	zero := map[*tensor]bool{}
	for _, t := range []*tensor{m.a, m.b, m.bias, m.magnitude, m.ia3} {
		if t == nil {
			continue
		}
		if zero[t], err = zeros(ctx, t); err != nil {
			return false, err
		}
	}
	switch {
	case m.ia3 != nil:
		return false, nil
	case o.forBias:
		return zero[m.bias], nil
	case m.magnitude != nil:
		return false, nil
	}
	return zero[m.a] || zero[m.b], nil
}

// zeros reports whether a tensor holds only zeros, and refuses what is not finite.
func zeros(ctx context.Context, t *tensor) (bool, error) {
	all := true
	buf := make([]float32, min(t.elems(), 1<<16))
	for at := 0; at < t.elems(); at += len(buf) {
		x := buf[:min(len(buf), t.elems()-at)]
		if err := t.read(ctx, x, at); err != nil {
			return false, &fault.Error{Tensor: t.name, Err: err}
		}
		for i, v := range x {
			if v-v != 0 {
				return false, &fault.Error{Tensor: t.name, Err: fmt.Errorf("element %v is %v: %w", index(at+i, t.shape), v, fault.ErrNotFinite), Hint: diverged}
			}
			all = all && v == 0
		}
	}
	return all, nil
}

// sameValues reports whether the adapter's tensor holds the base's values.
func sameValues(ctx context.Context, t *tensor, base *ir.Tensor) (bool, error) {
	same := true
	c := &chain{t: base}
	var buf []float32
	err := c.each(ctx, func(from int64, x []float32) error {
		if !same {
			return nil
		}
		buf = append(buf[:0], x...)
		if err := t.read(ctx, buf, int(from)); err != nil {
			return err
		}
		for i, v := range buf {
			if v != x[i] {
				same = false
			}
		}
		return nil
	})
	return same, err
}
