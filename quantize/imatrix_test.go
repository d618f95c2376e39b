package quantize

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

const booksImatrix = "../testdata/books-llama/imatrix.gguf"

// The file was made by llama.cpp's imatrix tool; what we write from it is the same file but for the
// name of the text.
func TestStatisticsOfLlamaCpp(t *testing.T) {
	s, err := ReadStatistics(booksImatrix)
	if err != nil {
		t.Fatal(err)
	}
	if s.Chunks != 197 || s.ChunkSize != 512 || len(s.Layers) != 43 || len(s.Datasets) != 1 {
		t.Errorf("%d chunks of %d, %d layers, datasets %v", s.Chunks, s.ChunkSize, len(s.Layers), s.Datasets)
	}
	k := s.Layers["blk.0.attn_k.weight"]
	if k == nil || len(k.Sums) != 256 || k.Counts[0] != 197*512 || k.Sums[0] != 363.36087 {
		t.Fatalf("blk.0.attn_k.weight: %+v", k)
	}
	if got := s.Importance()["blk.0.attn_k.weight"][0]; got != float32(363.36087)/(197*512) {
		t.Errorf("mean square %v", got)
	}
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(booksImatrix)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("written file of %d bytes differs from llama.cpp's of %d", b.Len(), len(want))
	}
}

func TestStatisticsRefuses(t *testing.T) {
	good := &Statistics{Layers: map[string]*InputStats{"blk.0.attn_q.weight": {Sums: []float32{1, 2, 3}, Counts: []float32{2}}}}
	var b bytes.Buffer
	if err := good.Write(&b); err != nil {
		t.Fatal(err)
	}
	g, err := gguf.Parse(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	last := g.Tensors[len(g.Tensors)-1]
	for n := range int(last.Offset + last.Size) { // only padding follows
		if _, err := parseStatistics(bytes.NewReader(b.Bytes()[:n]), int64(n)); err == nil {
			t.Errorf("the first %d of %d bytes were accepted", n, b.Len())
		}
	}
	for name, l := range map[string]*InputStats{
		"NaN":           {Sums: []float32{float32(math.NaN())}, Counts: []float32{1}},
		"negative":      {Sums: []float32{-1}, Counts: []float32{1}},
		"counts beyond": {Sums: []float32{1, 2, 3}, Counts: []float32{1, 1}},
	} {
		var b bytes.Buffer
		if err := (&Statistics{Layers: map[string]*InputStats{"x.weight": l}}).Write(&b); err != nil {
			continue
		}
		if _, err := parseStatistics(bytes.NewReader(b.Bytes()), int64(b.Len())); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// legacyFile writes the older form as llama.cpp's save_imatrix did.
func legacyFile(chunks bool) []byte {
	var b []byte
	le := binary.LittleEndian
	str := func(s string) { b = append(le.AppendUint32(b, uint32(len(s))), s...) }
	b = le.AppendUint32(b, 2)
	for _, name := range []string{"blk.0.attn_q.weight", "output.weight"} {
		str(name)
		b = le.AppendUint32(b, 4) // calls
		b = le.AppendUint32(b, 3)
		for _, v := range []float32{4, 8, 2} {
			b = le.AppendUint32(b, math.Float32bits(v))
		}
	}
	if chunks {
		b = le.AppendUint32(b, 7)
		str("text.txt")
	}
	return b
}

func TestLegacyStatistics(t *testing.T) {
	for _, chunks := range []bool{false, true} {
		b := legacyFile(chunks)
		path := t.TempDir() + "/imatrix.dat"
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := ReadStatistics(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Importance()["output.weight"]; len(s.Layers) != 2 || !slices.Equal(got, []float32{1, 2, 0.5}) {
			t.Errorf("%d layers, means %v", len(s.Layers), got)
		}
		if chunks && (s.Chunks != 7 || s.Datasets[0] != "text.txt") {
			t.Errorf("%d chunks of %v", s.Chunks, s.Datasets)
		}
		for n := range b {
			if chunks && n == len(legacyFile(false)) {
				continue // that is a whole file of the oldest kind
			}
			if _, err := parseLegacy(bytes.NewReader(b[:n]), int64(n)); err == nil {
				t.Errorf("the first %d of %d bytes were accepted", n, len(b))
			}
		}
	}
}

func FuzzLegacyStatistics(f *testing.F) {
	f.Add(legacyFile(false))
	f.Add(legacyFile(true))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseLegacy(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		var n int
		for _, l := range s.Layers {
			n += 4 * len(l.Sums)
		}
		if n > len(b) {
			t.Fatalf("%d bytes of values out of %d", n, len(b))
		}
	})
}

func TestMeans(t *testing.T) {
	s := &InputStats{Sums: []float32{2, 4, 6, 8}, Counts: []float32{2, 0}}
	want := []float32{1, 2, 1, 1}
	for i, v := range s.Means() {
		if v != want[i] {
			t.Errorf("mean %d is %v, want %v", i, v, want[i])
		}
	}
}

// fakeRun hands over one row of the value 2 per token and stage, in two pieces, and 3 to the head.
type fakeRun struct{ tokens, block int }

func (f *fakeRun) Start(_ context.Context, _ *ir.Model, seq [][]int32) (ir.Walk, error) {
	for _, s := range seq {
		f.tokens += len(s)
	}
	return f, nil
}

func (f *fakeRun) rows(v float32, fn func([]float32, int, int) error) error {
	for n, left := 0, f.tokens; left > 0; left -= n {
		n = min(3, left)
		x := make([]float32, n*4)
		for i := range x {
			x[i] = v * float32(i%4)
		}
		if err := fn(x, n, 4); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeRun) Inputs(_ context.Context, _ ir.Stage, fn func([]float32, int, int) error) error {
	return f.rows(2, fn)
}

func (f *fakeRun) Hidden(_ context.Context, fn func([]float32, int, int) error) error {
	return f.rows(1, fn)
}
func (f *fakeRun) Next(context.Context) error { f.block++; return nil }
func (f *fakeRun) Mark(context.Context) error { return nil }
func (f *fakeRun) Back(context.Context) error { return nil }
func (f *fakeRun) Block() int                 { return f.block }
func (f *fakeRun) Close() error               { return nil }
func (f *fakeRun) Head(_ context.Context, fn func([]float32, int, int) error) error {
	return f.rows(3, fn)
}

// bar counts progress.
type bar struct{ total, done int64 }

func (b *bar) Stage(_ string, total int64, _ string) { b.total, b.done = total, 0 }
func (b *bar) Add(n int64)                           { b.done += n }
func (b *bar) Note(string, string)                   {}

func TestCalibrate(t *testing.T) {
	m := &ir.Model{Path: "m", Decoder: &ir.Decoder{Layers: 3}}
	for _, x := range []*ir.Tensor{
		{Name: "model.layers.0.self_attn.v_proj.weight", Aliases: []string{"blk.0.attn_v.weight"}, Role: ir.RoleAttnV},
		{Name: "blk.0.ffn_down.weight", Role: ir.RoleMLPDown},
		{Name: "lm_head.weight", Aliases: []string{"output.weight"}, Role: ir.RoleHead, Block: -1},
	} {
		x.Type = storage.F32
		if err := m.Add(x); err != nil {
			t.Fatal(err)
		}
	}
	bar := &bar{}
	s, err := Calibrate(context.Background(), m, &fakeRun{}, [][]int32{{1, 2, 3, 4}, {5, 6, 7}}, CalibrateOptions{Head: true, Progress: bar})
	if err != nil {
		t.Fatal(err)
	}
	if bar.total != 7 || bar.done != 7 { // of seven tokens, whatever the number of blocks
		t.Errorf("progress came to %d of %d tokens", bar.done, bar.total)
	}
	if len(s.Layers) != 3 || s.Chunks != 2 || s.ChunkSize != 4 {
		t.Errorf("%d layers, %d chunks of %d", len(s.Layers), s.Chunks, s.ChunkSize)
	}
	for name, v := range map[string]float32{"blk.0.attn_v.weight": 2, "blk.0.ffn_down.weight": 2, "output.weight": 3} {
		l := s.Layers[name]
		if l == nil || l.Counts[0] != 7 || l.Sums[3] != 7*9*v*v || l.Sums[0] != 0 {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if _, err := Calibrate(context.Background(), m, &fakeRun{}, nil, CalibrateOptions{}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("no tokens gave %v", err)
	}
}

func FuzzStatistics(f *testing.F) {
	var b bytes.Buffer
	s := &Statistics{Layers: map[string]*InputStats{"a": {Sums: []float32{1, 2}, Counts: []float32{1, 1}}}, Datasets: []string{"t"}}
	if err := s.Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStatistics(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for name, l := range s.Layers {
			if len(l.Means()) != len(l.Sums) {
				t.Fatalf("%q: %d means of %d sums", name, len(l.Means()), len(l.Sums))
			}
		}
	})
}
