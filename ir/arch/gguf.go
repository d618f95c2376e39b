package arch

import (
	"fmt"
	"math"
	"strings"

	"github.com/pare-dev/pare/ir"
)

// Source gives the metadata and the tensor shapes of a GGUF file.
type Source interface {
	// Value is the value of a key: an integer, float, string, bool or slice of the type stored.
	Value(key string) (any, bool)
	// Shape is the shape of a tensor, outermost dimension first.
	Shape(tensor string) ([]int, bool)
}

// FromGGUF reads the metadata of a GGUF file; see FromHF for what comes back, also of encoders. RoPE factors that the
// file stores as a tensor are not read here.
func FromGGUF(src Source) (a *Arch, d *ir.Decoder, notes []string, err error) {
	v, _ := src.Value("general.architecture")
	name, _ := v.(string)
	if a = ByGGUF(name); a == nil {
		return nil, nil, nil, fmt.Errorf("%w: %q; known are %s", ErrUnknown, name, strings.Join(Names(), ", "))
	}
	if a.Encodes() {
		return a, nil, nil, nil
	}
	r := &ggufReader{src: src, a: a}
	d = r.decoder()
	if len(r.errs) > 0 {
		return a, nil, nil, fmt.Errorf("GGUF metadata: %w", r.errs[0])
	}
	return a, d, r.notes, nil
}

type ggufReader struct {
	src   Source
	a     *Arch
	notes []string
	errs  []error
}

func (r *ggufReader) fail(format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf(format, args...))
}

// Number converts a metadata value of any numeric type; false for other types.
func Number(v any) (float64, bool) {
	switch x := v.(type) {
	case uint8:
		return float64(x), true
	case int8:
		return float64(x), true
	case uint16:
		return float64(x), true
	case int16:
		return float64(x), true
	case uint32:
		return float64(x), true
	case int32:
		return float64(x), true
	case uint64:
		return float64(x), true
	case int64:
		return float64(x), true
	case float32:
		return float64(x), true
	case float64:
		return x, true
	}
	return 0, false
}

// number reads "<arch>.<key>". A list whose entries are all equal counts as its entry: some
// converters write head counts layer by layer.
func (r *ggufReader) number(key string) (float64, bool) {
	full := r.a.GGUF.Arch + "." + key
	v, ok := r.src.Value(full)
	if !ok {
		return 0, false
	}
	switch list := v.(type) {
	case []uint32:
		v = uniform(list)
	case []int32:
		v = uniform(list)
	}
	f, ok := Number(v)
	if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
		r.fail("%w: %s is not one number", ErrBadValue, full)
		return 0, false
	}
	return f, true
}

func uniform[T comparable](list []T) any {
	for _, v := range list {
		if v != list[0] {
			return nil
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

func (r *ggufReader) count(field string, fallback int) int {
	key := r.a.GGUF.Keys[field]
	v, ok := r.number(key)
	if !ok {
		if fallback == 0 {
			r.fail("%w: %s.%s", ErrMissing, r.a.GGUF.Arch, key)
		}
		return fallback
	}
	if v < 1 || v > maxCount || v != math.Trunc(v) {
		r.fail("%w: %s.%s is %v", ErrBadValue, r.a.GGUF.Arch, key, v)
		return 1
	}
	return int(v)
}

func (r *ggufReader) decoder() *ir.Decoder {
	d := &ir.Decoder{QKNorm: r.a.QKNorm}
	d.Layers = r.count("layers", 0)
	d.Hidden = r.count("hidden", 0)
	d.FFN = r.count("ffn", 0)
	d.Heads = r.count("heads", 0)
	d.Context = r.count("context", 0)
	d.KVHeads = r.count("kv_heads", d.Heads)
	d.HeadDim = r.count("head_dim", d.Hidden/max(d.Heads, 1))
	eps, ok := r.number(r.a.GGUF.Keys["norm_eps"])
	if !ok {
		r.fail("%w: %s.%s", ErrMissing, r.a.GGUF.Arch, r.a.GGUF.Keys["norm_eps"])
	}
	d.NormEps = float32(eps)
	if shape, ok := r.src.Shape(r.a.GGUFName(ir.RoleEmbedding, -1)); ok && len(shape) == 2 {
		d.Vocab = shape[0]
	} else {
		r.fail("%w: tensor %s", ErrMissing, r.a.GGUFName(ir.RoleEmbedding, -1))
	}
	_, head := r.src.Shape(r.a.GGUFName(ir.RoleHead, -1))
	d.TiedHead = !head
	for _, role := range sortedRoles(r.a.GGUF.Names) {
		if strings.HasSuffix(string(role), "_bias") {
			if _, ok := r.src.Shape(r.a.GGUFName(role, 0)); ok || r.a.Biases[role] == "always" {
				d.Biases = append(d.Biases, role)
			}
		}
	}
	r.rope(d)
	if w, ok := r.number("attention.sliding_window"); ok && w > 0 {
		r.notes = append(r.notes, fmt.Sprintf("the file states a sliding window of %v tokens, which llama.cpp does not apply to architecture %s: nor does pare", w, r.a.GGUF.Arch))
	}
	if n, ok := r.number("expert_count"); ok && n > 0 {
		r.fail("%w: %v experts", ErrUnsupported, n)
	}
	if err := check(d); err != nil && len(r.errs) == 0 {
		r.fail("%w", err)
	}
	return d
}

func (r *ggufReader) rope(d *ir.Decoder) {
	d.RopeTheta = 10000 // what llama.cpp takes when the key is absent
	if theta, ok := r.number("rope.freq_base"); ok {
		d.RopeTheta = theta
	}
	for _, key := range []string{"rope.dimension_count", "attention.value_length"} {
		if n, ok := r.number(key); ok && int(n) != d.HeadDim {
			r.fail("%w: %s is %v, heads have %d elements", ErrUnsupported, key, n, d.HeadDim)
		}
	}
	kind := ""
	if v, ok := r.src.Value(r.a.GGUF.Arch + ".rope.scaling.type"); ok {
		kind, _ = v.(string)
	}
	factor, ok := r.number("rope.scaling.factor")
	if old, has := r.number("rope.scale_linear"); has && !ok { // files of 2023
		factor, ok, kind = old, true, "linear"
	}
	switch {
	case kind == "none" || kind == "" && !ok:
	case kind == "linear" || kind == "": // llama.cpp takes linear when only the factor is there
		if !(factor > 0) {
			r.fail("%w: rope.scaling.factor is %v", ErrBadValue, factor)
		} else if factor != 1 {
			d.RopeScaling = &ir.RopeScaling{Kind: "linear", Factor: factor}
		}
	default:
		r.fail("%w: rope.scaling.type is %q", ErrUnsupported, kind)
	}
}

// KV is one metadata entry for a GGUF file.
type KV struct {
	Key   string
	Value any
}

// GGUFKeys lists the hyper-parameters as GGUF metadata, in the order of llama.cpp's converter.
// Also those that loaders would silently assume are written. What the container cannot express is
// an error, or a note when the runtime would compute something else without it.
func (a *Arch) GGUFKeys(d *ir.Decoder) (kv []KV, notes []string, err error) {
	add := func(key string, v any) { kv = append(kv, KV{a.GGUF.Arch + "." + key, v}) }
	field := func(name string, v int) { add(a.GGUF.Keys[name], uint32(v)) } //nolint:gosec // at most maxCount
	field("layers", d.Layers)
	field("context", d.Context)
	field("hidden", d.Hidden)
	field("ffn", d.FFN)
	field("heads", d.Heads)
	field("kv_heads", d.KVHeads)
	if s := d.RopeScaling; s != nil {
		switch {
		case s.Kind == "linear":
			add("rope.scaling.type", "linear")
			add("rope.scaling.factor", float32(s.Factor))
		case !a.GGUF.RopeTensor:
			return nil, nil, fmt.Errorf("%w: GGUF files of %s cannot express %s RoPE scaling", ErrUnsupported, a.GGUF.Arch, s.Kind)
		}
	}
	add("rope.freq_base", float32(d.RopeTheta))
	add(a.GGUF.Keys["norm_eps"], d.NormEps)
	field("head_dim", d.HeadDim)
	add("attention.value_length", uint32(d.HeadDim)) //nolint:gosec // at most maxCount
	if d.Window > 0 {
		// Measured with v0.5.0: the key attention.sliding_window changes nothing for these
		// architectures. It is left out, so that the file says what its runtime computes and a
		// comparison with the source shows the loss.
		notes = append(notes, fmt.Sprintf("llama.cpp has no sliding window for architecture %s: the file computes as without the source's window of %d tokens, and differs once a text is longer", a.GGUF.Arch, d.Window))
	}
	add("vocab_size", uint32(d.Vocab))             //nolint:gosec // at most maxCount
	add("rope.dimension_count", uint32(d.HeadDim)) //nolint:gosec // at most maxCount
	return kv, notes, nil
}
