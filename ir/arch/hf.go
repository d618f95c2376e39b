package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/pare-dev/pare/ir"
)

// FromHF reads a config.json. Of an encoder it finds the architecture only: see EncoderFromHF. The
// architecture is nil with ErrUnknown when no description fits; it
// is set without a Decoder when a key asks for mathematics that pare does not compute, so that
// names and roles are still known. Notes are keys that were not understood and have no effect in
// transformers either.
func FromHF(config []byte) (a *Arch, d *ir.Decoder, notes []string, err error) {
	c, err := parseConfig(config)
	if err != nil {
		return nil, nil, nil, err
	}
	modelType, _ := c["model_type"].(string)
	var classes []string
	if list, ok := c["architectures"].([]any); ok {
		for _, v := range list {
			if s, ok := v.(string); ok {
				classes = append(classes, s)
			}
		}
	}
	if a = byHF(modelType, classes); a == nil {
		name := modelType
		if name == "" {
			name = strings.Join(classes, ", ")
		}
		return nil, nil, nil, fmt.Errorf("%w: %q; known are %s", ErrUnknown, name, strings.Join(Names(), ", "))
	}
	if a.Encodes() {
		return a, nil, nil, nil
	}
	isClass := func(c string) bool { return strings.EqualFold(c, a.HF.Class) } // early Llama folders say LLaMAForCausalLM
	if len(classes) > 0 && !slices.ContainsFunc(classes, isClass) {
		return a, nil, nil, fmt.Errorf("%w: class %s (a %s as %s is)", ErrUnsupported, strings.Join(classes, ", "), modelType, a.HF.Class)
	}
	r := &reader{a: a, c: c, used: map[string]bool{}}
	d = r.decoder()
	if err := errors.Join(r.errs...); err != nil {
		return a, nil, nil, err
	}
	return a, d, r.notes(), nil
}

// parseConfig reads one JSON object, keeping numbers exact.
func parseConfig(config []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(config))
	dec.UseNumber()
	var c map[string]any
	if err := dec.Decode(&c); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if c == nil {
		return nil, fmt.Errorf("config.json: %w: null", ErrBadValue)
	}
	if dec.More() {
		return nil, fmt.Errorf("config.json: %w: something follows the object", ErrBadValue)
	}
	return c, nil
}

// reader collects hyper-parameters and everything wrong with them.
type reader struct {
	a    *Arch
	c    map[string]any
	used map[string]bool
	errs []error
}

func (r *reader) fail(format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("config.json: "+format, args...))
}

// number reads a key of m; ok is false when it is absent or null.
func (r *reader) number(m map[string]any, key string) (v float64, ok bool) {
	r.used[key] = true
	switch x := m[key].(type) {
	case nil:
		return 0, false
	case json.Number:
		v, err := x.Float64()
		if err != nil || math.IsInf(v, 0) {
			r.fail("%w: %q is %s", ErrBadValue, key, x)
		}
		return v, true
	default:
		r.fail("%w: %q is %v, not a number", ErrBadValue, key, x)
		return 0, false
	}
}

func (r *reader) boolean(key string) bool {
	r.used[key] = true
	switch x := r.c[key].(type) {
	case nil:
		return false
	case bool:
		return x
	default:
		r.fail("%w: %q is %v, not true or false", ErrBadValue, key, x)
		return false
	}
}

// maxCount bounds counts and widths, so that their products stay in range.
const maxCount = 1 << 30

// count reads a hyper-parameter that counts something, by pare's name for it.
func (r *reader) count(field string, fallback int) int {
	key := r.a.HF.Keys[field]
	v, ok := r.number(r.c, key)
	if !ok {
		if def, has := r.a.HF.Defaults[field]; has {
			if _, null := r.c[key]; !null { // a null does not take the default of the class
				return int(def)
			}
		}
		if fallback == 0 {
			r.fail("%w: %q", ErrMissing, key)
		}
		return fallback
	}
	if v < 1 || v > maxCount || v != math.Trunc(v) {
		r.fail("%w: %q is %v", ErrBadValue, key, v)
		return 1
	}
	return int(v)
}

func (r *reader) decoder() *ir.Decoder {
	d := &ir.Decoder{QKNorm: r.a.QKNorm}
	d.Layers = r.count("layers", 0)
	d.Hidden = r.count("hidden", 0)
	d.FFN = r.count("ffn", 0)
	d.Heads = r.count("heads", 0)
	d.Vocab = r.count("vocab", 0)
	d.Context = r.count("context", 0)
	d.KVHeads = r.count("kv_heads", d.Heads)
	d.HeadDim = r.count("head_dim", d.Hidden/max(d.Heads, 1))
	if eps, ok := r.number(r.c, r.a.HF.Keys["norm_eps"]); ok {
		d.NormEps = float32(eps)
	} else {
		d.NormEps = float32(r.a.HF.Defaults["norm_eps"])
	}
	d.TiedHead = r.boolean("tie_word_embeddings")
	for _, role := range sortedRoles(r.a.Biases) {
		if key := r.a.Biases[role]; key == "always" || key != "" && r.boolean(key) {
			d.Biases = append(d.Biases, role)
		}
	}
	r.rope(d)
	r.window(d)
	r.allowed()
	if err := check(d); err != nil {
		r.fail("%w", err)
	}
	return d
}

// check refuses values that no model computes with, whatever container they come from.
func check(d *ir.Decoder) error {
	switch {
	case d.HeadDim < 2 || d.HeadDim%2 != 0:
		return fmt.Errorf("%w: heads of %d elements cannot be rotated in pairs", ErrBadValue, d.HeadDim)
	case d.KVHeads < 1 || d.Heads%d.KVHeads != 0:
		return fmt.Errorf("%w: %d heads do not share %d key/value heads evenly", ErrBadValue, d.Heads, d.KVHeads)
	case !(d.NormEps >= 0 && d.NormEps < 1):
		return fmt.Errorf("%w: norm epsilon %v", ErrBadValue, d.NormEps)
	case !(d.RopeTheta > 0) || math.IsInf(d.RopeTheta, 0):
		return fmt.Errorf("%w: RoPE base %v", ErrBadValue, d.RopeTheta)
	case d.Layers > 1<<16:
		return fmt.Errorf("%w: %d layers", ErrBadValue, d.Layers)
	}
	return nil
}

// sameScaling compares the older form of RoPE scaling with the newer; only the newer holds the base.
func sameScaling(old, now map[string]any) bool {
	kind := func(p map[string]any) string {
		for _, key := range []string{"rope_type", "type"} {
			if s, _ := p[key].(string); s != "" {
				return s
			}
		}
		return "default"
	}
	if kind(old) != kind(now) {
		return false
	}
	for key, v := range old {
		if key == "type" || key == "rope_type" {
			continue
		}
		if w, ok := now[key]; !ok || fmt.Sprint(w) != fmt.Sprint(v) {
			return false
		}
	}
	return true
}

// rope reads rope_parameters as transformers 5 writes it, or rope_theta and rope_scaling as
// version 4 does.
func (r *reader) rope(d *ir.Decoder) {
	theta, haveTheta := r.number(r.c, "rope_theta")
	r.used["rope_scaling"], r.used["rope_parameters"] = true, true
	where := "rope_parameters"
	p, _ := r.c[where].(map[string]any)
	if p == nil {
		where = "rope_scaling"
		p, _ = r.c[where].(map[string]any)
	} else {
		if v, ok := r.number(p, "rope_theta"); ok {
			theta, haveTheta = v, true
		}
		if old, _ := r.c["rope_scaling"].(map[string]any); old != nil && !sameScaling(old, p) {
			d.RopeTheta = theta
			// transformers 5 takes the older key, other readers the newer: whoever wrote both meant one
			r.fail("%w: rope_scaling and rope_parameters ask for different things; remove the one that is not meant", ErrBadValue)
			return
		}
	}
	if !haveTheta {
		theta = 10000
	}
	d.RopeTheta = theta
	kind, _ := p["rope_type"].(string)
	if kind == "" {
		kind, _ = p["type"].(string)
	}
	need := func(key string) float64 {
		v, ok := r.number(p, key)
		if !ok {
			r.fail("%w: %q of %s", ErrMissing, key, where)
		} else if !(v > 0 && v <= maxCount) {
			r.fail("%w: %q of %s is %v", ErrBadValue, key, where, v)
		}
		return v
	}
	known := []string{"rope_theta", "rope_type", "type"}
	switch kind {
	case "", "default":
	case "linear":
		known = append(known, "factor")
		d.RopeScaling = &ir.RopeScaling{Kind: kind, Factor: need("factor")}
	case "llama3":
		known = append(known, "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
		d.RopeScaling = &ir.RopeScaling{
			Kind: kind, Factor: need("factor"), LowFreq: need("low_freq_factor"), HighFreq: need("high_freq_factor"),
			Original: int(need("original_max_position_embeddings")),
		}
		if d.RopeScaling.HighFreq <= d.RopeScaling.LowFreq {
			r.fail("%w: high_freq_factor %v is not above low_freq_factor %v", ErrBadValue, d.RopeScaling.HighFreq, d.RopeScaling.LowFreq)
		}
	default:
		r.fail("%w: %s has rope_type %q", ErrUnsupported, where, kind)
		return
	}
	for _, key := range sortedKeys(p) {
		if v, isNumber := p[key].(json.Number); key == "partial_rotary_factor" && isNumber && v.String() != "1" && v.String() != "1.0" {
			r.fail("%w: %s has partial_rotary_factor %s", ErrUnsupported, where, v)
		} else if key != "partial_rotary_factor" && !slices.Contains(known, key) && kind != "" && kind != "default" {
			r.fail("%w: %s of type %q has the key %q", ErrUnsupported, where, kind, key)
		} else if _, nested := p[key].(map[string]any); nested {
			r.fail("%w: %s differs from layer to layer", ErrUnsupported, where)
		}
	}
}

// window reads the sliding window. Which layers have it is said by layer_types, or by
// max_window_layers in older files.
func (r *reader) window(d *ir.Decoder) {
	if r.a.HF.Window == "none" {
		return
	}
	w, ok := r.number(r.c, "sliding_window")
	if r.a.HF.Window == "switched" && !r.boolean("use_sliding_window") {
		ok = false
	}
	r.used["layer_types"] = true
	if !ok {
		return
	}
	if w < 1 || w > maxCount || w != math.Trunc(w) {
		r.fail("%w: \"sliding_window\" is %v", ErrBadValue, w)
		return
	}
	d.Window = int(w)
	if types, ok := r.c["layer_types"].([]any); ok {
		if len(types) != d.Layers {
			r.fail("%w: \"layer_types\" has %d entries for %d layers", ErrBadValue, len(types), d.Layers)
			return
		}
		for i, v := range types {
			switch v {
			case "sliding_attention", "full_attention":
				d.WindowLayers = append(d.WindowLayers, v == "sliding_attention")
			default:
				r.fail("%w: \"layer_types\" of layer %d is %v", ErrUnsupported, i, v)
			}
		}
	} else if first, ok := r.number(r.c, "max_window_layers"); ok && r.a.HF.Window == "switched" && d.Layers <= 1<<16 {
		for i := range d.Layers {
			d.WindowLayers = append(d.WindowLayers, float64(i) >= first)
		}
	}
	switch {
	case !slices.Contains(d.WindowLayers, false):
		d.WindowLayers = nil // all layers
	case !slices.Contains(d.WindowLayers, true):
		d.Window, d.WindowLayers = 0, nil
	}
}

// allowed refuses values that change the mathematics.
func (r *reader) allowed() {
	for _, key := range sortedKeys(r.a.HF.Allowed) {
		r.used[key] = true
		v := r.c[key]
		if v == nil {
			continue
		}
		fits := false
		for _, want := range r.a.HF.Allowed[key] {
			n, isNumber := v.(json.Number)
			if isNumber {
				f, err := n.Float64()
				fits = fits || err == nil && fmt.Sprint(f) == fmt.Sprint(want)
			}
			fits = fits || v == want
		}
		if !fits {
			r.fail("%w: %q is %v", ErrUnsupported, key, v)
		}
	}
}

// notes lists the keys that nothing above has looked at.
func (r *reader) notes() (notes []string) {
	for _, key := range sortedKeys(r.c) {
		if !r.used[key] && !slices.Contains(r.a.HF.Ignored, key) && r.c[key] != nil && r.c[key] != false {
			notes = append(notes, fmt.Sprintf("config.json: key %q is not part of %s and has no effect", key, r.a.Name))
		}
	}
	return notes
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func sortedRoles(m map[ir.Role]string) []ir.Role {
	keys := make([]ir.Role, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
