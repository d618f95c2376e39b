package lora_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/lora"
	"github.com/pare-dev/pare/quantize"
)

const books = "../testdata/books-llama/"

// gguf writes the books model as GGUF, with its block matrices in a stored type, and opens it.
func gguf(t *testing.T, typ string) *ir.Model {
	t.Helper()
	m := open(t, books+"model")
	if typ != "" {
		req, err := quantize.ParseRequest(typ)
		if err != nil {
			t.Fatal(err)
		}
		p := &quantize.RTN{Request: req}
		plan, err := p.Plan(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Apply(t.Context(), m, plan, ir.Env{}); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := formats.Write(t.Context(), "gguf", m, path, formats.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

// An adapter with Hugging Face names goes into a GGUF file, whose names and order of q and k rows
// differ.
func TestMergeIntoGGUF(t *testing.T) {
	m := gguf(t, "")
	apply(t, m, load(t, books+"adapter-shakespeare"), lora.Options{Type: storage.F32})
	want := tensors(t, books+"adapter-shakespeare-expected.safetensors")
	checked := 0
	for name, w := range want {
		if !strings.HasPrefix(name, "model.") {
			continue
		}
		checked++
		if d := maxDiff(values(t, m, name), w); !(d <= 1e-5) {
			t.Errorf("%s differs by %g", name, d)
		}
	}
	if checked != 7 {
		t.Errorf("%d tensors compared", checked)
	}
}

// Merging into block types: the sum is encoded again with the same type, tensors without a change
// keep their bytes, and the figures say how much of the change survived.
func TestMergeIntoQuantized(t *testing.T) {
	for _, typ := range []string{"q8_0", "q4_0"} {
		m := gguf(t, typ)
		before := m.Clone()
		res := apply(t, m, load(t, filepath.Join(books, "adapter-shakespeare:0.1")), lora.Options{})
		if res.Changed != 42 {
			t.Errorf("%s: %d changed", typ, res.Changed)
		}
		for i, at := range m.Tensors() {
			was := before.Tensors()[i]
			f := res.Tensors[at.Name]
			if f == nil {
				if at != was {
					t.Errorf("%s: %s has another handle", typ, at.Name)
				}
				continue
			}
			if at.Type != was.Type {
				t.Errorf("%s: %s became %s", typ, at.Name, at.Type)
			}
			if was.Block != 0 {
				continue
			}
			// the stored bytes are what the type's own encoder makes of base + s B A
			float := open32(t, before, books+"adapter-shakespeare", 0.1, at.Name)
			info := storage.MustLookup(at.Type)
			got := raw(t, at)
			row := make([]byte, len(got)/at.Rows())
			for r := range at.Rows() {
				if err := info.Encode(row, float[r*at.Cols():(r+1)*at.Cols()], nil); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(row, got[r*len(row):(r+1)*len(row)]) {
					t.Fatalf("%s: %s row %d", typ, at.Name, r)
				}
			}
			// and the real view is what a reader of those bytes sees
			back := make([]float32, at.Elems())
			info.Decode(back, got)
			if !slices.Equal(back, values(t, m, at.Name)) {
				t.Errorf("%s: %s: bytes and values disagree", typ, at.Name)
			}
			old := values(t, before, at.Name)
			var err2, d2 float64
			for j := range old {
				err2 += math.Pow(float64(back[j])-float64(float[j]), 2)
				d2 += math.Pow(float64(float[j])-float64(old[j]), 2)
			}
			if want := math.Sqrt(err2 / d2); math.Abs(f["signal_lost"]-want) > 1e-3*want {
				t.Errorf("%s %s: signal lost %v, want %v", typ, at.Name, f["signal_lost"], want)
			}
		}
		drowned := slices.ContainsFunc(res.Notes, func(s string) bool { return strings.Contains(s, "smaller than the error") })
		if drowned != (typ != "q8_0") {
			t.Errorf("%s: notes %q", typ, res.Notes)
		}
	}
}

// open32 is base + weight*s*B*A of one tensor in float32, by a second merge.
func open32(t *testing.T, base *ir.Model, dir string, weight float32, name string) []float32 {
	t.Helper()
	m := base.Clone()
	list := load(t, dir)
	list[0].Weight = weight
	p := lora.New(list, lora.Options{Type: storage.F32})
	if cached[m.Path] == nil {
		if _, err := p.Apply(t.Context(), m, nil, ir.Env{}); err != nil {
			t.Fatal(err)
		}
		cached[m.Path] = m
	}
	return values(t, cached[m.Path], name)
}

var cached = map[string]*ir.Model{}

// bf16 rounds once, to nearest even: the same bits as casting PEFT's float32 merge.
func TestMergeIntoBF16(t *testing.T) {
	m := open(t, books+"model")
	res := apply(t, m, load(t, books+"adapter-shakespeare"), lora.Options{})
	want := tensors(t, books+"adapter-shakespeare-expected.safetensors")
	for name, w := range want {
		if !strings.HasPrefix(name, "model.") {
			continue
		}
		if m.Find(name).Type != storage.BF16 {
			t.Fatalf("%s is %s", name, m.Find(name).Type)
		}
		other := 0
		for i, v := range values(t, m, name) {
			if storage.F32ToBF16(w[i]) != storage.F32ToBF16(v) {
				other++
			}
		}
		if other > len(w)/1000 { // sums in another order, next to a midpoint
			t.Errorf("%s: %d of %d elements round otherwise", name, other, len(w))
		}
		if f := res.Tensors[name]; !(f["unchanged"] > 0 && f["unchanged"] < 0.1) {
			t.Errorf("%s: figures %v", name, f)
		}
	}
}

// The same bytes at any number of threads and in any bands.
func TestMergeDeterministic(t *testing.T) {
	list := load(t, books+"adapter-shakespeare")
	one, two := open(t, books+"model"), open(t, books+"model")
	for threads, m := range map[int]*ir.Model{1: one, 2: two} {
		if _, err := lora.New(list, lora.Options{}).Apply(t.Context(), m, nil, ir.Env{Threads: threads, Memory: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	for i, at := range one.Tensors()[:12] {
		whole := raw(t, at)
		var parts []byte
		for lo := 0; lo < at.Rows(); lo += 37 {
			hi := min(lo+37, at.Rows())
			b := make([]byte, len(whole)/at.Rows()*(hi-lo))
			if err := two.Tensors()[i].Data.ReadRaw(t.Context(), ir.PartData, b, lo, hi); err != nil {
				t.Fatal(err)
			}
			parts = append(parts, b...)
		}
		if !bytes.Equal(whole, parts) {
			t.Errorf("%s: other bytes", at.Name)
		}
	}
}

// planes without an encoder for them, and integer tensors, are refused at plan time.
func TestTypesRefused(t *testing.T) {
	m := open(t, filepath.Join(adapters, "base-llama"))
	at := *m.Find("model.layers.0.self_attn.q_proj.weight")
	at.Type, at.Scheme = storage.Planes, &storage.Scheme{Bits: 4, Symmetric: true, Group: 16, Scale: storage.F16}
	if err := m.Replace(&at); err != nil {
		t.Fatal(err)
	}
	p := lora.New(load(t, filepath.Join(adapters, "lora-qv")), lora.Options{})
	if _, err := p.Plan(t.Context(), m); !errors.Is(err, lora.ErrUnsupported) || !strings.Contains(err.Error(), "q_proj") {
		t.Errorf("planes: %v", err)
	}
	called := false
	p = lora.New(load(t, filepath.Join(adapters, "lora-qv")), lora.Options{Requantize: func(_ context.Context, float, like *ir.Tensor) (*ir.Tensor, error) {
		called = float.Type == storage.F32 && like.Type == storage.Planes && float.Name == like.Name
		return float, nil
	}})
	if _, err := p.Apply(t.Context(), m, nil, ir.Env{}); err != nil || !called {
		t.Errorf("with an encoder: %v, called %v", err, called)
	}
}

// wide is a weight of any size that exists only when it is read.
type wide struct {
	cols int
	peak *atomic.Int64
}

func (w wide) ReadRows(_ context.Context, dst []float32, lo, hi int) error {
	if n := int64(hi - lo); n > w.peak.Load() {
		w.peak.Store(n)
	}
	for i := range dst {
		dst[i] = float32((lo*w.cols+i)%251) / 251
	}
	return nil
}

func (w wide) ReadRaw(context.Context, ir.Part, []byte, int, int) error {
	return errors.New("not needed")
}

// A weight of 12 GiB is merged a band at a time: planning, figures and reading a slice hold a few MiB.
func TestMergeStreams(t *testing.T) {
	var peak atomic.Int64
	m := &ir.Model{Path: "wide"}
	const rows, cols = 48 << 10, 64 << 10
	dir := t.TempDir()
	const module = "base_model.model.model.layers.0.self_attn.q_proj."
	writeAdapter(t, dir, `{"peft_type":"LORA","r":4,"lora_alpha":8}`, shape{module + "lora_A.weight", []int{4, cols}}, shape{module + "lora_B.weight", []int{rows, 4}})
	at := &ir.Tensor{Name: "model.layers.0.self_attn.q_proj.weight", Shape: []int{rows, cols}, Type: storage.F32, Data: wide{cols, &peak}}
	if err := m.Add(at); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, err := lora.New(load(t, dir), lora.Options{Type: storage.BF16}).Apply(t.Context(), m, nil, ir.Env{Threads: 1, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	at = m.Tensors()[0]
	b := make([]byte, 2*at.Cols())
	if err := at.Data.ReadRaw(t.Context(), ir.PartData, b, at.Rows()-1, at.Rows()); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 { // everything ever allocated, not only the peak
		t.Errorf("%d MiB allocated", used>>20)
	}
	if f := res.Tensors[at.Name]; f["sampled"] == 0 || f["delta"] == 0 {
		t.Errorf("figures %v", f)
	}
	if peak.Load()*int64(at.Cols())*4 > 8<<20 {
		t.Errorf("%d rows at once", peak.Load())
	}
}
