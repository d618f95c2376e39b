package lora_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/formats/safetensors"
)

// writeAdapter writes a LoRA adapter of q_proj of layer 0 for a weight [out,in].
func writeAdapter(t *testing.T, dir string, r, in, out int) {
	t.Helper()
	config := fmt.Sprintf(`{"peft_type":"LORA","r":%d,"lora_alpha":8,"target_modules":["q_proj"]}`, r)
	if err := os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	const module = "base_model.model.model.layers.0.self_attn.q_proj."
	list := []safetensors.Tensor{
		{Name: module + "lora_A.weight", DType: "F32", Shape: []int{r, in}, Size: int64(r * in * 4)},
		{Name: module + "lora_B.weight", DType: "F32", Shape: []int{out, r}, Size: int64(out * r * 4)},
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
