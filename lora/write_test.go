package lora_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/formats/safetensors"
)

// shape is a tensor of an adapter that a test makes up.
type shape struct {
	name string
	dims []int
}

// writeAdapter writes an adapter folder with small made-up values.
func writeAdapter(t testing.TB, dir, config string, tensors ...shape) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var list []safetensors.Tensor
	for _, s := range tensors {
		n := 4
		for _, d := range s.dims {
			n *= d
		}
		list = append(list, safetensors.Tensor{Name: s.name, DType: "F32", Shape: s.dims, Size: int64(n)})
	}
	var buf bytes.Buffer
	w, err := safetensors.NewWriter(&buf, list, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range list {
		b := make([]byte, x.Size)
		for i := 0; i < len(b); i += 4 {
			binary.LittleEndian.PutUint32(b[i:], math.Float32bits(float32(i%97)/97-0.5))
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "adapter_model.safetensors"), buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
