package runner_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// tiledTypes are the stored types whose products take 8-bit activations.
func tiledTypes() (types []storage.Type) {
	for _, info := range storage.All() {
		if info.Encode != nil && kernels.For("").Tiler(string(info.Type)) != nil {
			types = append(types, info.Type)
		}
	}
	return types
}

// With 8-bit activations the same bytes come out at any number of threads, for any batches, one token
// included, and where memory is short and tiles are made when they are used.
func TestInt8SameBytes(t *testing.T) {
	old := runtime.GOMAXPROCS(3)
	defer runtime.GOMAXPROCS(old)
	dir := filepath.Join(architectures, "llama")
	ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
	ids = ids[:21]
	types := tiledTypes()
	if len(types) < 2 {
		t.Fatalf("only %v are computed with 8-bit activations", types)
	}
	for _, typ := range types {
		m := mappedModel(t, quantized(t, open(t, dir), typ))
		least, err := runner.Demand(m, runner.Options{Threads: 2, Context: 64, Tokens: len(ids)})
		if err != nil {
			t.Fatal(err)
		}
		for _, isa := range []cpu.Level{cpu.Portable, cpu.AVX2, cpu.NEON, cpu.Best()} {
			if !slices.Contains(cpu.Available(), isa) {
				continue
			}
			want := logitsOf(t, load(t, m, runner.Options{Threads: 1, ISA: isa}), ids)
			for _, opt := range []runner.Options{
				{Threads: 2},
				{Threads: 3, Batch: 1},
				{Threads: 2, Batch: 2},
				{Threads: 3, Batch: 8},
				{Threads: 2, Memory: least, Context: 64, Tokens: len(ids)},
				{Threads: 2, Memory: least, Context: 64, Tokens: len(ids), Batch: 1},
			} {
				opt.ISA = isa
				r := load(t, m, opt)
				// tiles that stay take the place of mapped rows
				if stay := r.MappedBytes() < mappedBytes(m); stay != (opt.Memory == 0) {
					t.Errorf("%s: %+v: %d mapped bytes of %d are used", typ, opt, r.MappedBytes(), mappedBytes(m))
				}
				if got := logitsOf(t, r, ids); !slices.Equal(got, want) {
					t.Errorf("%s: %+v differs from one thread and one batch by %g of the spread", typ, opt, worst(got, want))
				}
			}
			exact := logitsOf(t, load(t, m, runner.Options{ISA: isa, Activations: runner.ActivationsF32}), ids)
			if w := worst(want, exact); !(w > 1e-4) {
				t.Errorf("%s on %s: %g of the spread from float activations: were they 8-bit at all?", typ, isa, w)
			}
		}
	}
}

// mappedBytes is the size of the matrices of a mappedModel that are used where they lie.
func mappedBytes(m *ir.Model) (n int64) {
	for _, x := range m.Tensors() {
		if h, ok := x.Data.(inPlace); ok {
			n += int64(len(h.parts[ir.PartData]))
		}
	}
	return n
}

// A larger budget never holds a shorter text than a smaller one, though it begins with larger batches and
// with tiles that stay: neither keeps the cache from growing. And what is held stays within the budget.
func TestMoreMemoryHoldsMore(t *testing.T) {
	base := open(t, filepath.Join(architectures, "llama")).Clone()
	d := *base.Decoder
	d.Context = 1500
	base.Decoder = &d
	m := mappedModel(t, quantized(t, base, storage.Q4K))
	text := long(t, "llama", d.Context)
	for _, opt := range []runner.Options{
		{Threads: 1},
		{Threads: 1, KV: storage.Q8_0},
		{Threads: 1, Tokens: 1, Batch: 16}, // which is not true: tiles stay at first
	} {
		least, err := runner.Demand(m, opt)
		if err != nil {
			t.Fatal(err)
		}
		most, gaveUp, kept := 0, false, false
		for tenths := int64(10); most < d.Context; tenths += 2 {
			if tenths > 80 {
				t.Fatalf("%+v: %d tokens in eight times the least memory", opt, most)
			}
			opt.Memory = least * tenths / 10
			r := load(t, m, opt)
			tiles := r.MappedBytes() < mappedBytes(m)
			s := r.NewSession()
			if err := s.Append(context.Background(), text, runner.WantLast, nil); err != nil && !errors.Is(err, fault.ErrBudget) {
				t.Fatal(err)
			}
			if s.Pos() < most || s.Pos() == 0 {
				t.Errorf("%+v: %d tokens, %d in less memory", opt, s.Pos(), most)
			}
			if held := r.MemoryBytes(); held > opt.Memory {
				t.Errorf("%+v: %d bytes are held", opt, held)
			}
			most = max(most, s.Pos())
			r.Close()
			gaveUp = gaveUp || tiles && r.MappedBytes() >= mappedBytes(m)
			kept = kept || tiles
		}
		if gaveUp != (opt.Tokens == 1) {
			t.Errorf("%+v: tiles stayed at first %v, were given up %v", opt, kept, gaveUp)
		}
	}
}

// What 8-bit activations cost is small: the perplexity of the sample in q8_0 stays within 1 % of that which
// transformers computes with the original weights, and in every type within 1 % of float activations.
func TestInt8Perplexity(t *testing.T) {
	m := open(t, "../testdata/books-llama/model")
	ref := "../testdata/books-llama/reference.safetensors"
	ids, _ := tokensOf(t, ref, "input_ids")
	logits, _ := reference(t, ref, "logits")
	v := m.Decoder.Vocab
	const n = 128 // the first of two texts
	ids, logits = ids[:n], logits[:n*v]
	nll := func(x []float32) (sum float64) {
		for i := range ids[1:] {
			row, s := x[i*v:(i+1)*v], 0.
			for _, l := range row {
				s += math.Exp(float64(l))
			}
			sum += math.Log(s) - float64(row[ids[i+1]])
		}
		return sum / (n - 1)
	}
	want := nll(logits)
	for _, typ := range tiledTypes() {
		if m.Decoder.Hidden%storage.MustLookup(typ).BlockElems != 0 {
			continue
		}
		q := quantized(t, m, typ)
		got := nll(logitsOf(t, load(t, q, runner.Options{}), ids))
		exact := nll(logitsOf(t, load(t, q, runner.Options{Activations: runner.ActivationsF32}), ids))
		t.Logf("%s: %.4f nats, %.4f with float activations, transformers %.4f", typ, got, exact, want)
		if d := math.Abs(math.Exp(got-exact) - 1); !(d <= 0.01) {
			t.Errorf("%s: 8-bit activations change the perplexity by %.2f %%", typ, 100*d)
		}
		if d := math.Abs(math.Exp(got-want) - 1); typ == storage.Q8_0 && !(d <= 0.01) {
			t.Errorf("%s: the perplexity is %.2f %% from the original's", typ, 100*d)
		}
	}
}

// Only matrices of block types are quantized for: float weights and changes beside weights are not, and
// an unknown form is refused.
func TestActivationsOption(t *testing.T) {
	dir := filepath.Join(architectures, "llama")
	ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
	m := open(t, dir) // bf16
	want := logitsOf(t, load(t, m, runner.Options{Activations: runner.ActivationsF32}), ids[:9])
	for _, a := range []runner.Activations{"", runner.ActivationsAuto, runner.ActivationsInt8} {
		if got := logitsOf(t, load(t, m, runner.Options{Activations: a}), ids[:9]); !slices.Equal(got, want) {
			t.Errorf("activations %q change a model of float weights by %g of the spread", a, worst(got, want))
		}
	}
	if _, err := runner.Load(context.Background(), m, runner.Options{Activations: "int7"}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("activations int7: %v", err)
	}
}
