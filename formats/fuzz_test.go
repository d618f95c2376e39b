package formats

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

// tiny is a GGUF file of a llama with one layer: hidden 4, one head of 4, MLP 2, 3 tokens.
func tiny(t testing.TB) []byte {
	t.Helper()
	a := arch.ByName("llama")
	d := &ir.Decoder{Layers: 1, Hidden: 4, FFN: 2, Heads: 1, KVHeads: 1, HeadDim: 4, Vocab: 3, Context: 8, NormEps: 1e-5, RopeTheta: 10000}
	keys, _, err := a.GGUFKeys(d)
	if err != nil {
		t.Fatal(err)
	}
	kv := []gguf.KV{{Key: "general.architecture", Value: "llama"}}
	for _, e := range keys {
		kv = append(kv, gguf.KV{Key: e.Key, Value: e.Value})
	}
	kv = append(kv, gguf.KV{Key: "tokenizer.ggml.model", Value: "llama"}, gguf.KV{Key: "tokenizer.ggml.tokens", Value: []string{"<unk>", "<s>", "a"}},
		gguf.KV{Key: "tokenizer.ggml.scores", Value: []float32{0, 0, -1}}, gguf.KV{Key: "tokenizer.ggml.token_type", Value: []int32{2, 3, 1}})
	tensors := []gguf.Tensor{{Name: ropeFactors, Shape: []int{2}}}
	for _, r := range []ir.Role{ir.RoleEmbedding, ir.RoleHead, ir.RoleFinalNorm} {
		tensors = append(tensors, gguf.Tensor{Name: a.GGUFName(r, -1), Shape: d.Shape(r)})
	}
	for _, r := range []ir.Role{ir.RoleAttnNorm, ir.RoleAttnQ, ir.RoleAttnK, ir.RoleAttnV, ir.RoleAttnO, ir.RoleMLPNorm, ir.RoleMLPGate, ir.RoleMLPUp, ir.RoleMLPDown} {
		tensors = append(tensors, gguf.Tensor{Name: a.GGUFName(r, 0), Shape: d.Shape(r)})
	}
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, kv, tensors)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range tensors {
		n := 1
		for _, dim := range x.Shape {
			n *= dim
		}
		if _, err := w.Write(bytes.Repeat([]byte{0, 0, 0x80, 0x3f}, n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// visit opens a file and reads everything in it: an error is fine, a crash is not.
func visit(t testing.TB, path string) (*ir.Model, error) {
	t.Helper()
	m, err := Open(context.Background(), path)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	for _, x := range m.Tensors() {
		if x.Elems() > 1<<20 {
			t.Fatalf("%s: %v out of a small file", x.Name, x.Shape)
		}
		if _, err := ir.ReadAll(context.Background(), x); err != nil {
			t.Fatalf("%s: %v", x.Name, err) // ranges have been checked
		}
		for _, p := range x.Parts() {
			n, err := x.PartBytes(p, 0, x.Rows())
			if err != nil {
				t.Fatal(err)
			}
			if err := x.Data.ReadRaw(context.Background(), p, make([]byte, n), 0, x.Rows()); err != nil {
				t.Fatalf("%s: %v", x.Name, err)
			}
		}
	}
	if m.Decoder != nil {
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
	}
	return m, nil
}

func TestTinyGGUFTruncated(t *testing.T) {
	b := tiny(t)
	path := filepath.Join(t.TempDir(), "x.gguf")
	for n := len(b); n >= 0; n -= 1 + n/100 { // every byte would take seconds; package gguf cuts at each
		if err := os.WriteFile(path, b[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := visit(t, path)
		if full := n == len(b); full != (err == nil) { // the last tensor fills its padding
			t.Errorf("%d of %d bytes: %v", n, len(b), err)
		} else if full && (m.Decoder == nil || m.Tokenizer == nil) {
			t.Errorf("%v", m.Problems)
		}
	}
}

func FuzzOpenGGUF(f *testing.F) {
	f.Add(tiny(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x.gguf")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = visit(t, path)
	})
}

// FuzzOpenPacked changes the configuration and the tensors of a compressed-tensors folder.
func FuzzOpenPacked(f *testing.F) {
	for _, name := range []string{"config.json", "model.safetensors"} {
		if _, err := os.Stat(filepath.Join("testdata/compressed", name)); err != nil {
			f.Fatal(err)
		}
	}
	config, err := os.ReadFile("testdata/compressed/config.json")
	if err != nil {
		f.Fatal(err)
	}
	tensors, err := os.ReadFile("testdata/compressed/model.safetensors")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(config, tensors)
	f.Fuzz(func(t *testing.T, config, tensors []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{"config.json": config, oneName: tensors} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = visit(t, dir)
	})
}

// FuzzOpenSharded changes the index of a folder: whatever it names, nothing outside is opened.
func FuzzOpenSharded(f *testing.F) {
	for _, index := range []string{
		`{"weight_map":{"a":"model-1.safetensors","b.weight":"model-1.safetensors","c":"model-1.safetensors"}}`,
		`{"metadata":{"total_size":24},"weight_map":{"a":"model-1.safetensors","b.weight":"model-2.safetensors"}}`,
		`{"weight_map":{"a":"../model-1.safetensors"}}`,
	} {
		f.Add([]byte(index))
	}
	f.Fuzz(func(t *testing.T, index []byte) {
		dir := t.TempDir()
		inside := filepath.Join(dir, "model")
		if err := os.Mkdir(inside, 0o700); err != nil {
			t.Fatal(err)
		}
		outside := filepath.Join(dir, "model-1.safetensors")
		secret := append(binary.LittleEndian.AppendUint64(nil, 65), `{"secret":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}        `[:65]...)
		for name, b := range map[string][]byte{
			outside: append(secret, 1), filepath.Join(inside, "model-1.safetensors"): tinySafetensors(), filepath.Join(inside, indexName): index,
		} {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if m, err := visit(t, outside); err != nil || m.Find("secret") == nil {
			t.Fatal("the bait is not a model: ", err)
		}
		if m, err := visit(t, inside); err == nil && m.Find("secret") != nil {
			t.Fatalf("%q reads a file outside the folder", index)
		}
	})
}
