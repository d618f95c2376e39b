package formats

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/ir"
)

var converted = map[string]string{"llama": "model-bf16.gguf", "mistral": "model-f16.gguf", "qwen2": "model-bf16.gguf", "qwen3": "model-bf16.gguf"}

// TestGGUFEqualsHF: llama.cpp's converter made each GGUF from the folder beside it, so both must
// give the same model, value by value, in the IR's own order.
func TestGGUFEqualsHF(t *testing.T) {
	for name, file := range converted {
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
			got.RopeFactors = nil // the scaling that they come from is found again
		}
		if !slices.Equal(want.RopeSpeeds(), got.RopeSpeeds()) {
			t.Errorf("%s: RoPE speeds %v, GGUF %v", name, want.RopeSpeeds(), got.RopeSpeeds())
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

// ownKeys are those that pare writes although the converter leaves them to be assumed.
var ownKeys = []string{
	"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix",
	"qwen2.attention.key_length", "qwen2.attention.value_length", "qwen2.vocab_size", "qwen2.rope.dimension_count",
	"qwen3.vocab_size", "qwen3.rope.dimension_count",
}

// TestWriteGGUF: a file made from a folder has the tensors of llama.cpp's converter in its order,
// byte for byte, and all of its metadata.
func TestWriteGGUF(t *testing.T) {
	for name, file := range converted {
		m := open(t, filepath.Join(architectures, name))
		path := filepath.Join(t.TempDir(), "out.gguf")
		o := WriteOptions{Name: "tiny random " + name, Threads: 2, Memory: 1 << 20}
		switch name { // toy tokenizers, converted with a name given by hand
		case "llama":
			o.Pre = "llama-bpe"
		case "qwen2", "qwen3":
			o.Pre = "qwen2"
		}
		if err := Write(context.Background(), "gguf", m, path, o); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		notes, err := Plan("gguf", m, o)
		if told := strings.Contains(strings.Join(notes, " "), "sliding window"); err != nil || told != (name == "mistral") {
			t.Errorf("%s: notes %v, %v", name, notes, err)
		}
		compareGGUF(t, name, path, filepath.Join(architectures, name, file))
		if left, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(left) != 1 {
			t.Errorf("%s: left behind %v", name, left)
		}

		// From the GGUF again: the same tensors and the same model.
		back := open(t, path)
		again := filepath.Join(t.TempDir(), "again.gguf")
		if err := Write(context.Background(), "gguf", back, again, WriteOptions{Threads: 1, Memory: 1}); err != nil {
			t.Fatal(err)
		}
		compareGGUF(t, name+" again", again, path)
		if err := Write(context.Background(), "gguf", back, again, WriteOptions{}); !errors.Is(err, ErrExists) {
			t.Errorf("%s: overwriting: %v", name, err)
		}
	}
}

func compareGGUF(t *testing.T, name, gotPath, wantPath string) {
	t.Helper()
	got, gotBytes := parseGGUF(t, gotPath)
	want, wantBytes := parseGGUF(t, wantPath)
	for _, kv := range want.KV {
		if v, ok := got.Value(kv.Key); !ok || !reflect.DeepEqual(v, kv.Value) {
			t.Errorf("%s: %s is %v, the other file has %v", name, kv.Key, v, kv.Value)
		}
	}
	for _, kv := range got.KV {
		if _, ok := want.Value(kv.Key); !ok && !slices.Contains(ownKeys, kv.Key) {
			t.Errorf("%s: %s = %v is not in the other file", name, kv.Key, kv.Value)
		}
	}
	if len(got.Tensors) != len(want.Tensors) {
		t.Fatalf("%s: %d tensors, the other file has %d", name, len(got.Tensors), len(want.Tensors))
	}
	for i, w := range want.Tensors {
		g := got.Tensors[i]
		if g.Name != w.Name || g.Type != w.Type || !reflect.DeepEqual(g.Shape, w.Shape) {
			t.Errorf("%s: tensor %d is %s %d %v, the other file has %s %d %v", name, i, g.Name, g.Type, g.Shape, w.Name, w.Type, w.Shape)
		} else if !bytes.Equal(gotBytes[g.Offset:g.Offset+g.Size], wantBytes[w.Offset:w.Offset+w.Size]) {
			t.Errorf("%s: %s has other bytes", name, g.Name)
		}
	}
}

func parseGGUF(t *testing.T, path string) (*gguf.File, []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f, b
}
