package arch

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/pare-dev/pare/ir"
)

// Config makes a config.json for a decoder that did not come from one. It is written with the keys
// of transformers 4, which version 5 reads too. extra keys are added as they are.
func (a *Arch) Config(d *ir.Decoder, extra map[string]any) (config []byte, notes []string, err error) {
	c := map[string]any{
		"architectures":       []string{a.HF.Class},
		"model_type":          a.HF.ModelType,
		"hidden_act":          "silu",
		"tie_word_embeddings": d.TiedHead,
		"rope_theta":          d.RopeTheta,
		"rope_scaling":        nil,
		"attention_dropout":   0.0,
	}
	for field, v := range map[string]int{
		"layers": d.Layers, "hidden": d.Hidden, "ffn": d.FFN, "heads": d.Heads, "kv_heads": d.KVHeads, "head_dim": d.HeadDim,
		"vocab": d.Vocab, "context": d.Context,
	} {
		c[a.HF.Keys[field]] = v
	}
	c[a.HF.Keys["norm_eps"]] = shortest(d.NormEps)
	if err := a.biasConfig(c, d); err != nil {
		return nil, nil, err
	}
	if err := a.windowConfig(c, d); err != nil {
		return nil, nil, err
	}
	scaling := d.RopeScaling
	if d.RopeFactors != nil {
		if scaling = Llama3(d.RopeFactors, d.RopeTheta, d.HeadDim, d.Context); scaling == nil {
			return nil, nil, fmt.Errorf("%w: config.json cannot hold RoPE factors that no llama3 scaling explains", ErrUnsupported)
		}
		notes = append(notes, fmt.Sprintf("RoPE factors written as llama3 scaling: factor %v, original context %d", scaling.Factor, scaling.Original))
	}
	if s := scaling; s != nil {
		r := map[string]any{"rope_type": s.Kind, "factor": s.Factor}
		if s.Kind == "llama3" {
			r["low_freq_factor"], r["high_freq_factor"], r["original_max_position_embeddings"] = s.LowFreq, s.HighFreq, s.Original
		}
		c["rope_scaling"] = r
	}
	maps.Copy(c, extra)
	b, err := json.MarshalIndent(c, "", "  ")
	return append(b, '\n'), notes, err
}

// shortest is the shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06.
func shortest(x float32) json.Number {
	return json.Number(strconv.FormatFloat(float64(x), 'g', -1, 32))
}

// Resized lists the keys of a config.json that say something else about dimensions than d, with the values
// that are right: what a pass that made the model smaller has changed. Sizes that follow from others where
// a key is absent are written out.
func Resized(config []byte, d *ir.Decoder) map[string]any {
	a, was, _, err := FromHF(config)
	if err != nil || was == nil {
		return nil
	}
	c, err := parseConfig(config)
	if err != nil {
		return nil
	}
	set := map[string]any{}
	for _, x := range []struct {
		field    string
		old, now int
	}{
		{"layers", was.Layers, d.Layers},
		{"hidden", was.Hidden, d.Hidden},
		{"ffn", was.FFN, d.FFN},
		{"heads", was.Heads, d.Heads},
		{"kv_heads", was.KVHeads, d.KVHeads},
		{"head_dim", was.HeadDim, d.HeadDim},
	} {
		if x.old != x.now {
			set[a.HF.Keys[x.field]] = x.now
		}
	}
	if was.NormEps != d.NormEps {
		set[a.HF.Keys["norm_eps"]] = shortest(d.NormEps)
	}
	if was.Hidden != d.Hidden || was.Heads != d.Heads {
		set[a.HF.Keys["head_dim"]], set[a.HF.Keys["kv_heads"]] = d.HeadDim, d.KVHeads
	}
	if was.Layers == d.Layers {
		return set
	}
	types, first := make([]string, d.Layers), d.Layers
	for i := range types {
		types[i] = "full_attention"
		if d.Windowed(i) {
			types[i], first = "sliding_attention", min(first, i)
		}
	}
	if _, ok := c["layer_types"].([]any); ok {
		set["layer_types"] = types
	}
	if _, ok := c["max_window_layers"].(json.Number); ok {
		set["max_window_layers"] = first
	}
	return set
}

// biasConfig sets the keys that decide over biases; the set must be one that they can express.
func (a *Arch) biasConfig(c map[string]any, d *ir.Decoder) error {
	for _, key := range a.Biases {
		if key != "" && key != "always" {
			c[key] = false
		}
	}
	for _, r := range d.Biases {
		switch key := a.Biases[r]; key {
		case "":
			return fmt.Errorf("%w: config.json of %s has no %s", ErrUnsupported, a.Name, r)
		case "always":
		default:
			c[key] = true
		}
	}
	for r, key := range a.Biases {
		if on, _ := c[key].(bool); (on || key == "always") && !slices.Contains(d.Biases, r) {
			return fmt.Errorf("%w: config.json of %s cannot leave out %s alone", ErrUnsupported, a.Name, r)
		}
	}
	return nil
}

func (a *Arch) windowConfig(c map[string]any, d *ir.Decoder) error {
	if a.HF.Window == "none" {
		if d.Window > 0 {
			return fmt.Errorf("%w: config.json of %s has no sliding window", ErrUnsupported, a.Name)
		}
		return nil
	}
	c["sliding_window"] = nil
	if a.HF.Window == "switched" {
		c["use_sliding_window"] = d.Window > 0
		c["max_window_layers"] = d.Layers
	}
	if d.Window == 0 {
		return nil
	}
	c["sliding_window"] = d.Window
	types := make([]string, d.Layers)
	for i := range types {
		types[i] = "full_attention"
		if d.Windowed(i) {
			types[i] = "sliding_attention"
		}
	}
	switch first := slices.Index(types, "sliding_attention"); {
	case a.HF.Window == "switched":
		if slices.Contains(types[first:], "full_attention") {
			return fmt.Errorf("%w: sliding and full layers alternate", ErrUnsupported)
		}
		c["max_window_layers"], c["layer_types"] = first, types
	case first != 0 || slices.Contains(types, "full_attention"):
		return fmt.Errorf("%w: %s has its window in every layer", ErrUnsupported, a.Name)
	}
	return nil
}

// Llama3 finds the llama3 scaling that a list of RoPE factors comes from, or nil. Published models
// all use low and high frequency factors of 1 and 4; the factor is the largest entry, and the
// original context is a power of two below the stretched one.
func Llama3(factors []float32, theta float64, headDim, context int) *ir.RopeScaling {
	if len(factors) == 0 || len(factors) != headDim/2 {
		return nil
	}
	s := &ir.RopeScaling{Kind: "llama3", Factor: float64(slices.Max(factors)), LowFreq: 1, HighFreq: 4}
	for s.Original = 16; s.Original <= max(context, 16); s.Original *= 2 {
		near := true
		for i, v := range s.Factors(theta, headDim) {
			near = near && math.Abs(float64(v-factors[i])) <= 1e-5*float64(v)
		}
		if near {
			return s
		}
	}
	return nil
}
