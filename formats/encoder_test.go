package formats

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/ir"
)

// ggufBytes reads a GGUF file whole, and the bytes of its tensors by name.
func ggufBytes(t *testing.T, path string) (*gguf.File, map[string][]byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	data := map[string][]byte{}
	for _, e := range f.Tensors {
		data[e.Name] = b[e.Offset : e.Offset+e.Size]
	}
	return f, data
}

// TestEncoderLikeConverter: from the same folder, the same tensors to the byte, and the same metadata, as
// llama.cpp's converter wrote.
func TestEncoderLikeConverter(t *testing.T) {
	dir := "../testdata/architectures/bert"
	m, err := Open(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	made := filepath.Join(t.TempDir(), "made.gguf")
	if err := Write(context.Background(), "gguf", m, made, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	want, wantData := ggufBytes(t, filepath.Join(dir, "model-f16.gguf"))
	got, gotData := ggufBytes(t, made)
	if len(wantData) != len(gotData) || len(wantData) < 30 {
		t.Errorf("%d tensors, want %d", len(gotData), len(wantData))
	}
	for name, b := range wantData {
		if !bytes.Equal(gotData[name], b) {
			t.Errorf("%s differs", name)
		}
	}
	for _, kv := range want.KV {
		v, ok := got.Value(kv.Key)
		switch kv.Key {
		case "general.name": // given by hand
			continue
		case "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id":
			// The converter takes these from the names of the special tokens; this tokenizer puts none
			// around a text.
			continue
		case "general.size_label": // without the tensors that are left out there, and with them here
			continue
		}
		if !ok || !reflect.DeepEqual(v, kv.Value) {
			t.Errorf("%s is %v, want %v", kv.Key, v, kv.Value)
		}
	}
}

// TestEncoderPaths: what is read again from a GGUF file, or from a folder made from that, is the same
// encoder; rows of positions that are for padding stay behind.
func TestEncoderPaths(t *testing.T) {
	ctx := context.Background()
	for name, want := range map[string]ir.Encoder{
		"roberta": {
			Layers: 2, Hidden: 32, FFN: 96, Heads: 2, Vocab: 150, Context: 40, PositionBase: 2, Types: 1, NormEps: 1e-5, Activation: ir.GELU, Pooler: true,
			Pooling: ir.PoolMean, Normalize: true, MaxTokens: 24,
		},
	} {
		m, err := Open(ctx, filepath.Join("../testdata/encoders", name))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if *m.Encoder != want {
			t.Errorf("%s: %+v, want %+v", name, *m.Encoder, want)
		}
		dir := t.TempDir()
		file, folder := filepath.Join(dir, "x.gguf"), filepath.Join(dir, "folder")
		if err := Write(ctx, "gguf", m, file, WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		want.PositionBase, want.Pooler, want.MaxTokens = 0, false, 0 // which GGUF does not have
		back, err := Open(ctx, file)
		if err != nil {
			t.Fatal(err)
		}
		defer back.Close()
		if back.Encoder == nil || *back.Encoder != want {
			t.Fatalf("%s from GGUF: %+v, want %+v (%v)", name, back.Encoder, want, back.Problems)
		}
		if err := Write(ctx, "hf", back, folder, WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		again, err := Open(ctx, folder)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		want.MaxTokens = want.Context
		if again.Encoder == nil || *again.Encoder != want {
			t.Fatalf("%s from a folder: %+v, want %+v (%v)", name, again.Encoder, want, again.Problems)
		}
		first, second := m.Role(ir.RolePosition, -1), again.Role(ir.RolePosition, -1)
		x, err := ir.ReadAll(ctx, first)
		if err != nil {
			t.Fatal(err)
		}
		y, err := ir.ReadAll(ctx, second)
		if err != nil || !reflect.DeepEqual(x[2*32:], y) {
			t.Errorf("%s: positions differ, %v", name, err)
		}
		if err := Replaceable(folder); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSentenceRefused: steps that are not computed take the ability to run away, with the reason; a step
// outside the folder is refused.
func TestSentenceRefused(t *testing.T) {
	source := "../testdata/encoders/roberta"
	for name, tc := range map[string]struct {
		files map[string]string
		opens bool
	}{
		"a dense step":       {map[string]string{"modules.json": `[{"path":"","type":"x.Transformer"},{"path":"1_Pooling","type":"x.Pooling"},{"path":"2_Dense","type":"x.Dense"}]`}, true},
		"other pooling":      {map[string]string{"1_Pooling/config.json": `{"pooling_mode_weightedmean_tokens":true}`}, true},
		"two ways":           {map[string]string{"1_Pooling/config.json": `{"pooling_mode_cls_token":true,"pooling_mode_max_tokens":true}`}, true},
		"no way":             {map[string]string{"1_Pooling/config.json": `{}`}, true},
		"a limit below one":  {map[string]string{"sentence_bert_config.json": `{"max_seq_length":0}`}, true},
		"another activation": {map[string]string{"config.json": `{"model_type":"roberta","hidden_act":"swish"}`}, true},
		"a path upwards":     {map[string]string{"modules.json": `[{"path":"","type":"x.Transformer"},{"path":"../1_Pooling","type":"x.Pooling"}]`}, false},
		"no list":            {map[string]string{"modules.json": `{}`}, false},
		"damaged":            {map[string]string{"1_Pooling/config.json": `{"a":`}, false},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
			t.Fatal(err)
		}
		for file, text := range tc.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		m, err := Open(context.Background(), dir)
		if !tc.opens {
			if err == nil {
				t.Errorf("%s: taken", name)
				_ = m.Close()
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Encoder != nil || m.CannotEncode() == nil || len(m.Problems) == 0 {
			t.Errorf("%s: %+v, %v", name, m.Encoder, m.Problems)
		}
		_ = m.Close()
	}
}
