package lora

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir"
)

// op is one change that one adapter makes to one tensor of the base.
type op struct {
	a       *Adapter
	weight  float32
	module  *module // nil for a replacement
	saved   *saved  // nil for a change
	flip    bool    // the weight is stored [in,out]: Conv1D, embeddings
	forBias bool    // the tensor is the bias of the module
}

// target is a tensor of the base with all that happens to it, in order.
type target struct {
	t   *ir.Tensor // the base's handle; for a head that is untied, the embedding's under its own name
	ops []op
}

// resolver maps the names of adapters to tensors of one base.
type resolver struct {
	m        *ir.Model
	partial  bool // modules without a tensor are skipped
	targets  map[string]*target
	skipped  map[string]string
	notes    []string
	untied   *ir.Tensor // the head that will be added, nil when the tie stays
	errs     []error
	tied     *ir.Tensor // the embedding, when it is also the output matrix
	headName string
}

// resolve finds the target of everything in the adapters and checks shapes. It reports all
// mistakes at once.
func resolve(m *ir.Model, adapters []Weighted, partial bool) (*resolver, error) {
	r := &resolver{m: m, partial: partial, targets: map[string]*target{}, skipped: map[string]string{}}
	r.findTie()
	for _, w := range adapters {
		r.add(w)
		if base := w.Adapter.Config.Base; base != "" && !r.names(base) {
			r.notes = append(r.notes, fmt.Sprintf("the adapter %s was trained on base model %q; names and shapes fit %s", w.Adapter.Name(), base, filepath.Base(m.Path)))
		}
	}
	if len(r.errs) > 0 {
		return nil, join(r.errs)
	}
	if len(r.targets) == 0 {
		return nil, &fault.Error{File: m.Path, Op: passName, Err: ErrNoChange, Hint: "is this the adapter's base model?"}
	}
	return r, nil
}

// join gives a hint that several mistakes share once: the wrong base makes one for every layer.
func join(errs []error) error {
	said := map[string]bool{}
	for _, err := range errs {
		if fe := (*fault.Error)(nil); errors.As(err, &fe) {
			if said[fe.Hint] {
				fe.Hint = ""
			}
			said[fe.Hint] = true
		}
	}
	return errors.Join(errs...)
}

// embeddings and heads are the last segments that containers give the two matrices.
var (
	embeddings = []string{"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "token_embd"}
	heads      = []string{"lm_head", "output", "embed_out"}
)

func isLeaf(name string, leaves []string) bool {
	name = strings.TrimSuffix(name, ".weight")
	for _, l := range leaves {
		if name == l || strings.HasSuffix(name, "."+l) {
			return true
		}
	}
	return false
}

// findTie looks for an embedding that is also the output matrix: the architecture says so, or no
// tensor has the name of a head.
func (r *resolver) findTie() {
	var embedding, head *ir.Tensor
	for _, t := range r.m.Tensors() {
		for _, n := range append([]string{t.Name}, t.Aliases...) {
			if t.Role == ir.RoleEmbedding || isLeaf(n, embeddings) && len(t.Shape) == 2 && embedding == nil {
				embedding = t
			}
			if t.Role == ir.RoleHead || isLeaf(n, heads) && !strings.Contains(n, "layer") && !strings.Contains(n, "blk.") && len(t.Shape) == 2 && t.Block < 0 {
				head = t
			}
		}
	}
	if embedding != nil && head == nil {
		r.tied = embedding
		r.headName = "lm_head.weight"
		if r.m.Format == "gguf" {
			r.headName = "output.weight"
		}
	}
}

// add resolves one adapter.
func (r *resolver) add(w Weighted) {
	a := w.Adapter
	var lost []string
	touched := map[string][]op{} // names of this adapter's targets, for the tie
	find := func(name, file string) *ir.Tensor {
		t, err := r.find(name)
		if err != nil {
			r.fail(a, file, err, "")
			return nil
		}
		if t == nil {
			lost = append(lost, file)
		}
		return t
	}
	put := func(t *ir.Tensor, o op) { touched[t.Name] = append(touched[t.Name], o) }
	for _, s := range a.saved {
		if t := find(s.name, s.t.name); t != nil {
			if err := sameShape(s.t, t); err != nil {
				hint := r.baseHint(a)
				if len(t.Shape) == 2 && len(s.t.shape) == 2 && s.t.shape[1] == t.Shape[1] && (t.Role == ir.RoleEmbedding || t.Role == ir.RoleHead || isLeaf(s.name, embeddings) || isLeaf(s.name, heads)) {
					hint = fmt.Sprintf("the adapter resized the vocabulary: resize the base to %d rows first, with the adapter's tokenizer", s.t.shape[0])
				}
				r.fail(a, s.t.name, err, hint)
				continue
			}
			module, _, _ := strings.Cut(s.name, ".weight")
			if !s.base && !a.Config.saves(strings.TrimSuffix(module, ".bias")) && (a.Config.Bias == "none" || !strings.HasSuffix(s.name, ".bias")) {
				r.notes = append(r.notes, fmt.Sprintf("%s: the file replaces %s, which the configuration does not mention", a.Name(), t.Name))
			}
			put(t, op{a: a, weight: w.Weight, saved: s})
		}
	}
	for _, m := range a.modules {
		file := prefix + m.name
		if m.a != nil {
			file = m.a.name
		} else if m.ia3 != nil {
			file = m.ia3.name
		}
		t := find(m.name+".weight", file)
		if t == nil {
			continue
		}
		o := op{a: a, weight: w.Weight, module: m}
		if err := r.fit(&o, t); err != nil {
			r.errs = append(r.errs, err)
			continue
		}
		put(t, o)
		if m.bias == nil && (m.ia3 == nil || m.perInput()) {
			continue
		}
		b, err := r.find(m.name + ".bias")
		switch {
		case err != nil:
			r.fail(a, file, err, "")
		case b != nil:
			if err := r.fitBias(o, b); err != nil {
				r.fail(a, file, err, r.baseHint(a))
				continue
			}
			o.forBias, o.flip = true, false
			put(b, o)
		case m.bias != nil:
			r.fail(a, m.bias.name, fmt.Errorf("%w: the base has no bias to add it to", ErrNoMatch), "")
		}
	}
	r.reportLost(a, lost)
	r.untie(a, touched)
	for _, name := range sortedKeys(touched) {
		if r.targets[name] == nil {
			t := r.m.Find(name)
			if t == nil {
				t = r.untied
			}
			r.targets[name] = &target{t: t}
		}
		r.targets[name].ops = append(r.targets[name].ops, touched[name]...)
	}
}

// untie decides what happens when an adapter changes one of two matrices that are the same tensor.
// In PEFT a change of the embedding is one of the lookup alone, and a change of the head one of the
// logits alone, so the two become different matrices; unless the adapter was trained with
// ensure_weight_tying.
func (r *resolver) untie(a *Adapter, touched map[string][]op) {
	if r.tied == nil || r.untied != nil {
		return
	}
	lookup := touched[r.tied.Name]
	head := touched[r.headName]
	if len(head) == 0 {
		if len(lookup) == 0 {
			return
		}
		onlyCopy := len(lookup) == 1 && lookup[0].saved != nil && lookup[0].saved.base
		if onlyCopy {
			return
		}
		if a.Config.KeepTies {
			r.notes = append(r.notes, fmt.Sprintf("%s asks for tied weights: the change of %s also changes the output matrix", a.Name(), r.tied.Name))
			return
		}
	}
	r.untied = r.newHead()
	r.notes = append(r.notes, fmt.Sprintf("%s and the output matrix were one tensor; the adapter %s changes only one of them, so %s is now a tensor of its own",
		r.tied.Name, a.Name(), r.headName))
}

// newHead is the embedding under the name and role of the head.
func (r *resolver) newHead() *ir.Tensor {
	h := *r.tied
	h.Name, h.Aliases, h.Role = r.headName, []string{"lm_head.weight"}, ir.RoleUnknown
	if r.headName == "lm_head.weight" {
		h.Aliases = []string{"output.weight"}
	}
	if r.tied.Role == ir.RoleEmbedding {
		h.Role = ir.RoleHead
	}
	return &h
}

func (r *resolver) fail(a *Adapter, tensor string, err error, hint string) {
	r.errs = append(r.errs, &fault.Error{File: a.File, Tensor: tensor, Op: passName, Err: err, Hint: hint})
}

func (r *resolver) baseHint(a *Adapter) string {
	if a.Config.Base == "" {
		return "is this the adapter's base model?"
	}
	if r.names(a.Config.Base) {
		return fmt.Sprintf("this base has the name that the adapter gives, %q, and yet does not fit: one of the two is another version", a.Config.Base)
	}
	return fmt.Sprintf("the adapter names base model %q: give that as the base", a.Config.Base)
}

// names reports whether the model's path has the name that an adapter gives its base.
func (r *resolver) names(base string) bool {
	return slices.Contains(strings.Split(filepath.ToSlash(r.m.Path), "/"), filepath.Base(base))
}

// find looks a name up: as it is, without leading wrappers ("transformer.h.0" is "h.0" in files
// saved from the inner model), or as the end of exactly one name ("language_model.model...").
func (r *resolver) find(name string) (*ir.Tensor, error) {
	if r.untied != nil && name == "lm_head.weight" {
		return r.untied, nil
	}
	if t := r.m.Find(name); t != nil {
		return t, nil
	}
	if r.tied != nil && isLeaf(name, heads) && strings.Count(name, ".") == 1 {
		return r.newHead(), nil
	}
	for rest := name; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok || strings.Count(after, ".") < 1 || after[0] >= '0' && after[0] <= '9' {
			break
		}
		rest = after
		if t := r.m.Find(rest); t != nil {
			return t, nil
		}
	}
	var found *ir.Tensor
	for _, t := range r.m.Tensors() {
		for _, n := range append([]string{t.Name}, t.Aliases...) {
			if !strings.HasSuffix(n, "."+name) {
				continue
			}
			if found != nil && found != t {
				return nil, fmt.Errorf("%w: both %s and %s end like it", ErrNoMatch, found.Name, t.Name)
			}
			found = t
		}
	}
	return found, nil
}

// reportLost turns tensors without a target into one error, or into skipped lines when the user
// allowed a partial merge. A merge never leaves out part of an adapter by itself.
func (r *resolver) reportLost(a *Adapter, lost []string) {
	if len(lost) == 0 {
		return
	}
	if r.partial {
		for _, name := range lost {
			r.skipped[name] = "the base has no such layer (allowed by the user)"
		}
		return
	}
	names := make([]string, 0, 2*len(r.m.Tensors()))
	for _, t := range r.m.Tensors() {
		names = append(append(names, t.Name), t.Aliases...)
	}
	show := lost
	more := ""
	if len(show) > 4 {
		show, more = show[:4], fmt.Sprintf(" and %d more", len(lost)-4)
	}
	total := len(a.modules) + len(a.saved)
	text := fmt.Sprintf("%d of %d: %s%s", len(lost), total, strings.Join(show, ", "), more)
	module, _, ok := splitName(lost[0])
	if !ok {
		module, _ = savedName(lost[0])
	}
	hint := r.baseHint(a)
	if near := nearest(strings.TrimSuffix(module, ".weight")+".weight", names); near != "" {
		hint = fmt.Sprintf("the nearest tensor of the base is %q; %s", near, hint)
	}
	r.fail(a, "", fmt.Errorf("%w: %s", ErrNoMatch, text), hint)
}

// nearest is the closest name; when none is close enough to be a slip, the one that shares most
// segments.
func nearest(name string, known []string) string {
	if n := human.Nearest(name, known); n != "" {
		return n
	}
	best, most := "", 0
	for _, k := range known {
		shared := 0
		for _, seg := range strings.Split(k, ".") {
			if strings.Contains("."+name+".", "."+seg+".") && seg != "weight" {
				shared++
			}
		}
		if strings.HasSuffix(k, ".weight") && shared > most {
			best, most = k, shared
		}
	}
	if best == "" && len(known) > 0 {
		return known[0]
	}
	return best
}
