package formats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// TestSameBytes: neither threads nor memory change what is written.
func TestSameBytes(t *testing.T) {
	m := open(t, filepath.Join(architectures, "llama"))
	for _, name := range []string{"gguf", "safetensors"} {
		var first []byte
		for _, o := range []WriteOptions{{Threads: 1}, {Threads: 2, Memory: 1}, {Threads: 7, Memory: 100_000}} {
			o.Pre = "llama-bpe"
			path := filepath.Join(t.TempDir(), "out")
			if err := Write(context.Background(), name, m, path, o); err != nil {
				t.Fatal(err)
			}
			if b := read(t, path); first == nil {
				first = b
			} else if !bytes.Equal(first, b) {
				t.Errorf("%s: %+v gives other bytes", name, o)
			}
		}
	}
}

var errTorn = errors.New("the disk is torn")

// torn fails in the middle of a model.
type torn struct{ ir.Source }

func (torn) ReadRows(context.Context, []float32, int, int) error { return errTorn }

func (torn) ReadRaw(context.Context, ir.Part, []byte, int, int) error { return errTorn }

// TestNothingHalfWritten: an error or a cancelled context leaves what was there before.
func TestNothingHalfWritten(t *testing.T) {
	good := open(t, filepath.Join(architectures, "mistral"))
	m := good.Clone()
	bad := m.Tensors()[20]
	if err := m.Replace(bad.With(bad.Type, nil, torn{bad.Data})); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, name := range []string{"gguf", "safetensors", "hf"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "out")
		if err := Write(context.Background(), name, good, path, WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		before := tree(t, dir)
		err := Write(context.Background(), name, m, path, WriteOptions{Force: true})
		var fe *fault.Error
		if !errors.Is(err, errTorn) || !errors.As(err, &fe) || fe.Tensor == "" {
			t.Errorf("%s: %v", name, err)
		}
		if err := Write(cancelled, name, good, path, WriteOptions{Force: true}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancelled: %v", name, err)
		}
		if after := tree(t, dir); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: %d files before, %d after", name, len(before), len(after))
		}
	}
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			files[path] = string(read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// writeTensors writes a GGUF file by hand.
func writeTensors(t *testing.T, path string, kv []gguf.KV, tensors []gguf.Tensor) {
	t.Helper()
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, kv, tensors)
	if err != nil {
		t.Fatal(err)
	}
	for i := range tensors {
		n := 1
		for _, d := range tensors[i].Shape {
			n *= d
		}
		if _, err := w.Write(bytes.Repeat([]byte{0, 0, byte(i), 0x3f}, n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestUnknownGGUF: metadata and names of an unknown architecture travel as they are.
func TestUnknownGGUF(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in.gguf")
	kv := []gguf.KV{
		{Key: "general.architecture", Value: "frobnicate"},
		{Key: "general.name", Value: "x"},
		{Key: "general.file_type", Value: uint32(1)},
		{Key: "frobnicate.weird", Value: []any{[]int32{1}, []int32{2, 3}}},
		{Key: "tokenizer.ggml.model", Value: "t5"},
		{Key: "general.alignment", Value: uint32(64)},
	}
	writeTensors(t, path, kv, []gguf.Tensor{{Name: "b.weight", Shape: []int{2, 3, 4, 5}}, {Name: "a", Shape: []int{7}}})
	m := open(t, path)
	if m.Arch != "frobnicate" || m.Decoder != nil || m.Tensors()[0].Name != "b.weight" {
		t.Fatalf("%+v", m)
	}
	out := filepath.Join(t.TempDir(), "out.gguf")
	if err := Write(context.Background(), "gguf", m, out, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	got, gotBytes := parseGGUF(t, out)
	want, wantBytes := parseGGUF(t, path)
	for _, e := range kv {
		v, _ := got.Value(e.Key)
		if e.Key == "general.file_type" {
			e.Value = uint32(0) // its weights are f32, whatever the file said
		}
		if !reflect.DeepEqual(v, e.Value) {
			t.Errorf("%s is %v", e.Key, v)
		}
	}
	for i, w := range want.Tensors {
		g := got.Tensors[i]
		if g.Name != w.Name || !bytes.Equal(gotBytes[g.Offset:g.Offset+g.Size], wantBytes[w.Offset:w.Offset+w.Size]) || g.Offset%64 != 0 {
			t.Errorf("%+v, want %+v", g, w)
		}
	}
	if _, err := Plan("hf", m, WriteOptions{}); !errors.Is(err, fault.ErrRefused) {
		t.Errorf("as a folder: %v", err)
	}
}

// TestSplit opens a model in three files by the name of any of them.
func TestSplit(t *testing.T) {
	write := func(change func(i int, kv []gguf.KV) []gguf.KV) string {
		dir := t.TempDir()
		for i := range 3 {
			kv := []gguf.KV{{Key: "split.no", Value: uint16(i)}, {Key: "split.count", Value: uint16(3)}, {Key: "split.tensors.count", Value: int32(3)}}
			if i == 0 {
				kv = append([]gguf.KV{{Key: "general.architecture", Value: "frobnicate"}}, kv...)
			}
			if change != nil {
				kv = change(i, kv)
			}
			writeTensors(t, filepath.Join(dir, fmt.Sprintf("m-%05d-of-00003.gguf", i+1)), kv, []gguf.Tensor{{Name: fmt.Sprintf("t%d", i), Shape: []int{2, 3}}})
		}
		return dir
	}
	dir := write(nil)
	for _, path := range []string{dir, dir + "/m-00001-of-00003.gguf", dir + "/m-00002-of-00003.gguf"} {
		m := open(t, path)
		if m.Arch != "frobnicate" && !strings.Contains(path, "00002") || len(m.Tensors()) != 3 || m.Find("t2") == nil {
			t.Errorf("%s: %s, %d tensors", path, m.Arch, len(m.Tensors()))
		}
		if _, ok := m.Meta["split.count"]; ok {
			t.Error("the number of files must not travel on")
		}
	}
	for name, dir := range map[string]string{
		"wrong number": write(func(i int, kv []gguf.KV) []gguf.KV {
			if i == 1 {
				kv[0].Value = uint16(2)
			}
			return kv
		}),
		"too few tensors": write(func(_ int, kv []gguf.KV) []gguf.KV { kv[len(kv)-1].Value = int32(4); return kv }),
		"other count": write(func(i int, kv []gguf.KV) []gguf.KV {
			if i == 2 {
				kv[1].Value = uint16(4)
			}
			return kv
		}),
	} {
		if _, err := Open(context.Background(), dir); !errors.Is(err, ErrSplit) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "m-00003-of-00003.gguf")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file is missing: %v", err)
	}
}

// TestUnsupportedGGUFArchitecture: a llama with experts keeps its rows as they lie, since nothing
// says how wide its heads are taken to be.
func TestUnsupportedGGUFArchitecture(t *testing.T) {
	from := filepath.Join(architectures, "llama", "model-bf16.gguf")
	f, b := parseGGUF(t, from)
	kv := append(slices.Clone(f.KV), gguf.KV{Key: "llama.expert_count", Value: uint32(2)})
	path := filepath.Join(t.TempDir(), "experts.gguf")
	var out bytes.Buffer
	w, err := gguf.NewWriter(&out, kv, f.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range f.Tensors {
		if _, err := w.Write(b[x.Offset : x.Offset+x.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	m := open(t, path)
	q := m.Find("blk.0.attn_q.weight")
	if m.Decoder != nil || q.Role != ir.RoleUnknown || len(q.Aliases) > 0 || m.Find("model.layers.0.self_attn.q_proj.weight") != nil {
		t.Errorf("decoder %v, q %+v", m.Decoder, q)
	}
	again := filepath.Join(t.TempDir(), "again.gguf")
	if err := Write(context.Background(), "gguf", m, again, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	compareGGUF(t, "experts", again, path)
}

// TestRotateTwice gives back the first data, also for vectors.
func TestRotateTwice(t *testing.T) {
	v := newVector("b", []float32{0, 1, 2, 3, 4, 5, 6, 7})
	r, err := rotate(v, 4, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := values(t, r); !slices.Equal(got, []float32{0, 2, 1, 3, 4, 6, 5, 7}) {
		t.Errorf("%v", got)
	}
	raw := make([]byte, 32)
	if err := r.Data.ReadRaw(context.Background(), ir.PartData, raw, 0, 1); err != nil {
		t.Fatal(err)
	}
	decoded := make([]float32, 8)
	storage.MustLookup(storage.F32).Decode(decoded, raw)
	if !slices.Equal(decoded, values(t, r)) {
		t.Errorf("raw %v", decoded)
	}
	wrapped := r.With(r.Type, nil, struct{ ir.Source }{r.Data}) // hides what is below
	for _, x := range []*ir.Tensor{r, wrapped} {
		back, err := rotate(x, 4, true)
		if err != nil || !slices.Equal(values(t, back), values(t, v)) {
			t.Errorf("%v, %v", values(t, back), err)
		}
	}
	if _, err := rotate(v, 6, true); !errors.Is(err, errOrder) {
		t.Errorf("heads that do not fit: %v", err)
	}
}

func TestSizeLabel(t *testing.T) {
	for n, want := range map[int64]string{877_824: "878K", 6_819_072: "6.8M", 1_235_814_400: "1.2B", 7_241_732_096: "7.2B", 70_553_706_496: "71B", 999: "1.0K", 0: "0.00K"} {
		if got := sizeLabel(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestWriteRefusals(t *testing.T) {
	m := open(t, filepath.Join(architectures, "llama"))
	for name, want := range map[string]error{"tflite": fault.ErrMisuse, "llama2c": ErrReadOnly} {
		if err := Write(context.Background(), name, m, filepath.Join(t.TempDir(), "x"), WriteOptions{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	c := m.Clone()
	c.Tokenizer = nil // but there is a tokenizer.json
	if _, err := Plan("gguf", c, WriteOptions{}); !errors.Is(err, fault.ErrRefused) {
		t.Errorf("a tokenizer that was not understood: %v", err)
	}
	c.Assets = map[string][]byte{}
	if notes, err := Plan("gguf", c, WriteOptions{}); err != nil || len(notes) != 1 {
		t.Errorf("no tokenizer at all: %v, %v", notes, err)
	}
	if _, err := Plan("gguf", m, WriteOptions{Pre: "frobnicate"}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("an unknown pre-tokenizer: %v", err)
	}
	q := m.Clone()
	x := q.Tensors()[3]
	if err := q.Replace(x.With(storage.U8, nil, x.Data)); err != nil {
		t.Fatal(err)
	}
	if _, err := Plan("gguf", q, WriteOptions{Pre: "llama-bpe"}); !errors.Is(err, fault.ErrRefused) {
		t.Errorf("a type that GGUF does not have: %v", err)
	}
	if _, err := Plan("hf", open(t, filepath.Join(architectures, "llama", "model-bf16.gguf")), WriteOptions{}); err != nil {
		t.Errorf("bf16 from GGUF: %v", err)
	}
}

func TestByPath(t *testing.T) {
	for path, want := range map[string]string{"a/b.gguf": "gguf", "x.SAFETENSORS": "safetensors", "dir.v2": "", "x.bin": "", "some/dir": "hf"} {
		if f, ok := ByPath(path); f.Name != want || ok != (want != "") {
			t.Errorf("%s: %q", path, f.Name)
		}
	}
}
