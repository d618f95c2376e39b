package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// encoderFolder is a tiny BERT with random weights; those of TestEncoders show that its numbers are right.
func encoderFolder() string {
	return filepath.Join(home, "..", "..", "testdata", "architectures", "bert")
}

// TestEmbeddings: lines become vectors, in JSON and as a file; the flags of language models are refused.
func TestEmbeddings(t *testing.T) {
	dir := t.TempDir()
	bert := encoderFolder()
	got := valid(t, "run-embeddings", ok(t, dir, "run", bert, "-p", "one two\n\nthree", "--save-output", "out", "--output", "json"))
	texts := got["texts"].([]any)
	if len(texts) != 2 || len(texts[0].(map[string]any)["embedding"].([]any)) != 64 || got["pooling"] != "mean" || got["normalized"] != false {
		t.Errorf("%v texts: %v %v", len(texts), got["pooling"], got["normalized"])
	}
	b, err := os.ReadFile(filepath.Join(dir, "out", "embeddings.npy"))
	if err != nil || !strings.Contains(string(b[:128]), "'shape': (2, 64)") || len(b) != 128+2*64*4 {
		t.Errorf("embeddings.npy: %v, %d bytes", err, len(b))
	}
	for _, args := range [][]string{
		{"run", bert, "-p", "x", "-n", "5"},
		{"run", bert, "-p", "x", "--logits", "l.npy"},
		{"run", bert, "-p", "\n"},
		{"verify", bert, bert},
		{"verify", bert, bert, "--text", "lines.txt", "--gate", "kl_mean=1"},
		{"verify", bert, bert, "--text", "lines.txt", "--chunks", "3"},
		{"verify", bert, filepath.Join(bert, "..", "llama"), "--text", "lines.txt"},
	} {
		if d := pare(t, dir, args...); d.code != exitMisuse {
			t.Errorf("%v: exit code %d, %s", args, d.code, d.err)
		}
	}
}

// TestVerifyEmbeddings: a GGUF of the same weights makes the same embeddings, one of 4 bits does not, and
// the gate says so.
func TestVerifyEmbeddings(t *testing.T) {
	dir := t.TempDir()
	bert := encoderFolder()
	var text strings.Builder
	for i := range 60 {
		text.WriteString(strings.Repeat("some words and numbers ", i%5+1) + strings.Repeat("x", i) + "\n")
	}
	if err := os.WriteFile(filepath.Join(dir, "lines.txt"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, dir, "convert", bert, "-o", "same.gguf")
	ok(t, dir, "quantize", bert, "--type", "q4_0", "-o", "small.gguf")
	cosine := func(model string) float64 {
		out := ok(t, dir, "verify", bert, model, "--text", "lines.txt", "--gate", "cosine_mean=0.5", "--output", "json")
		valid(t, "verify-embeddings", out)
		var r struct {
			Cosine     struct{ Mean, Min float64 }
			Neighbours struct{ Agreement float64 }
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		return r.Cosine.Mean
	}
	same, small := cosine("same.gguf"), cosine("small.gguf")
	if same < 0.99999 || small > 0.9999 || small < 0.9 {
		t.Errorf("cosines %v and %v", same, small)
	}
	if d := pare(t, dir, "verify", bert, "small.gguf", "--text", "lines.txt", "--gate", "cosine_mean=0.99999"); d.code != exitGate {
		t.Errorf("exit code %d, %s", d.code, d.err)
	}
	// and back: a folder from the GGUF file is the same model
	ok(t, dir, "convert", "same.gguf", "-o", "folder")
	if again := cosine("folder"); again < 0.99999 {
		t.Errorf("a folder made from the GGUF file: cosine %v", again)
	}
}

// TestEncoderAsGraph: an encoder becomes ONNX; flags that mean nothing elsewhere say so.
func TestEncoderAsGraph(t *testing.T) {
	dir := t.TempDir()
	bert := encoderFolder()
	ok(t, dir, "convert", bert, "-o", "bert.onnx", "--opset", "20", "--embeddings")
	out := ok(t, dir, "inspect", "bert.onnx")
	for _, want := range []string{"input_ids", "attention_mask", "token_type_ids", "batch x sequence", "last_hidden_state", "sentence_embedding"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
	for _, args := range [][]string{
		{"convert", bert, "-o", "old.onnx", "--opset", "13"},
		{"convert", bert, "-o", "same.gguf", "--embeddings"},
		{"convert", "bert.onnx", "-o", "again.onnx", "--opset", "18"},
	} {
		if d := pare(t, dir, args...); d.code != exitMisuse {
			t.Errorf("%v: exit code %d, %s", args, d.code, d.err)
		}
	}
}

// TestQuantizeEncoder: a folder becomes a graph of integers with ranges from lines of text, and without any; both
// are compared with the folder on other lines.
func TestQuantizeEncoder(t *testing.T) {
	dir := t.TempDir()
	bert := encoderFolder()
	var text strings.Builder
	for i := range 24 {
		text.WriteString(strings.Repeat("some words and numbers ", i%4+1) + strings.Repeat("x", i) + "\n")
	}
	if err := os.WriteFile(filepath.Join(dir, "lines.txt"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, dir, "quantize", bert, "--type", "uint8", "--calibration", "lines.txt", "-o", "static.onnx")
	ok(t, dir, "quantize", bert, "--type", "dynamic-int8", "-o", "dynamic.onnx")
	for _, file := range []string{"static.onnx", "dynamic.onnx"} {
		var r struct {
			Samples int
			Outputs []struct {
				Name   string
				Cosine float64
			}
		}
		out := ok(t, dir, "verify", bert, file, "--text", "lines.txt", "--gate", "cosine=0.98", "--output", "json")
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		if r.Samples != 24 || len(r.Outputs) != 2 {
			t.Errorf("%s: %+v", file, r)
		}
		for _, o := range r.Outputs {
			if o.Cosine < 0.98 || o.Cosine == 1 { // random weights of 64 columns; integers leave a trace
				t.Errorf("%s: cosine of %s is %v", file, o.Name, o.Cosine)
			}
		}
	}
	for _, args := range [][]string{
		{"quantize", bert, "--type", "uint8", "-o", "none.onnx"},
		{"verify", bert, "static.onnx"},
		{"verify", "static.onnx", bert, "--text", "lines.txt"},
	} {
		if d := pare(t, dir, args...); d.code != exitMisuse {
			t.Errorf("%v: exit code %d, %s", args, d.code, d.err)
		}
	}
}
