package lora_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/lora"
)

const tied = "../testdata/architectures/qwen2" // tie_word_embeddings, an architecture that runs

// A tied model of a known architecture: after the merge it runs with its own head, as a folder and
// as GGUF, and computes what base plus adapter compute.
func TestTiedDecoder(t *testing.T) {
	base := open(t, tied)
	if !base.Decoder.TiedHead {
		t.Fatal("the fixture is not tied")
	}
	vocab, hidden := base.Decoder.Vocab, base.Decoder.Hidden
	const config = `{"peft_type":"LORA","r":2,"lora_alpha":4`
	embedding := []shape{
		{"base_model.model.model.embed_tokens.lora_embedding_A", []int{2, vocab}},
		{"base_model.model.model.embed_tokens.lora_embedding_B", []int{hidden, 2}},
	}
	head := []shape{
		{"base_model.model.lm_head.lora_A.weight", []int{2, hidden}},
		{"base_model.model.lm_head.lora_B.weight", []int{vocab, 2}},
	}
	saved := []shape{{"base_model.model.lm_head.weight", []int{vocab, hidden}}}
	ids := [][]int32{{1, 5, 9, 40, 3, 8, 2, 77, 11, 6}}
	for name, c := range map[string]struct {
		config       string
		tensors      []shape
		embed, split bool // does the embedding change, does the head become a tensor
	}{
		"embedding":  {config + "}", embedding, true, true},
		"head":       {config + "}", head, false, true},
		"both":       {config + "}", append(embedding[:2:2], head...), true, true},
		"saved head": {config + `,"modules_to_save":["lm_head"]}`, saved, false, true},
		"ties kept":  {config + `,"ensure_weight_tying":true}`, embedding, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			m, from := open(t, tied), open(t, tied)
			dir := t.TempDir()
			writeAdapter(t, dir, c.config, c.tensors...)
			list := load(t, dir)
			apply(t, m, list, lora.Options{Type: storage.F32})
			if m.Decoder.TiedHead == c.split || !from.Decoder.TiedHead {
				t.Errorf("TiedHead is %v", m.Decoder.TiedHead)
			}
			if c.split != bytes.Contains(m.Assets["config.json"], []byte(`"tie_word_embeddings": false`)) {
				t.Error("config.json disagrees")
			}
			old := values(t, from, "model.embed_tokens.weight")
			if moved := maxDiff(values(t, m, "model.embed_tokens.weight"), old) > 0.01; moved != c.embed {
				t.Errorf("embedding moved: %v", moved)
			}
			if c.split {
				if moved := maxDiff(values(t, m, "lm_head.weight"), old) > 0.01; moved != (len(c.tensors) != 2 || !c.embed) {
					t.Errorf("head moved: %v", moved)
				}
			}
			attached, err := lora.New(list, lora.Options{}).Attached(t.Context(), from, ir.Env{})
			if err != nil {
				t.Fatal(err)
			}
			beside := sessions(t, attached)
			p, err := lora.Prove(t.Context(), beside, sessions(t, m), ids)
			if err != nil || !p.Holds {
				t.Errorf("%+v, %v", p, err)
			}
			for _, format := range []string{"hf", "gguf"} {
				out := filepath.Join(t.TempDir(), "m."+format)
				if err := formats.Write(t.Context(), format, m, out, formats.WriteOptions{Pre: "qwen2"}); err != nil {
					t.Fatalf("%s: %v", format, err)
				}
				again := open(t, out)
				if again.Decoder == nil || again.Decoder.TiedHead == c.split {
					t.Fatalf("%s: the tie came back", format)
				}
				if p, err := lora.Prove(t.Context(), beside, sessions(t, again), ids); err != nil || !p.Holds {
					t.Errorf("%s: %+v, %v", format, p, err)
				}
			}
		})
	}
}

// An adapter of zeros has not been trained: merging it would change nothing, and that is an error.
func TestUntrained(t *testing.T) {
	m := open(t, filepath.Join(adapters, "base-llama"))
	dir := t.TempDir()
	writeAdapter(t, dir, `{"peft_type":"LORA","r":2}`,
		shape{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", []int{2, 48}},
		shape{"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", []int{48, 2}})
	file := filepath.Join(dir, "adapter_model.safetensors")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[len(b)-48*2*4:]) // B comes last
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	before := m.Tensors()[0]
	if err := merge(t.Context(), m, dir, lora.Options{}); !errors.Is(err, lora.ErrNoChange) {
		t.Errorf("got %v", err)
	}
	if m.Tensors()[0] != before {
		t.Error("the model was touched")
	}
}

// FuzzAdapter: any bytes as the weights file end in a merge that can be read, or in an error.
func FuzzAdapter(f *testing.F) {
	for _, name := range []string{"lora-qv", "dora", "lora-embedding", "lora-bias-all", "lora-modules-to-save"} {
		config, err := os.ReadFile(filepath.Join(adapters, name, "adapter_config.json"))
		if err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(adapters, name, "adapter_model.safetensors"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(config, b)
	}
	base, err := formats.Open(f.Context(), filepath.Join(adapters, "base-llama"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { base.Close() }) //nolint:errcheck // read only
	f.Fuzz(func(t *testing.T, config, b []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{"adapter_config.json": config, "adapter_model.safetensors": b} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a, err := lora.Open(t.Context(), dir)
		if err != nil {
			return
		}
		defer a.Close() //nolint:errcheck // read only
		m := base.Clone()
		p := lora.New([]lora.Weighted{{Adapter: a, Weight: 1}}, lora.Options{Type: storage.F32})
		if _, err := p.Apply(t.Context(), m, nil, ir.Env{Threads: 1}); err != nil {
			return
		}
		for _, at := range m.Tensors() {
			if _, err := ir.ReadAll(t.Context(), at); err != nil && !strings.Contains(err.Error(), "finite") {
				t.Fatal(err)
			}
		}
	})
}
