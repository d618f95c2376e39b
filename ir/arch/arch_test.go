package arch

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/ir"
)

const fixtures = "../../testdata/architectures"

func config(t testing.TB, name, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, name, file))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// want is written by hand from the tables of testdata/architectures/README.md.
var want = map[string]ir.Decoder{
	"llama": {
		Layers: 2, Hidden: 256, FFN: 256, Heads: 8, KVHeads: 2, HeadDim: 32, Vocab: 304, Context: 256, NormEps: 1e-5, RopeTheta: 500000,
		RopeScaling: &ir.RopeScaling{Kind: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, Original: 32},
	},
	"mistral": {Layers: 3, Hidden: 64, FFN: 144, Heads: 4, KVHeads: 2, HeadDim: 24, Vocab: 320, Context: 128, NormEps: 1e-5, RopeTheta: 10000, Window: 12},
	"qwen2": {
		Layers: 3, Hidden: 64, FFN: 160, Heads: 4, KVHeads: 1, HeadDim: 16, Vocab: 296, Context: 128, NormEps: 1e-6, RopeTheta: 1e6, TiedHead: true,
		Biases: []ir.Role{ir.RoleAttnKBias, ir.RoleAttnQBias, ir.RoleAttnVBias},
	},
	"qwen3": {Layers: 3, Hidden: 64, FFN: 128, Heads: 6, KVHeads: 2, HeadDim: 16, Vocab: 288, Context: 128, NormEps: 1e-6, RopeTheta: 1e6, QKNorm: true},
}

func TestFromHF(t *testing.T) {
	for name, w := range want {
		for _, file := range []string{"config.json", "config-v4.json"} {
			a, d, notes, err := FromHF(config(t, name, file))
			if err != nil || a.Name != name || len(notes) > 0 || !reflect.DeepEqual(*d, w) {
				t.Errorf("%s/%s: %+v, notes %v, error %v; want %+v", name, file, d, notes, err, w)
			}
		}
	}
}

// TestConfigRoundTrip: a generated config.json describes the same decoder.
func TestConfigRoundTrip(t *testing.T) {
	decoders := map[string]ir.Decoder{}
	for name, d := range want {
		decoders[name] = d
	}
	linear := want["llama"]
	linear.RopeScaling = &ir.RopeScaling{Kind: "linear", Factor: 2.5}
	windows := want["qwen2"]
	windows.Window, windows.WindowLayers = 7, []bool{false, true, true}
	biased := want["llama"]
	biased.Biases = []ir.Role{ir.RoleAttnKBias, ir.RoleAttnOBias, ir.RoleAttnQBias, ir.RoleAttnVBias, ir.RoleMLPDownBias, ir.RoleMLPGateBias, ir.RoleMLPUpBias}
	for _, d := range []struct {
		name string
		d    ir.Decoder
	}{{"llama", want["llama"]}, {"mistral", want["mistral"]}, {"qwen2", want["qwen2"]}, {"qwen3", want["qwen3"]}, {"llama", linear}, {"qwen2", windows}, {"llama", biased}} {
		b, _, err := ByName(d.name).Config(&d.d, map[string]any{"torch_dtype": "bfloat16"})
		if err != nil {
			t.Errorf("%s: %v", d.name, err)
			continue
		}
		a, got, notes, err := FromHF(b)
		if err != nil || a.Name != d.name || len(notes) > 0 || !reflect.DeepEqual(*got, d.d) {
			t.Errorf("%s: %+v, notes %v, error %v; want %+v\n%s", d.name, got, notes, err, d.d, b)
		}
	}
	odd := want["llama"]
	odd.RopeScaling, odd.RopeFactors = nil, slices.Repeat([]float32{3.7}, 16)
	odd.RopeFactors[0] = 5
	alternating := want["qwen2"]
	alternating.Window, alternating.WindowLayers = 7, []bool{true, false, true}
	few := want["llama"]
	few.Biases = []ir.Role{ir.RoleAttnQBias}
	for name, d := range map[string]ir.Decoder{"llama": odd, "qwen2": alternating, "qwen3": few} {
		if _, _, err := ByName(name).Config(&d, nil); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: what config.json cannot say: %v", name, err)
		}
	}
}

// TestLlama3 finds the published scaling of Llama 3.1 and 3.2 again from its factors.
func TestLlama3(t *testing.T) {
	for _, s := range []ir.RopeScaling{
		{Kind: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, Original: 8192},
		{Kind: "llama3", Factor: 32, LowFreq: 1, HighFreq: 4, Original: 8192},
	} {
		for _, dim := range []int{64, 128} {
			if got := Llama3(s.Factors(500000, dim), 500000, dim, 131072); got == nil || *got != s {
				t.Errorf("head of %d: got %+v, want %+v", dim, got, s)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, a := range load() {
		for role := range a.HF.Names {
			if a.HF.Names[role] == "" || a.GGUF.Names[role] == "" && a.Encodes() {
				continue // a sibling's; GGUF files have no pooler
			}
			for _, block := range []int{0, 7, 123} {
				hf, gguf := a.HFName(role, block), a.GGUFName(role, block)
				r1, b1, ok1 := a.HFRole(hf)
				r2, b2, ok2 := a.GGUFRole(gguf)
				if !strings.Contains(a.HF.Names[role], hole) {
					block = -1
				}
				if !ok1 || !ok2 || r1 != role || r2 != role || b1 != block || b2 != block {
					t.Errorf("%s: %s of block %d is %q (%s %d) and %q (%s %d)", a.Name, role, block, hf, r1, b1, gguf, r2, b2)
				}
			}
		}
	}
	a := ByName("llama")
	for _, bad := range []string{
		"model.layers.01.mlp.up_proj.weight", "model.layers.-1.mlp.up_proj.weight", "model.layers.+1.mlp.up_proj.weight", "model.layers..mlp.up_proj.weight",
		"model.layers.1.2.mlp.up_proj.weight", "model.layers.99999999999999999999.mlp.up_proj.weight", "model.layers.1.self_attn.rotary_emb.inv_freq", "",
	} {
		if r, b, ok := a.HFRole(bad); ok {
			t.Errorf("%q is %s of block %d", bad, r, b)
		}
	}
}

// TestWindows: the three ways in which configurations spell sliding windows.
func TestWindows(t *testing.T) {
	base := string(config(t, "qwen2", "config-v4.json"))
	with := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(base) }
	on := []string{`"use_sliding_window": false`, `"use_sliding_window": true`, `"sliding_window": null`, `"sliding_window": 9`}
	for name, tc := range map[string]struct {
		config string
		window int
		layers []bool
	}{
		"switched off":   {with(on[2:]...), 0, nil},
		"no size":        {with(on[:2]...), 0, nil},
		"above all":      {with(on...), 0, nil}, // max_window_layers is 28, there are 3 layers
		"from layer 1":   {with(append(on, `"max_window_layers": 28`, `"max_window_layers": 1`)...), 9, []bool{false, true, true}},
		"all layers":     {with(append(on, `"max_window_layers": 28`, `"max_window_layers": 0`)...), 9, nil},
		"by layer_types": {with(append(on, `"use_cache"`, `"layer_types": ["sliding_attention","full_attention","sliding_attention"], "use_cache"`)...), 9, []bool{true, false, true}},
	} {
		_, d, _, err := FromHF([]byte(tc.config))
		if err != nil || d.Window != tc.window || !slices.Equal(d.WindowLayers, tc.layers) {
			t.Errorf("%s: %+v, %v; want %d %v", name, d, err, tc.window, tc.layers)
		}
	}
	for name, c := range map[string]string{
		"too few types": with(append(on, `"use_cache"`, `"layer_types": ["sliding_attention"], "use_cache"`)...),
		"unknown type":  with(append(on, `"use_cache"`, `"layer_types": ["sliding_attention","chunked_attention","full_attention"], "use_cache"`)...),
		"negative":      with(append(on[:2:2], `"sliding_window": null`, `"sliding_window": -4`)...),
	} {
		if _, d, _, err := FromHF([]byte(c)); err == nil {
			t.Errorf("%s: accepted, %+v", name, d)
		}
	}
}

func TestUnknownKeysAreNoted(t *testing.T) {
	c := strings.Replace(string(config(t, "llama", "config.json")), `"use_cache"`, `"final_logit_softcapping": 30.0, "use_cache"`, 1)
	_, d, notes, err := FromHF([]byte(c))
	if err != nil || d == nil || len(notes) != 1 || !strings.Contains(notes[0], "final_logit_softcapping") {
		t.Errorf("%v, notes %v, error %v", d, notes, err)
	}
}

// metadata is a GGUF file made of a map.
type metadata map[string]any

func (m metadata) Value(key string) (any, bool) { v, ok := m[key]; return v, ok }

func (m metadata) Shape(tensor string) ([]int, bool) {
	if tensor == "token_embd.weight" {
		return []int{100, 64}, true
	}
	return nil, false
}

func TestFromGGUF(t *testing.T) {
	base := func() metadata {
		return metadata{
			"general.architecture": "llama", "llama.block_count": uint32(2), "llama.embedding_length": uint32(64), "llama.feed_forward_length": uint32(96),
			"llama.attention.head_count": uint32(4), "llama.context_length": uint64(512), "llama.attention.layer_norm_rms_epsilon": float32(1e-5),
		}
	}
	a, d, _, err := FromGGUF(base())
	w := ir.Decoder{Layers: 2, Hidden: 64, FFN: 96, Heads: 4, KVHeads: 4, HeadDim: 16, Vocab: 100, Context: 512, NormEps: 1e-5, RopeTheta: 10000, TiedHead: true}
	if err != nil || a.Name != "llama" || !reflect.DeepEqual(*d, w) {
		t.Errorf("%+v, %v; want %+v", d, err, w)
	}
	windowed := base()
	windowed["llama.attention.sliding_window"] = uint32(12)
	if _, d, notes, err := FromGGUF(windowed); err != nil || d.Window != 0 || len(notes) != 1 {
		t.Errorf("a window that llama.cpp ignores: %+v, %v, %v", d, notes, err)
	}
	lists := base()
	lists["llama.attention.head_count"] = []uint32{4, 4}
	if _, d, _, err := FromGGUF(lists); err != nil || d.Heads != 4 {
		t.Errorf("the same head count for each layer: %+v, %v", d, err)
	}
	for key, v := range map[string]any{
		"general.architecture": "frobnicate", "llama.block_count": uint32(0), "llama.embedding_length": "64", "llama.attention.head_count": []uint32{4, 2},
		"llama.attention.head_count_kv": uint32(3), "llama.attention.layer_norm_rms_epsilon": float32(2), "llama.rope.scaling.type": "yarn",
		"llama.rope.dimension_count": uint32(8), "llama.expert_count": uint32(8), "llama.attention.key_length": uint32(7), "llama.rope.freq_base": float32(-1),
		"llama.attention.value_length": uint32(8), "llama.feed_forward_length": []int32{}, "llama.context_length": float32(1.5),
	} {
		m := base()
		m[key] = v
		if a, d, _, err := FromGGUF(m); err == nil || d != nil || (a == nil) != errors.Is(err, ErrUnknown) {
			t.Errorf("%s = %v: %+v, %v", key, v, d, err)
		}
	}
	for key := range base() {
		m := base()
		delete(m, key)
		if _, _, _, err := FromGGUF(m); err == nil {
			t.Errorf("without %s: accepted", key)
		}
	}
}

func FuzzFromHF(f *testing.F) {
	for name := range want {
		f.Add(config(f, name, "config.json"))
		f.Add(config(f, name, "config-v4.json"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, d, _, err := FromHF(b)
		if err != nil {
			return
		}
		if d.Layers < 1 || d.HeadDim < 2 || d.Heads%d.KVHeads != 0 || d.WindowLayers != nil && len(d.WindowLayers) != d.Layers {
			t.Fatalf("accepted %+v", d)
		}
		made, _, err := a.Config(d, nil)
		if err != nil {
			return // a mix that cannot be said in the generated form
		}
		if _, again, _, err := FromHF(made); err != nil || !reflect.DeepEqual(d, again) {
			t.Fatalf("%+v became %+v (%v)\n%s", d, again, err, made)
		}
	})
}

// TestTwoScalings: a configuration with both spellings of RoPE scaling is taken when they agree and
// refused when they do not, for its readers disagree on which one counts.
func TestTwoScalings(t *testing.T) {
	base := string(config(t, "llama", "config.json"))
	i := strings.Index(base, `"rope_parameters"`)
	if i < 0 {
		t.Fatal("the configuration has no rope_parameters")
	}
	for scaling, ok := range map[string]bool{
		`null`:                                 true,
		`{"rope_type": "yarn", "factor": 4.0}`: false,
		`{"type": "linear", "factor": 2.0}`:    false,
		`{"rope_type": "default"}`:             false,
		base[i+len(`"rope_parameters":`) : i+strings.IndexByte(base[i:], '}')+1]:                                                true,
		strings.Replace(base[i+len(`"rope_parameters":`):i+strings.IndexByte(base[i:], '}')+1], `"factor": `, `"factor": 1`, 1): false,
	} {
		_, _, _, err := FromHF([]byte(base[:i] + `"rope_scaling": ` + scaling + ", " + base[i:]))
		if (err == nil) != ok {
			t.Errorf("rope_scaling %s beside rope_parameters: %v", scaling, err)
		}
	}
}
