package lora

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
)

// mixed is what to try when configuration and weights of an adapter disagree.
const mixed = "configuration and weights come from different trainings: copy the whole folder again"

// part says which of a module's tensors a name stands for.
type part int

const (
	partA part = iota
	partB
	partBias
	partEmbeddingA
	partEmbeddingB
	partMagnitude
	partIA3
)

// parts are the endings that PEFT gives a module's tensors. Files written by PEFT leave out the
// adapter's name; state dicts saved otherwise have it as one more segment, as older files have
// ".weight" after the magnitude.
var parts = []struct {
	mark string
	part part
	ends []string // what may follow the mark; * is the adapter's name
}{
	{".lora_A", partA, []string{".weight", ".*.weight"}},
	{".lora_B", partB, []string{".weight", ".*.weight"}},
	{".lora_B", partBias, []string{".bias", ".*.bias"}},
	{".lora_embedding_A", partEmbeddingA, []string{"", ".*"}},
	{".lora_embedding_B", partEmbeddingB, []string{"", ".*"}},
	{".lora_magnitude_vector", partMagnitude, []string{"", ".weight", ".*.weight", ".*"}},
	{".ia3_l", partIA3, []string{"", ".*"}},
}

// prefix is what PEFT puts before the name of every module.
const prefix = "base_model.model."

// splitName takes the name of a tensor of the file apart. ok is false for tensors that stand for
// a tensor of the base.
func splitName(name string) (moduleName string, p part, ok bool) {
	name = strings.TrimPrefix(name, prefix)
	for _, c := range parts {
		i := strings.LastIndex(name, c.mark)
		if i < 0 {
			continue
		}
		rest := name[i+len(c.mark):]
		for _, end := range c.ends {
			before, after, star := strings.Cut(end, "*")
			if rest == end || star && strings.HasPrefix(rest, before) && strings.HasSuffix(rest, after) &&
				len(rest) > len(before)+len(after) && !strings.Contains(rest[len(before):len(rest)-len(after)], ".") {
				return name[:i], c.part, true
			}
		}
	}
	return "", 0, false
}

// savedName is the name of the base tensor that a tensor of the file replaces.
func savedName(name string) (base string, copied bool) {
	name = strings.TrimPrefix(name, prefix)
	if dot := strings.LastIndex(name, "."); dot >= 0 {
		before, leaf := name[:dot], name[dot:]
		if b, ok := strings.CutSuffix(before, ".base_layer"); ok {
			return b + leaf, true
		}
		if i := strings.LastIndex(before, ".modules_to_save"); i >= 0 { // .modules_to_save.<adapter>.weight
			if rest := before[i+len(".modules_to_save"):]; strings.Count(rest, ".") <= 1 {
				return before[:i] + leaf, false
			}
		}
	}
	return name, false
}

// sort groups the tensors of the file into modules and replacements, and checks them.
func (a *Adapter) sort(tensors []*tensor) error {
	modules := map[string]*module{}
	var errs []error
	fail := func(t *tensor, err error, hint string) {
		errs = append(errs, &fault.Error{File: a.File, Tensor: t.name, Op: "lora", Err: err, Hint: hint})
	}
	replaced := map[string]*saved{}
	for _, t := range tensors {
		if !storage.MustLookup(t.typ).Float {
			fail(t, fmt.Errorf("type %s is %w; adapters are floating point", t.typ, ErrUnsupported), "")
			continue
		}
		if t.elems() == 0 {
			fail(t, fmt.Errorf("%w: %v holds no element", ErrShape, t.shape), "")
			continue
		}
		name, p, ok := splitName(t.name)
		if !ok {
			if strings.Contains(t.name, "trainable_tokens") || strings.Contains(t.name, "lora_") || strings.Contains(t.name, "token_adapter") {
				fail(t, fmt.Errorf("a tensor of this kind is %w", ErrUnsupported), "")
				continue
			}
			base, copied := savedName(t.name)
			if replaced[base] != nil {
				fail(t, fmt.Errorf("%w: it replaces %q, as %q does", ErrConfig, base, replaced[base].t.name), "")
				continue
			}
			replaced[base] = &saved{name: base, t: t, base: copied}
			continue
		}
		m := modules[name]
		if m == nil {
			m = &module{name: name}
			modules[name] = m
		}
		at := m.slot(p)
		if *at != nil {
			fail(t, fmt.Errorf("%w: a second tensor beside %q", ErrConfig, (*at).name), "")
			continue
		}
		*at = t
	}
	for _, name := range sortedKeys(modules) {
		m := modules[name]
		errs = append(errs, a.check(m)...)
		a.modules = append(a.modules, m)
	}
	for _, name := range sortedKeys(replaced) {
		a.saved = append(a.saved, replaced[name])
	}
	if len(errs) == 0 && len(modules) == 0 && len(replaced) == 0 {
		errs = append(errs, &fault.Error{File: a.File, Op: "lora", Err: fmt.Errorf("%w: the file holds no tensor", ErrMissing)})
	}
	return join(slices.DeleteFunc(errs, func(err error) bool { return err == nil }))
}

func (m *module) slot(p part) **tensor {
	switch p {
	case partA:
		return &m.a
	case partB:
		return &m.b
	case partBias:
		return &m.bias
	case partMagnitude:
		return &m.magnitude
	case partIA3:
		return &m.ia3
	case partEmbeddingA:
		m.embedding = true
		return &m.a
	default:
		m.embedding = true
		return &m.b
	}
}

// check verifies that a module is complete and its ranks are those of the configuration.
func (a *Adapter) check(m *module) []error {
	fail := func(tensor string, err error, hint string) []error {
		return []error{&fault.Error{File: a.File, Tensor: tensor, Op: "lora", Err: err, Hint: hint}}
	}
	if a.Config.Type == "IA3" {
		if m.ia3 == nil || m.a != nil || m.b != nil {
			return fail(prefix+m.name, fmt.Errorf("%w: peft_type IA3 needs ia3_l and nothing else here", ErrMissing), "")
		}
		return nil
	}
	nameA, nameB := prefix+m.name+".lora_A.weight", prefix+m.name+".lora_B.weight"
	if m.embedding {
		nameA, nameB = prefix+m.name+".lora_embedding_A", prefix+m.name+".lora_embedding_B"
	}
	const truncated = "the file is incomplete: copy or export the adapter again"
	switch {
	case m.ia3 != nil:
		return fail(m.ia3.name, fmt.Errorf("ia3_l in an adapter of type %s is %w", a.Config.Type, ErrUnsupported), "")
	case m.a == nil:
		return fail(nameA, ErrMissing, truncated)
	case m.b == nil:
		return fail(nameB, ErrMissing, truncated)
	case a.Config.DoRA && m.magnitude == nil:
		return fail(prefix+m.name+".lora_magnitude_vector", fmt.Errorf("%w, and use_dora is set", ErrMissing), truncated)
	case !a.Config.DoRA && m.magnitude != nil:
		return fail(m.magnitude.name, fmt.Errorf("%w: a DoRA magnitude, and use_dora is not set", ErrConfig), "")
	case a.Config.LoRABias && m.bias == nil && !m.embedding:
		return fail(prefix+m.name+".lora_B.bias", fmt.Errorf("%w, and lora_bias is set", ErrMissing), truncated)
	case !a.Config.LoRABias && m.bias != nil:
		return fail(m.bias.name, fmt.Errorf("%w: a bias of B, and lora_bias is not set", ErrConfig), "")
	}
	want := a.Config.RankOf(m.name)
	if len(m.a.shape) < 2 || m.a.shape[0] != want {
		return fail(m.a.name, fmt.Errorf("%w: A is %v, rank %d; the configuration says rank %d", ErrRank, m.a.shape, m.a.shape[0], want), mixed)
	}
	if _, cols := m.b.flat(); len(m.b.shape) < 2 || cols != want {
		return fail(m.b.name, fmt.Errorf("%w: B is %v, rank %d; the configuration says rank %d", ErrRank, m.b.shape, cols, want), mixed)
	}
	m.rank, m.scale = want, a.Config.Scale(m.name)
	if m.scale-m.scale != 0 || math.Abs(m.scale) > math.MaxFloat32 {
		return fail(m.a.name, fmt.Errorf("%w: scale %v", ErrConfig, m.scale), "")
	}
	return nil
}
