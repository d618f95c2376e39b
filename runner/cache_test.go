package runner_test

import (
	"context"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// long makes a text of n tokens out of the reference ids of an architecture.
func long(t testing.TB, name string, n int) []int32 {
	ids, _ := tokensOf(t, filepath.Join(architectures, name, "reference.safetensors"), "input_ids")
	text := make([]int32, 0, n)
	for len(text) < n {
		text = append(text, ids[:min(len(ids), n-len(text))]...)
	}
	return text
}

// windowed is a model whose layers see few positions: many pages are left behind.
func windowed(t testing.TB, window int) *ir.Model {
	m := open(t, filepath.Join(architectures, "llama")).Clone()
	d := *m.Decoder
	d.Context, d.Window = 2000, window
	m.Decoder = &d
	return quantized(t, m, storage.Q8_0)
}

// quantized is a model whose matrices are of a stored type that is multiplied with 8-bit activations: one
// token then has the bits of many.
func quantized(t testing.TB, m *ir.Model, typ storage.Type) *ir.Model {
	t.Helper()
	info := storage.MustLookup(typ)
	stored, _ := variants(t, m, func(x *ir.Tensor, values []float32) *held { return encoded(t, x, values, info) })
	return stored
}

func rowAfter(t testing.TB, s *runner.Session, tokens []int32) (row []float32) {
	t.Helper()
	if err := s.Append(context.Background(), tokens, runner.WantLast, func(_ int, x []float32) error {
		row = slices.Clone(x)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return row
}

// A window gives pages back: what is held stops growing, and the logits are those of a text that came
// in one batch, where no page is given back. A text that is cut back behind its windows, to the middle
// of a page, to its beginning or to nothing, goes on as if nothing had been forgotten.
func TestWindowPages(t *testing.T) {
	for _, window := range []int{40, 1} {
		m := windowed(t, window)
		if !m.Decoder.Windowed(0) {
			t.Fatal("no layer has a window")
		}
		text := long(t, "llama", 1000)
		whole := load(t, m, runner.Options{Batch: 1024}).NewSession()
		want := rowAfter(t, whole, text)
		r := load(t, m, runner.Options{Batch: 64, Threads: 1})
		s := r.NewSession()
		rowAfter(t, s, text[:500])
		rowAfter(t, s, text[500:700]) // in batches that begin in one page and end in the next
		held := r.MemoryBytes()
		if got := rowAfter(t, s, text[700:]); !slices.Equal(got, want) {
			t.Errorf("small batches differ from a large one by %g of the spread", worst(got, want))
		}
		if now := r.MemoryBytes(); now != held {
			t.Errorf("%d bytes at 700 tokens, %d at 1000", held, now)
		}
		seen := 0
		s.OnBlock = func(_ int, _ []float32, rows, _ int) { seen += rows }
		for _, n := range []int{0, 936, 640, 300, 128, 40, 0} {
			if s.Pos() < n+64 {
				rowAfter(t, s, text[s.Pos():])
			}
			s.Truncate(n)
			seen = 0
			if got, want := rowAfter(t, s, text[n:n+64]), rowAfter(t, load(t, m, runner.Options{}).NewSession(), text[:n+64]); !slices.Equal(got, want) {
				t.Errorf("window %d, after Truncate(%d): %g of the spread from a fresh text", window, n, worst(got, want))
			}
			if s.Pos() != n+64 || seen != 64*m.Decoder.Layers {
				t.Errorf("window %d, after Truncate(%d) and 64 tokens the session is at %d, and %d rows were seen", window, n, s.Pos(), seen)
			}
		}
	}
}

// A token alone gives the bits that it gives in a batch, at any number of workers, over texts of many
// pages, for every type of cache: where key heads do not divide evenly, pages are shared out.
func TestLongText(t *testing.T) {
	old := runtime.GOMAXPROCS(3) // three workers share two key heads
	defer runtime.GOMAXPROCS(old)
	m := open(t, filepath.Join(architectures, "llama")).Clone()
	d := *m.Decoder
	d.Context = 1000
	m.Decoder = &d
	m = quantized(t, m, storage.Q8_0)
	text := long(t, "llama", 420)
	var exact []float32
	for _, kv := range []storage.Type{storage.F32, storage.F16, storage.Q8_0} {
		for _, isa := range []cpu.Level{cpu.Best(), cpu.Portable} {
			want := rowAfter(t, load(t, m, runner.Options{ISA: isa, Threads: 1, KV: kv}).NewSession(), text)
			for _, threads := range []int{1, 2, 3} {
				s := load(t, m, runner.Options{ISA: isa, Threads: threads, KV: kv, Batch: 101}).NewSession()
				rowAfter(t, s, text[:418])
				rowAfter(t, s, text[418:419])
				if got := rowAfter(t, s, text[419:]); !slices.Equal(got, want) {
					t.Errorf("%s, %s, %d threads: the last token alone differs by %g of the spread", kv, isa, threads, worst(got, want))
				}
			}
		}
		// what the cache's type costs, without activations whose codes would jump
		got := rowAfter(t, load(t, m, runner.Options{KV: kv, Activations: runner.ActivationsF32}).NewSession(), text)
		if kv == storage.F32 {
			exact = got
		} else if w := worst(got, exact); !(w > 1e-6 && w < map[storage.Type]float64{storage.F16: 1e-2, storage.Q8_0: 0.1}[kv]) {
			t.Errorf("%s: %g of the spread from a cache in float32", kv, w)
		}
	}
}
