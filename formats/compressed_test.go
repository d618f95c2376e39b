package formats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// TestCompressedTensors reads what the compressed-tensors package wrote and gives the values that
// it decompresses to.
func TestCompressedTensors(t *testing.T) {
	m := open(t, "testdata/compressed")
	if m.Format != "compressed-tensors" {
		t.Fatalf("format %s", m.Format)
	}
	want := open(t, "testdata/compressed/expected.safetensors")
	schemes := map[string]string{
		"int4_g32": "int4 g32 sym", "int4_g32_asym": "int4 g32 asym", "int4_channel_odd": "int4 channel sym", "int4_channel_asym": "int4 channel asym",
		"int8_channel": "int8 channel sym", "int8_g64_asym": "int8 g64 asym", "int4_tensor": "int4 tensor sym",
		"loose_channel": "int8 channel sym", "loose_channel_asym": "int8 channel asym",
	}
	if len(m.Tensors()) != len(schemes)+1 {
		t.Errorf("%d tensors", len(m.Tensors()))
	}
	for name, scheme := range schemes {
		x, y := m.Find(name+".weight"), want.Find(name+".weight")
		if x == nil || x.Scheme == nil || x.Scheme.String() != scheme {
			t.Errorf("%s: %+v, want %s", name, x, scheme)
			continue
		}
		whole := values(t, x)
		if !slices.Equal(whole, values(t, y)) {
			t.Errorf("%s: values differ", name)
		}
		planes(t, x, whole)
	}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
}

// planes checks that the raw parts of any range of rows give the same values.
func planes(t *testing.T, x *ir.Tensor, whole []float32) {
	t.Helper()
	s, cols := *x.Scheme, x.Cols()
	groups := s.Groups(cols)
	for _, r := range [][2]int{{0, x.Rows()}, {1, 3}, {x.Rows() - 1, x.Rows()}, {2, 2}} {
		part := map[ir.Part][]byte{}
		for _, p := range x.Parts() {
			n, err := x.PartBytes(p, r[0], r[1])
			if err != nil {
				t.Fatal(err)
			}
			part[p] = make([]byte, n)
			if err := x.Data.ReadRaw(context.Background(), p, part[p], r[0], r[1]); err != nil {
				t.Fatal(err)
			}
		}
		info := storage.MustLookup(s.Scale)
		scales := make([]float32, len(part[ir.PartScales])/info.BlockBytes)
		info.Decode(scales, part[ir.PartScales])
		for i := range (r[1] - r[0]) * cols {
			g := i / cols * groups
			switch {
			case s.Group == storage.GroupTensor:
				g = 0
			case s.Group > 0:
				g += i % cols / s.Group
			}
			q := int(int8(part[ir.PartCodes][i]))
			if !s.Symmetric {
				q = int(part[ir.PartCodes][i]) - int(part[ir.PartZeros][g])
			}
			if v := scales[g] * float32(q); v != whole[r[0]*cols+i] {
				t.Fatalf("%s rows %v: element %d is %v from its parts, %v decoded", x.Name, r, i, v, whole[r[0]*cols+i])
			}
		}
	}
}

// TestWriteCompressed writes back what was read: the package's own bytes must come out.
func TestWriteCompressed(t *testing.T) {
	m := open(t, "testdata/compressed")
	for _, name := range []string{"loose_channel", "loose_channel_asym"} { // these come back packed
		if m.Find(name+".weight") == nil {
			t.Fatal(name)
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := Write(context.Background(), "compressed-tensors", m, out, WriteOptions{Memory: 1}); err != nil {
		t.Fatal(err)
	}
	got, want := rawTensors(t, filepath.Join(out, oneName)), rawTensors(t, "testdata/compressed/model.safetensors")
	for name, w := range want {
		if strings.HasPrefix(name, "loose") {
			continue
		}
		if g := got[name]; !bytes.Equal(g.data, w.data) || g.DType != w.DType || !reflect.DeepEqual(g.Shape, w.Shape) && !strings.HasSuffix(name, "int4_tensor.weight_scale") {
			t.Errorf("%s: %s %v, want %s %v", name, g.DType, g.Shape, w.DType, w.Shape)
		}
	}
	back := open(t, out)
	for _, x := range m.Tensors() {
		if y := back.Find(x.Name); y == nil || !slices.Equal(values(t, x), values(t, y)) || !reflect.DeepEqual(x.Scheme, y.Scheme) {
			t.Errorf("%s did not survive", x.Name)
		}
	}
}

type rawTensor struct {
	safetensors.Tensor
	data []byte
}

func rawTensors(t *testing.T, path string) map[string]rawTensor {
	t.Helper()
	b := read(t, path)
	f, err := safetensors.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]rawTensor{}
	for _, x := range f.Tensors {
		all[x.Name] = rawTensor{x, b[x.Offset : x.Offset+x.Size]}
	}
	return all
}

// TestCompressedConfig: one scheme targets the class and lists what is left out.
func TestCompressedConfig(t *testing.T) {
	m := open(t, filepath.Join(architectures, "qwen3")).Clone()
	src := open(t, "testdata/compressed")
	donor := src.Find("int4_g32.weight") // any planes will do: the shapes are not looked at here
	for _, x := range m.Tensors() {
		if x.Role.Linear() {
			c := *donor
			c.Name, c.Role, c.Block, c.Aliases = x.Name, x.Role, x.Block, x.Aliases
			if err := m.Replace(&c); err != nil {
				t.Fatal(err)
			}
		}
	}
	f, err := layCompressed(m, WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		HiddenSize   int          `json:"hidden_size"`
		Quantization packedConfig `json:"quantization_config"`
	}
	if err := json.Unmarshal(f.assets["config.json"], &config); err != nil {
		t.Fatal(err)
	}
	g := config.Quantization.ConfigGroups["group_0"]
	if config.HiddenSize != 64 || !slices.Equal(g.Targets, []string{"Linear"}) || !slices.Equal(config.Quantization.Ignore, []string{"lm_head"}) || *g.Weights.GroupSize != 32 || g.Weights.NumBits != 4 || !g.Weights.Symmetric {
		t.Errorf("%+v", config)
	}
	if _, err := Plan("hf", m, WriteOptions{}); !errors.Is(err, fault.ErrRefused) {
		t.Errorf("planes in an ordinary folder: %v", err)
	}
	if _, err := Plan("gguf", m, WriteOptions{}); !errors.Is(err, fault.ErrRefused) {
		t.Errorf("planes in GGUF: %v", err)
	}
}

func TestBrokenPacked(t *testing.T) {
	config := string(read(t, "testdata/compressed/config.json"))
	tensors := read(t, "testdata/compressed/model.safetensors")
	rename := func(from, to string) []byte { return bytes.ReplaceAll(tensors, []byte(from), []byte(to)) }
	for name, tc := range map[string]struct {
		config  string
		tensors []byte
		want    error
	}{
		"no scale":         {config, rename("int4_g32.weight_scale", "int4_g32.weight_scalx"), errPacked},
		"no shape":         {config, rename("int4_g32.weight_shape", "int4_g32.weight_shapx"), errPacked},
		"other bits":       {strings.ReplaceAll(config, `"num_bits": 4`, `"num_bits": 3`), tensors, errPacked},
		"other group":      {strings.ReplaceAll(config, `"group_size": 32`, `"group_size": 31`), tensors, errPacked},
		"negative group":   {strings.ReplaceAll(config, `"group_size": 32`, `"group_size": -1`), tensors, errPacked},
		"zero points gone": {config, rename("int4_g32_asym.weight_zero_point", "int4_g32_asym.weight_zero_poinx"), errPacked},
		"column order":     {config, withColumnOrder(t, tensors), errPacked},
	} {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "config.json"), []byte(tc.config), 0o600)
		os.WriteFile(filepath.Join(dir, oneName), tc.tensors, 0o600)
		m, err := Open(context.Background(), dir)
		if tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if err == nil {
			m.Close()
		}
	}
}

// withColumnOrder adds an activation order to a weight.
func withColumnOrder(t *testing.T, b []byte) []byte {
	t.Helper()
	f, err := safetensors.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	data := b[f.Tensors[0].Offset:]
	var out bytes.Buffer
	w, err := safetensors.NewWriter(&out, append(f.Tensors, safetensors.Tensor{Name: "int4_g32.weight_g_idx", DType: "I32", Shape: []int{96}}), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(append(bytes.Clone(data), make([]byte, 4*96)...))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
