package formats

import (
	"context"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/pare-dev/pare/ir"
)

var ggufFile = map[string]string{"llama": "model-bf16.gguf", "mistral": "model-f16.gguf", "qwen2": "model-bf16.gguf", "qwen3": "model-bf16.gguf"}

// TestGGUFEqualsHF: llama.cpp's converter made each GGUF from the folder beside it, so both must
// give the same model, value by value, in the IR's own order.
func TestGGUFEqualsHF(t *testing.T) {
	for name, file := range ggufFile {
		hf := open(t, filepath.Join(architectures, name))
		gg := open(t, filepath.Join(architectures, name, file))
		if gg.Format != "gguf" || gg.Decoder == nil || len(gg.Problems) > 0 {
			t.Errorf("%s: format %s, decoder %v, problems %v", name, gg.Format, gg.Decoder, gg.Problems)
			continue
		}
		want, got := *hf.Decoder, *gg.Decoder
		if name == "mistral" {
			want.Window = 0 // the converter does not write it
		}
		if factors := want.RopeScaling.Factors(want.RopeTheta, want.HeadDim); factors != nil {
			if !slices.Equal(factors, got.RopeFactors) {
				t.Errorf("%s: factors %v, the file has %v", name, factors, got.RopeFactors)
			}
			want.RopeScaling, got.RopeFactors = nil, nil
		}
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s: HF gives %+v, GGUF %+v", name, want, got)
		}
		seen := 0
		for _, x := range gg.Tensors() {
			if x.Name == ropeFactors {
				continue
			}
			y := hf.Find(x.Name)
			if y == nil || y.Role != x.Role || y.Block != x.Block || !reflect.DeepEqual(x.Shape, y.Shape) {
				t.Errorf("%s: %s is %+v in GGUF, %+v in the folder", name, x.Name, x, y)
				continue
			}
			if !slices.Equal(values(t, x), values(t, y)) {
				t.Errorf("%s: %s differs", name, x.Name)
			}
			seen++
		}
		if seen != len(hf.Tensors()) {
			t.Errorf("%s: %d tensors in GGUF, %d in the folder", name, seen, len(hf.Tensors()))
		}
	}
}

func values(t *testing.T, x *ir.Tensor) []float32 {
	t.Helper()
	v, err := ir.ReadAll(context.Background(), x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestPartialReads: any range of rows of a rearranged tensor equals the same rows of the whole.
func TestPartialReads(t *testing.T) {
	gg := open(t, filepath.Join(architectures, "llama", "model-bf16.gguf"))
	x := gg.Role(ir.RoleAttnK, 1)
	whole := values(t, x)
	cols := x.Cols()
	for _, r := range [][2]int{{0, 1}, {31, 33}, {5, 5}, {7, 64}, {32, 64}, {0, 64}} {
		got := make([]float32, (r[1]-r[0])*cols)
		if err := x.Data.ReadRows(context.Background(), got, r[0], r[1]); err != nil || !slices.Equal(got, whole[r[0]*cols:r[1]*cols]) {
			t.Errorf("rows %v: %v", r, err)
		}
		n, _ := x.PartBytes(ir.PartData, r[0], r[1])
		raw := make([]byte, n)
		if err := x.Data.ReadRaw(context.Background(), ir.PartData, raw, r[0], r[1]); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if v := math.Float32frombits(uint32(raw[2*i])<<16 | uint32(raw[2*i+1])<<24); v != got[i] {
				t.Fatalf("rows %v: raw element %d is %v, want %v", r, i, v, got[i])
			}
		}
	}
	if err := x.Data.ReadRows(context.Background(), make([]float32, cols), 64, 65); err == nil {
		t.Error("a row past the end was read")
	}
}
