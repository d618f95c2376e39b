package prune

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// Scope says which weights compete.
type Scope string

// Scopes.
const (
	ScopeRow    Scope = "row"
	ScopeLayer  Scope = "layer"
	ScopeGlobal Scope = "global"
)

// Share sets the sparsity of the tensors that a pattern matches.
type Share struct {
	Match    string
	Sparsity float64
}

// Options of both passes.
type Options struct {
	Sparsity float64  // share of weights set to zero, in [0,1); with a pattern 0 or what it implies
	Pattern  string   // "N:M", at most N of M consecutive weights stay; empty for unstructured
	Scope    Scope    // empty: layer for magnitude, row for Wanda; has no meaning with a pattern
	Only     []string // tensor patterns; empty: the matrices of the blocks
	Skip     []string // tensor patterns left alone
	Schedule []Share  // the first match replaces Sparsity; 0 leaves a tensor alone
	// Structure is for methods that take out whole parts, which use none of the above.
	Structure Structure
	// NoRefit leaves out the fit of the kept weights that ends methods which change them.
	NoRefit bool
}

// ParsePattern reads "N:M": at most n of m consecutive weights stay.
func ParsePattern(s string) (n, m int, err error) {
	a, b, ok := strings.Cut(s, ":")
	n, errN := strconv.Atoi(a)
	m, errM := strconv.Atoi(b)
	if !ok || errN != nil || errM != nil || n < 1 || m <= n || m > 1024 {
		return 0, 0, fault.As(fault.ErrMisuse, fmt.Errorf("pattern %q is not N:M with 0 < N < M", s))
	}
	return n, m, nil
}

// request is what the options mean for one tensor.
type request struct {
	t        *ir.Tensor
	sparsity float64
	n, m     int // 0 without a pattern
	scope    Scope
}

// count is the number of weights that unstructured pruning takes out of n.
func (r *request) count(n int64) int64 { return int64(math.Floor(float64(n) * r.sparsity)) }

// zeros is the number of weights that the request sets to zero; for the global scope, on average.
func (r *request) zeros() int64 {
	rows, cols := int64(r.t.Rows()), int64(r.t.Cols())
	switch {
	case r.m > 0:
		return rows * (cols / int64(r.m)) * int64(r.m-r.n)
	case r.scope == ScopeRow:
		return rows * r.count(cols)
	}
	return r.count(rows * cols)
}

// describe is the line of the plan.
func (r *request) describe() string {
	if r.m > 0 {
		return fmt.Sprintf("%d of every %d weights zero (%d:%d)", r.m-r.n, r.m, r.n, r.m)
	}
	of := map[Scope]string{ScopeRow: "of each row", ScopeLayer: "of the matrix", ScopeGlobal: "of all chosen matrices"}
	return fmt.Sprintf("%.4g %% %s zero", 100*r.sparsity, of[r.scope])
}

// choose finds the tensors to prune and checks everything that can be checked without data. It
// returns a plan with a step for every tensor and the requests in catalogue order.
func (o *Options) choose(pass string, m *ir.Model, scope Scope) (*ir.Plan, []*request, error) {
	misuse := func(err error, hint string) error {
		return &fault.Error{Op: pass, Err: fault.As(fault.ErrMisuse, err), Hint: hint}
	}
	var errs []error
	base := request{sparsity: o.Sparsity, scope: o.Scope}
	if base.scope == "" {
		base.scope = scope
	}
	if s := base.scope; s != ScopeRow && s != ScopeLayer && s != ScopeGlobal {
		errs = append(errs, misuse(fmt.Errorf("scope %q", s), "choose row, layer or global"))
	}
	if o.Pattern != "" {
		var err error
		if base.n, base.m, err = ParsePattern(o.Pattern); err != nil {
			return nil, nil, misuse(err, "2:4 and 4:8 are the usual ones")
		}
		implied := 1 - float64(base.n)/float64(base.m)
		if o.Sparsity != 0 && math.Abs(o.Sparsity-implied) > 1e-9 {
			errs = append(errs, misuse(fmt.Errorf("pattern %s is a sparsity of %g, %g was asked for", o.Pattern, implied, o.Sparsity), "leave one of them out"))
		}
		base.sparsity = implied
	}
	legal := func(s float64) bool { return s >= 0 && s < 1 }
	if !legal(o.Sparsity) {
		errs = append(errs, misuse(fmt.Errorf("sparsity %v is not in [0,1)", o.Sparsity), ""))
	}
	for _, p := range append(append([]string(nil), o.Only...), o.Skip...) {
		if err := ir.CheckPattern(p); err != nil {
			errs = append(errs, err)
		}
	}
	for _, s := range o.Schedule {
		if err := ir.CheckPattern(s.Match); err != nil {
			errs = append(errs, err)
		}
		if !legal(s.Sparsity) {
			errs = append(errs, misuse(fmt.Errorf("sparsity %v for %q is not in [0,1)", s.Sparsity, s.Match), ""))
		}
		if base.scope == ScopeGlobal && s.Sparsity != 0 || base.m > 0 && s.Sparsity != 0 && math.Abs(s.Sparsity-base.sparsity) > 1e-9 {
			errs = append(errs, misuse(fmt.Errorf("a schedule for %q beside %s", s.Match, map[bool]string{true: "pattern " + o.Pattern, false: "scope global"}[base.m > 0]), "use scope row or layer for a sparsity per layer"))
		}
	}
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	plan := &ir.Plan{}
	var chosen []*request
	used := make([]bool, len(o.Schedule))
	for _, t := range m.Tensors() {
		r := base
		r.t = t
		for i, s := range o.Schedule {
			if t.Match(s.Match) {
				r.sparsity, used[i] = s.Sparsity, true
				break
			}
		}
		n, err := t.Bytes()
		if err != nil {
			return nil, nil, ir.Wrap(t, pass, err)
		}
		step := ir.Step{Tensor: t.Name, From: t.Type, To: t.Type, Scheme: t.Scheme, Bytes: n}
		why := o.leave(t)
		if why == "" && r.sparsity == 0 {
			why = "sparsity 0"
		}
		if why == "" {
			if err := prunable(&r); err != nil {
				errs = append(errs, &fault.Error{File: m.Path, Tensor: t.Name, Op: pass, Err: err.error, Hint: err.hint})
				continue
			}
			if r.zeros() == 0 && r.scope != ScopeGlobal {
				why = fmt.Sprintf("%.4g %% is less than one weight", 100*r.sparsity)
			}
		}
		if why == "" {
			chosen = append(chosen, &r)
			step.Change, why = true, r.describe()
		}
		step.Reason = why
		plan.Steps = append(plan.Steps, step)
	}
	for i, s := range o.Schedule {
		if !used[i] {
			errs = append(errs, misuse(fmt.Errorf("the schedule's pattern %q matches no tensor", s.Match), ""))
		}
	}
	if len(errs) == 0 && len(chosen) == 0 {
		errs = append(errs, misuse(errors.New("nothing to prune"), "give --sparsity or --pattern, and name the tensors with --only when the architecture is unknown"))
	}
	return plan, chosen, errors.Join(errs...)
}

// notes are facts about the choice that a report should tell: rows and groups run along the last
// dimension as it is stored, which is that of the inputs in every architecture that is described.
func (o *Options) notes(chosen []*request) []string {
	if len(o.Only) > 0 {
		return nil // named by somebody who knows them
	}
	n, first := 0, ""
	for _, r := range chosen {
		if r.t.Role == ir.RoleUnknown && (r.m > 0 || r.scope == ScopeRow) {
			if n++; n == 1 {
				first = r.t.Name
			}
		}
	}
	if n == 0 {
		return nil
	}
	return []string{fmt.Sprintf("matrices of unknown layout: %d, such as %s, pruned along the last dimension: if the model stores [inputs, outputs], as GPT-2 does, that is across outputs and no runtime gains from it (use scope layer, or name matrices with --only)", n, first)}
}

// leave says why a tensor is left alone, or "".
func (o *Options) leave(t *ir.Tensor) string {
	switch {
	case t.MatchAny(o.Skip):
		return "skipped by the user"
	case len(o.Only) > 0 && !t.MatchAny(o.Only):
		return "not chosen"
	case len(o.Only) > 0:
		return ""
	case t.Role == ir.RoleUnknown && len(t.Shape) >= 2 && t.Rows() > 1 && t.Cols() > 1 && inBlock(t):
		return ""
	case !t.Role.Linear():
		return "not a matrix of a block"
	}
	return ""
}

// inBlock reports whether a tensor of unknown role belongs to one of several layers: its name has
// a number in it ("h.3.mlp.c_fc.weight").
func inBlock(t *ir.Tensor) bool {
	if t.Block >= 0 {
		return true
	}
	for _, s := range strings.Split(t.Name, ".") {
		if _, err := strconv.Atoi(s); err == nil {
			return true
		}
	}
	return false
}

type refusal struct {
	error
	hint string
}

// prunable refuses tensors that cannot be pruned.
func prunable(r *request) *refusal {
	info, ok := storage.Lookup(r.t.Type)
	if !ok || !info.Float {
		return &refusal{fmt.Errorf("type %s is already quantized", r.t.Type), "prune the float model, then quantize"}
	}
	if r.m > 0 && r.t.Cols()%r.m != 0 {
		return &refusal{fmt.Errorf("%d columns are not a multiple of %d", r.t.Cols(), r.m), "choose another pattern or leave the tensor out with --skip"}
	}
	return nil
}
