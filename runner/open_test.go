package runner_test

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
)

func open(t testing.TB, path string) *ir.Model {
	t.Helper()
	m, err := formats.Open(context.Background(), path)
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

// reference reads one tensor of a reference.safetensors as real values.
func reference(t testing.TB, path, name string) (x []float32, shape []int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range f.Tensors {
		if v.Name != name {
			continue
		}
		typ, err := safetensors.Type(v.DType)
		if err != nil {
			t.Fatal(err)
		}
		n := 1
		for _, d := range v.Shape {
			n *= d
		}
		x = make([]float32, n)
		storage.MustLookup(typ).Decode(x, b[v.Offset:v.Offset+v.Size])
		return x, v.Shape
	}
	t.Fatalf("%s has no tensor %q", path, name)
	return nil, nil
}

// tokensOf is reference for token ids.
func tokensOf(t testing.TB, path, name string) ([]int32, []int) {
	t.Helper()
	x, shape := reference(t, path, name)
	ids := make([]int32, len(x))
	for i, v := range x {
		ids[i] = int32(v)
	}
	return ids, shape
}

// decode is the text of ids, special tokens left out.
func decode(t testing.TB, tok *tokenizer.Tokenizer, ids []int32) string {
	t.Helper()
	return tok.Decode(ids, tokenizer.DecodeOptions{SkipSpecial: true})
}
