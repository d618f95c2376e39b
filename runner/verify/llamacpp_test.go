package verify_test

import (
	"context"
	"math"
	"testing"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/verify"
)

// rawSource is encoded rows in memory.
type rawSource struct {
	t    *ir.Tensor
	data []byte
}

func (s rawSource) ReadRaw(_ context.Context, part ir.Part, dst []byte, lo, _ int) error {
	at, err := s.t.PartBytes(part, 0, lo)
	copy(dst, s.data[at:])
	return err
}

func (s rawSource) ReadRows(_ context.Context, dst []float32, lo, hi int) error {
	row := len(s.data) / s.t.Rows()
	storage.MustLookup(s.t.Type).Decode(dst, s.data[lo*row:hi*row])
	return nil
}

// quantized has every matrix of a model encoded, as a q8_0 file has it.
func quantized(t *testing.T, m *ir.Model, typ storage.Type) *ir.Model {
	t.Helper()
	out := m.Clone()
	for _, x := range m.Tensors() {
		if len(x.Shape) != 2 {
			continue
		}
		values, err := ir.ReadAll(context.Background(), x)
		if err != nil {
			t.Fatal(err)
		}
		row, err := typ.RowBytes(x.Cols())
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, row*int64(x.Rows()))
		if err := storage.MustLookup(typ).Encode(data, values, nil); err != nil {
			t.Fatal(err)
		}
		y := x.With(typ, nil, nil)
		y.Data = rawSource{y, data}
		if err := out.Replace(y); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// What llama.cpp v0.5.0 (avx512 kernels, float32 cache, no flash attention) measures for the first eight
// chunks of 512 tokens of the sample's test text, written by `probe score` of internal/interop: the
// original in bf16, and the q8_0 file.
const (
	llamaPerplexity = 42.052780975
	llamaKL         = 0.000313401
)

// With 8-bit activations a q8_0 model is as far from its original as llama.cpp says it is. Float
// activations show a third of that: what the stored weights alone cost.
func TestAgainstLlamaCpp(t *testing.T) {
	if testing.Short() {
		t.Skip("three passes over 4096 tokens")
	}
	m, tokens := openBooks(t)
	made := quantized(t, m, storage.Q8_0)
	original := load(t, m)
	measure := func(a runner.Activations) *verify.Result {
		t.Helper()
		r, err := verify.Run(context.Background(), original, loadWith(t, made, runner.Options{Activations: a}), tokens, verify.Options{Chunks: 8, BOS: -1})
		if err != nil {
			t.Fatal(err)
		}
		if r.Protocol.Activations != string(a) {
			t.Errorf("the record says %q activations, they were %q", r.Protocol.Activations, a)
		}
		return r
	}
	auto, real := measure(runner.ActivationsAuto), measure(runner.ActivationsF32)
	t.Logf("perplexity %.4f, KL %.6f; with float activations %.4f, %.6f", auto.Perplexity.Package, auto.KL.Mean, real.Perplexity.Package, real.KL.Mean)
	if d := auto.Perplexity.Package/llamaPerplexity - 1; !(math.Abs(d) <= 0.01) {
		t.Errorf("perplexity %v is %.2f %% from llama.cpp's", auto.Perplexity.Package, 100*d)
	}
	// llama.cpp's original takes activations rounded to bf16 where pare's takes none
	if d := auto.KL.Mean/llamaKL - 1; !(math.Abs(d) <= 0.2) {
		t.Errorf("KL %v is %.0f %% from llama.cpp's", auto.KL.Mean, 100*d)
	}
	if !(real.KL.Mean < 0.5*llamaKL) {
		t.Errorf("KL %v with float activations: are they float?", real.KL.Mean)
	}
}
