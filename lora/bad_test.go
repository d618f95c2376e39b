package lora_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/lora"
)

// merge opens an adapter and merges it into a base, and returns the first error.
func merge(ctx context.Context, m *ir.Model, dir string, opts lora.Options) error {
	a, err := lora.Open(ctx, dir)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // read only
	p := lora.New([]lora.Weighted{{Adapter: a, Weight: 1}}, opts)
	plan, err := p.Plan(ctx, m)
	if err != nil {
		return err
	}
	_, err = p.Apply(ctx, m, plan, ir.Env{})
	return err
}

// Every broken adapter is refused with the file, the reason and the details a person needs, and
// the model is left as it was.
func TestBrokenAdapters(t *testing.T) {
	for name, tc := range map[string]struct {
		reason error
		says   []string
	}{
		"adapter-rank-mismatch":      {lora.ErrRank, []string{"lora_A.weight", "rank 4", "rank 8"}},
		"adapter-no-match":           {lora.ErrNoMatch, []string{"transformer.h.0.attn.c_attn", "nearest", "base-llama"}},
		"adapter-layer-out-of-range": {lora.ErrNoMatch, []string{"layers.2.", "layers.3.", "layers.4.", "3 of 5"}},
		"adapter-nan":                {fault.ErrNotFinite, []string{"layers.1.self_attn.q_proj.lora_B.weight", "element ["}},
		"adapter-inf":                {fault.ErrNotFinite, []string{"layers.0.self_attn.q_proj.lora_A.weight", "element ["}},
		"adapter-missing-b":          {lora.ErrMissing, []string{"layers.1.self_attn.q_proj.lora_B.weight"}},
		"adapter-wrong-width":        {lora.ErrShape, []string{"layers.0.self_attn.q_proj.lora_A.weight", "[8 47]", "[8 48]"}},
		"adapter-unknown-type":       {lora.ErrUnsupported, []string{"FROBNICATE", "LORA", "IA3"}},
		"adapter-zero-rank":          {lora.ErrRank, []string{"r is 0", "must be positive"}},
		"adapter-no-weights":         {fs.ErrNotExist, []string{"adapter_model.safetensors"}},
		"adapter-config-not-json":    {lora.ErrConfig, []string{"adapter_config.json", "byte "}},
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t, filepath.Join(adapters, "base-llama"))
			before := append([]*ir.Tensor(nil), m.Tensors()...)
			dir := filepath.Join(adapters, "bad-inputs", name)
			err := merge(t.Context(), m, dir, lora.Options{})
			if !errors.Is(err, tc.reason) {
				t.Fatalf("got %v, want %v", err, tc.reason)
			}
			for _, s := range append(tc.says, dir) {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
			for i, at := range m.Tensors() {
				if at != before[i] {
					t.Errorf("%s was touched", at.Name)
				}
			}
		})
	}
}

// A merge is partial only when the user says so, and then says what it left out.
func TestPartialMerge(t *testing.T) {
	m := open(t, filepath.Join(adapters, "base-llama"))
	res := apply(t, m, load(t, filepath.Join(adapters, "bad-inputs", "adapter-layer-out-of-range")), lora.Options{AllowPartial: true})
	if res.Changed != 2 || len(res.Skipped) != 3 {
		t.Errorf("changed %d, skipped %v", res.Changed, res.Skipped)
	}
}

// The wrong base: widths differ, and the hint names the base that the adapter was trained on.
func TestWrongBase(t *testing.T) {
	m := open(t, "../testdata/books-llama/model")
	err := merge(t.Context(), m, filepath.Join(adapters, "lora-qv"), lora.Options{})
	if !errors.Is(err, lora.ErrShape) || !strings.Contains(err.Error(), "256 input columns") || !strings.Contains(err.Error(), "base-llama") {
		t.Errorf("got %v", err)
	}
}

func TestConfigRefusals(t *testing.T) {
	for _, tc := range []struct {
		json   string
		reason error
		says   string
	}{
		{`{"peft_type":"LORA","use_qalora":true}`, lora.ErrUnsupported, "use_qalora"},
		{`{"peft_type":"LORA","target_parameters":["experts.up"]}`, lora.ErrUnsupported, "target_parameters"},
		{`{"peft_type":"LORA","a_key_of_the_future":{"x":1}}`, lora.ErrUnsupported, "a_key_of_the_future"},
		{`{"peft_type":"LORA","init_lora_weights":"pissa_niter_16"}`, lora.ErrUnsupported, "pissa"},
		{`{"peft_type":"LORA","r":-1}`, lora.ErrRank, "positive"},
		{`{"peft_type":"LORA","r":4.5}`, lora.ErrConfig, `"r"`},
		{`{"peft_type":"LORA","rank_pattern":{"q_proj":0}}`, lora.ErrConfig, "q_proj"},
		{`{"peft_type":"LORA","rank_pattern":{"q_proj(":4}}`, lora.ErrConfig, "q_proj("},
		{`{"peft_type":"LORA","bias":"some"}`, lora.ErrConfig, "some"},
		{`{"peft_type":"LORA","r":8,"r":16}`, lora.ErrConfig, "twice"},
		{`{"r":8}`, lora.ErrConfig, "peft_type"},
		{`[1]`, lora.ErrConfig, "object"},
		{`{"peft_type":"LORA"} x`, lora.ErrConfig, "byte"},
		{"{\"peft_type\":\"L\xff\"}", lora.ErrConfig, "UTF-8"},
		{``, lora.ErrConfig, "byte 0"},
	} {
		_, err := lora.ParseConfig([]byte(tc.json))
		if !errors.Is(err, tc.reason) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want %v saying %q", tc.json, err, tc.reason, tc.says)
		}
	}
	c, err := lora.ParseConfig([]byte(`{"peft_type":"LORA","r":4,"lora_alpha":8,"use_rslora":true,"use_dora":false,"megatron_config":null,
		"rank_pattern":{"layers.0.q":16},"alpha_pattern":{".*q":2}}`))
	if err != nil {
		t.Fatal(err)
	}
	// alpha/sqrt(r) with the layer's own alpha and r.
	if got := c.Scale("model.layers.0.q"); got != 2/4. {
		t.Errorf("scale %v", got)
	}
	if got := c.Scale("model.layers.1.v"); got != 8/2. {
		t.Errorf("scale %v", got)
	}
}

// FuzzConfig: whatever the bytes, parsing ends with a configuration whose scales are defined, or an
// error.
func FuzzConfig(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join(adapters, "*", "adapter_config.json"))
	if err != nil || len(paths) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"peft_type":"LORA","rank_pattern":{"(a|b)*c":3}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := lora.ParseConfig(b)
		if err == nil && c.Type == "LORA" && c.RankOf("model.layers.0.self_attn.q_proj") <= 0 {
			t.Error("a rank that is not positive")
		}
	})
}
