package runner_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

// bytesSource serves a tensor from memory.
type bytesSource struct {
	t    *ir.Tensor
	data []byte
}

func (s bytesSource) ReadRaw(_ context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	row, err := s.t.Type.RowBytes(s.t.Cols())
	if err != nil {
		return err
	}
	copy(dst, s.data[int64(lo)*row:int64(hi)*row])
	return nil
}

func (s bytesSource) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	row, err := s.t.Type.RowBytes(s.t.Cols())
	if err != nil {
		return err
	}
	storage.MustLookup(s.t.Type).Decode(dst, s.data[int64(lo)*row:int64(hi)*row])
	return nil
}

func openHF(t testing.TB, dir string) *ir.Model {
	t.Helper()
	cfg, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	a, d, _, err := arch.FromHF(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	m := &ir.Model{Path: dir, Decoder: d}
	for _, x := range f.Tensors {
		r, block, _ := a.HFRole(x.Name)
		typ, err := safetensors.Type(x.DType)
		if err != nil {
			t.Fatal(err)
		}
		h := &ir.Tensor{Name: x.Name, Role: r, Block: block, Shape: x.Shape, Type: typ}
		h.Data = bytesSource{h, b[x.Offset : x.Offset+x.Size]}
		if err := m.Add(h); err != nil {
			t.Fatal(err)
		}
	}
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
