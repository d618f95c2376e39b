package build

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/obs"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/targets/report"
)

// quantizes says that a step makes a weight smaller than floats are.
func quantizes(s ir.Step) bool {
	info, ok := storage.Lookup(s.To)
	return s.Scheme != nil || ok && !info.Float
}

// has reports whether a model holds weights of the requested type already.
func has(m *ir.Model, req quantize.Request) bool {
	return slices.ContainsFunc(m.Tensors(), func(t *ir.Tensor) bool {
		if req.Scheme != nil {
			return t.Scheme != nil && *t.Scheme == *req.Scheme
		}
		return t.Type == req.Preset.Base
	})
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// shortfall says it when most weights of blocks cannot have the requested type and get a larger one,
// which the type's name hides: rows of 64 are no q2_k. It is empty when the mean size is about what
// the type promises; preset mixes, which give some tensors more bits on purpose, stay below the limit.
func shortfall(m *ir.Model, p *ir.Plan, req quantize.Request) string {
	promised := 0.0
	if req.Scheme != nil {
		promised = float64(req.Scheme.Bits)
	} else {
		promised = storage.MustLookup(req.Preset.Base).Bits()
	}
	var bits, elems float64
	count, larger := map[string]int{}, map[storage.Type]int{}
	matrices := 0
	for _, s := range p.Steps {
		t := m.Find(s.Tensor)
		if t == nil || !t.Role.Linear() && (t.Role != ir.RoleUnknown || t.Rows() == 1) {
			continue
		}
		matrices++
		bits, elems = bits+8*float64(s.Bytes), elems+float64(t.Elems())
		if s.Reason != "" {
			count[strings.TrimPrefix(s.Reason, "kept: ")]++
			larger[s.To]++
		}
	}
	const most = 1.35 // the ratio of q2_k's mix is 1.2
	if elems == 0 || bits/elems <= most*promised {
		return ""
	}
	text := fmt.Sprintf("%.1f bits per weight, where the type's name promises %.1f", bits/elems, promised)
	if reasons := sortedKeys(count); len(reasons) > 0 {
		types := make([]string, 0, len(larger))
		for _, typ := range sortedKeys(larger) {
			types = append(types, fmt.Sprintf("%d are %s", larger[typ], typ))
		}
		why := slices.MaxFunc(reasons, func(a, b string) int { return count[a] - count[b] })
		text += fmt.Sprintf(": of %s %s, mostly because %s", plural(matrices, "matrix", "matrices"), strings.Join(types, ", "), why)
	}
	return text
}

// cramped finds the layers that the method cannot solve within --max-memory and rounds to nearest. That
// changes bytes, so keys and manifest have it, and the plan says it.
func (e *engine) cramped(j *job, m *ir.Model) {
	if !runs(j.t) {
		return
	}
	matrices := 0
	for _, t := range m.Tensors() {
		if t.Role.Linear() && !obs.Fits(t.Cols(), e.passMemory()) {
			matrices++
			if !slices.Contains(j.rounded, t.Cols()) {
				j.rounded = append(j.rounded, t.Cols())
			}
		}
	}
	if matrices == 0 {
		return
	}
	slices.Sort(j.rounded)
	j.rep.SameBytes += fmt.Sprintf(", with layers of %s inputs rounded to nearest", strings.Trim(fmt.Sprint(j.rounded), "[]"))
	j.rep.Caveats = append(j.rep.Caveats, fmt.Sprintf("--max-memory %s is too little for %s on %s: they are rounded to nearest", human.Bytes(e.o.MaxMemory), j.t.Method, plural(matrices, "layer", "layers")))
}

// quantized names the type of a model whose weights are quantized already, "" when they are floats.
func quantized(m *ir.Model) string {
	for _, t := range m.Tensors() {
		if info, ok := storage.Lookup(t.Type); t.Role.Linear() && (t.Scheme != nil || ok && !info.Float) {
			return mainType(m)
		}
	}
	return ""
}

// nothingFits is the refusal of a type that no weight of the model can have, with the reasons that
// the plan gives, the most frequent first.
func nothingFits(m *ir.Model, p *ir.Plan, typ string) []report.Line {
	count := map[string]int{}
	for _, s := range p.Steps {
		if t := m.Find(s.Tensor); t != nil && s.Reason != "" && (t.Role.Linear() || t.Role == ir.RoleUnknown && t.Rows() > 1) {
			count[strings.TrimPrefix(s.Reason, "kept: ")]++
		}
	}
	reasons := sortedKeys(count)
	slices.SortStableFunc(reasons, func(a, b string) int { return count[b] - count[a] })
	if len(reasons) == 0 {
		return []report.Line{{Reason: fmt.Sprintf("the model has no weights that %s could store", typ)}}
	}
	lines := make([]report.Line, len(reasons))
	for i, why := range reasons {
		lines[i].Reason = fmt.Sprintf("%s fits no weight: %s (%s)", typ, why, plural(count[why], "matrix", "matrices"))
	}
	return lines[:min(len(lines), 3)]
}

// refusalLines spreads joined errors over lines.
func refusalLines(err error) []report.Line {
	if many, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // a join, not what it joins
		var out []report.Line
		for _, one := range many.Unwrap() {
			out = append(out, refusalLines(one)...)
		}
		return out
	}
	var fe *fault.Error
	if !errors.As(err, &fe) {
		return []report.Line{{Reason: err.Error()}}
	}
	return []report.Line{{Tensor: fe.Tensor, Reason: fe.Err.Error(), Hint: fe.Hint}}
}
