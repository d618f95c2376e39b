package formats

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
)

const (
	architectures = "../testdata/architectures"
	badInputs     = "../testdata/adapters/bad-inputs"
)

func open(t testing.TB, path string) *ir.Model {
	t.Helper()
	m, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestOpenHF(t *testing.T) {
	for _, a := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		m := open(t, filepath.Join(architectures, a))
		if m.Format != "hf" || m.Arch != a || m.Decoder == nil {
			t.Errorf("%s: format %q, architecture %q, decoder %v, problems %v", a, m.Format, m.Arch, m.Decoder, m.Problems)
			continue
		}
		if len(m.Problems) > 0 {
			t.Errorf("%s: %v", a, m.Problems)
		}
		for _, x := range m.Tensors() {
			if x.Role == ir.RoleUnknown || len(x.Aliases) != 1 || m.Find(x.Aliases[0]) != x {
				t.Errorf("%s: %s has role %q and aliases %v", a, x.Name, x.Role, x.Aliases)
			}
		}
	}
}

func TestBrokenFolders(t *testing.T) {
	for name, want := range map[string]error{
		"missing-shard":              fs.ErrNotExist,
		"index-names-absent-tensor":  ErrIndex,
		"index-path-escape":          ErrShardName,
		"empty.safetensors":          safetensors.ErrTooShort,
		"truncated-data.safetensors": safetensors.ErrTooShort,
		"header-array.safetensors":   safetensors.ErrHeader,
		"adapter-nan":                ErrUnknown,
	} {
		path := filepath.Join(badInputs, name)
		m, err := Open(context.Background(), path)
		var fe *fault.Error
		if !errors.Is(err, want) || !errors.As(err, &fe) || !strings.HasPrefix(fe.File, path) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		t.Log(err)
		if err == nil {
			m.Close()
		}
	}
}

// copyFolder copies a folder and lets the caller change its files.
func copyFolder(t *testing.T, from string, change map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range change {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestConfigVersions: transformers 4 and 5 spell the same model differently.
func TestConfigVersions(t *testing.T) {
	for name := range converted {
		from := filepath.Join(architectures, name)
		five := open(t, from)
		four := open(t, copyFolder(t, from, map[string][]byte{"config.json": read(t, filepath.Join(from, "config-v4.json"))}))
		if !reflect.DeepEqual(five.Decoder, four.Decoder) || four.Decoder == nil {
			t.Errorf("%s: version 5 gives %+v, version 4 %+v", name, five.Decoder, four.Decoder)
		}
	}
}

// sameModel compares everything that a Hugging Face folder holds.
func sameModel(t *testing.T, name string, got, want *ir.Model) {
	t.Helper()
	if len(got.Problems) > 0 || got.Arch != want.Arch || !reflect.DeepEqual(got.Decoder, want.Decoder) {
		t.Errorf("%s: %s %+v (%v), want %s %+v", name, got.Arch, got.Decoder, got.Problems, want.Arch, want.Decoder)
	}
	if len(got.Tensors()) != len(want.Tensors()) {
		t.Errorf("%s: %d tensors, want %d", name, len(got.Tensors()), len(want.Tensors()))
	}
	for _, x := range want.Tensors() {
		y := got.Find(x.Name)
		if y == nil || y.Type != x.Type || y.Role != x.Role || !reflect.DeepEqual(x.Shape, y.Shape) {
			t.Errorf("%s: %s is %+v, want %+v", name, x.Name, y, x)
		} else if !slices.Equal(values(t, x), values(t, y)) {
			t.Errorf("%s: %s differs", name, x.Name)
		}
	}
}

func TestWriteHF(t *testing.T) {
	for name := range converted {
		m := open(t, filepath.Join(architectures, name))
		out := filepath.Join(t.TempDir(), "out")
		if err := Write(context.Background(), "hf", m, out, WriteOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sameModel(t, name, open(t, out), m)
		for file, b := range m.Assets {
			if !bytes.Equal(read(t, filepath.Join(out, file)), b) {
				t.Errorf("%s: %s was changed", name, file)
			}
		}
		// Shards of at most 100 kB, in place of the first folder.
		if err := Write(context.Background(), "hf", m, out, WriteOptions{Force: true, ShardBytes: 100_000, Threads: 1, Memory: 1000}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		shards, _ := filepath.Glob(out + "/model-*-of-*.safetensors")
		if _, err := os.Stat(filepath.Join(out, oneName)); len(shards) < 2 || err == nil {
			t.Errorf("%s: %d shards, old file: %v", name, len(shards), err)
		}
		sameModel(t, name+" sharded", open(t, out), m)
	}
}

// TestGGUFToHF makes a folder from a GGUF file alone: configuration and tokenizer are generated.
func TestGGUFToHF(t *testing.T) {
	for name, file := range converted {
		m := open(t, filepath.Join(architectures, name, file))
		out := filepath.Join(t.TempDir(), "out")
		if err := Write(context.Background(), "hf", m, out, WriteOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := open(t, filepath.Join(architectures, name))
		got := open(t, out)
		decoder := *want.Decoder
		arch := want.Arch
		if name == "mistral" {
			decoder.Window, arch = 0, "llama" // lost by the converter
		}
		if got.Arch != arch || !reflect.DeepEqual(*got.Decoder, decoder) {
			t.Errorf("%s: %s %+v, want %s %+v", name, got.Arch, got.Decoder, arch, decoder)
		}
		for _, x := range want.Tensors() {
			if y := got.Find(x.Name); y == nil || y.Role != x.Role || !slices.Equal(values(t, x), values(t, y)) {
				t.Errorf("%s: %s differs", name, x.Name)
			}
		}
		if got.Tokenizer == nil || !slices.Equal(got.Tokenizer.Tokens, want.Tokenizer.Tokens) {
			t.Errorf("%s: the tokenizer did not survive: %v", name, got.Problems)
		}
	}
}

func TestReplaceOnlyModels(t *testing.T) {
	m := open(t, filepath.Join(architectures, "qwen2"))
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(context.Background(), "hf", m, out, WriteOptions{}); !errors.Is(err, ErrExists) {
		t.Errorf("without force: %v", err)
	}
	if err := Write(context.Background(), "hf", m, out, WriteOptions{Force: true}); !errors.Is(err, errForeign) {
		t.Errorf("with force: %v", err)
	}
	if _, err := os.Stat(filepath.Join(out, "thesis.tex")); err != nil {
		t.Error(err)
	}
}

// TestCatalogueOnly: what cannot be run can still be listed, read and written.
func TestCatalogueOnly(t *testing.T) {
	from := filepath.Join(architectures, "llama")
	config := string(read(t, filepath.Join(from, "config.json")))
	without := func(key string) string { // drops the first line with the key
		lines := slices.DeleteFunc(strings.Split(config, "\n"), func(l string) bool { return strings.Contains(l, key) })
		return strings.Join(lines, "\n")
	}
	for name, tc := range map[string]struct{ config, reason string }{
		"yarn":           {strings.Replace(config, `"llama3"`, `"yarn"`, 1), "yarn"},
		"gelu":           {strings.Replace(config, `"silu"`, `"gelu"`, 1), "hidden_act"},
		"unknown":        {strings.Replace(config, `"model_type": "llama"`, `"model_type": "frobnicate"`, 1), "frobnicate"},
		"other class":    {strings.Replace(config, "LlamaForCausalLM", "LlamaForSequenceClassification", 1), "Classification"},
		"wrong width":    {strings.Replace(config, `"intermediate_size": 256`, `"intermediate_size": 255`, 1), "255"},
		"more layers":    {strings.Replace(config, `"num_hidden_layers": 2`, `"num_hidden_layers": 60000`, 1), "missing"},
		"no layers":      {without("num_hidden_layers"), "num_hidden_layers"},
		"layers as text": {strings.Replace(config, `"num_hidden_layers": 2`, `"num_hidden_layers": "2"`, 1), "num_hidden_layers"},
		"fractional":     {strings.Replace(config, `"num_hidden_layers": 2`, `"num_hidden_layers": 2.5`, 1), "num_hidden_layers"},
		"uneven heads":   {strings.Replace(config, `"num_key_value_heads": 2`, `"num_key_value_heads": 3`, 1), "heads"},
		"partial rotary": {strings.Replace(config, `"factor": 8.0`, `"partial_rotary_factor": 0.5, "factor": 8.0`, 1), "partial_rotary"},
	} {
		m := open(t, copyFolder(t, from, map[string][]byte{"config.json": []byte(tc.config)}))
		reason := m.CannotRun()
		if m.Decoder != nil || reason == nil || !strings.Contains(reason.Error(), tc.reason) {
			t.Errorf("%s: decoder %v, reason %v", name, m.Decoder, reason)
		}
		if len(m.Problems) != 1 || strings.Contains(m.Problems[0].Reason, "\n") {
			t.Errorf("%s: problems %q", name, m.Problems)
		}
		if len(m.Tensors()) != 21 {
			t.Errorf("%s: %d tensors", name, len(m.Tensors()))
		}
		if _, err := Plan("gguf", m, WriteOptions{}); !errors.Is(err, ErrInexact) || !errors.Is(err, fault.ErrRefused) {
			t.Errorf("%s: GGUF: %v", name, err)
		}
		out := filepath.Join(t.TempDir(), "x.safetensors")
		if err := Write(context.Background(), "safetensors", m, out, WriteOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		back := open(t, out)
		for _, x := range m.Tensors() {
			if y := back.Find(x.Name); y == nil || !slices.Equal(values(t, x), values(t, y)) {
				t.Errorf("%s: %s differs", name, x.Name)
			}
		}
	}
}

func TestUntiedOnWrite(t *testing.T) {
	m := open(t, filepath.Join(architectures, "qwen2")).Clone()
	head := *m.Role(ir.RoleEmbedding, -1)
	head.Name, head.Role, head.Aliases = "lm_head.weight", ir.RoleHead, []string{"output.weight"}
	if err := m.Add(&head); err != nil {
		t.Fatal(err)
	}
	m.Decoder.TiedHead = false
	out := filepath.Join(t.TempDir(), "out")
	if err := Write(context.Background(), "hf", m, out, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	sameModel(t, "untied", open(t, out), m)
	before, after := lines(m.Assets["config.json"]), lines(read(t, filepath.Join(out, "config.json")))
	maps.DeleteFunc(after, func(l string, _ bool) bool { return before[l] })
	if len(after) != 1 || !after[`  "tie_word_embeddings": false,`] {
		t.Errorf("changed lines: %v", after)
	}
}

func lines(b []byte) map[string]bool {
	set := map[string]bool{}
	for _, l := range strings.Split(string(b), "\n") {
		set[l] = true
	}
	return set
}
