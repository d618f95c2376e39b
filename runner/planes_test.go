package runner_test

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// Weights in planes compute what their real values compute, bit for bit, a token at a time and together.
func TestPlanesExact(t *testing.T) {
	dir := filepath.Join(architectures, "qwen3")
	ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
	m := open(t, dir)
	rng := rand.New(rand.NewPCG(1, 9))
	for _, s := range []storage.Scheme{
		{Bits: 8, Group: storage.GroupChannel, Scale: storage.F16},
		{Bits: 4, Symmetric: true, Group: 32, Scale: storage.BF16},
		{Bits: 3, Symmetric: true, Group: storage.GroupTensor, Scale: storage.F32},
	} {
		stored, plain := variants(t, m, func(x *ir.Tensor, values []float32) *held { return planes(t, x, values, s, rng) })
		for _, batch := range []int{0, 1} {
			opt := runner.Options{Batch: batch, Activations: runner.ActivationsF32}
			got, want := logitsOf(t, load(t, stored, opt), ids[:24]), logitsOf(t, load(t, plain, opt), ids[:24])
			if !slices.Equal(got, want) {
				t.Errorf("%s, batch %d: %g of the spread from its decoded values", s, batch, worst(got, want))
			}
		}
	}
}

// Codes of four bits take half the memory of codes of eight, and are counted so.
func TestPlanesMemory(t *testing.T) {
	m := open(t, filepath.Join(architectures, "qwen3"))
	rng := rand.New(rand.NewPCG(1, 9))
	usual := func(bits int) (n int64) {
		s := storage.Scheme{Bits: bits, Symmetric: true, Group: storage.GroupChannel, Scale: storage.F16}
		stored, _ := variants(t, m, func(x *ir.Tensor, values []float32) *held { return planes(t, x, values, s, rng) })
		n, err := runner.Usual(stored, runner.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	elems := int64(0)
	for _, x := range m.Tensors() {
		if x.Role.Linear() || x.Role == ir.RoleHead || x.Role == ir.RoleEmbedding {
			elems += x.Elems()
		}
	}
	if got := usual(8) - usual(4); got != elems/2 {
		t.Errorf("four bits save %d bytes of %d weights", got, elems)
	}
}

// A code outside the range of its scheme is refused, not cut to four bits.
func TestPlanesRange(t *testing.T) {
	m := open(t, filepath.Join(architectures, "qwen3"))
	rng := rand.New(rand.NewPCG(1, 9))
	for _, symmetric := range []bool{false, true} {
		s := storage.Scheme{Bits: 4, Symmetric: symmetric, Group: storage.GroupChannel, Scale: storage.F16}
		stored, _ := variants(t, m, func(x *ir.Tensor, values []float32) *held {
			h := planes(t, x, values, s, rng)
			h.parts[ir.PartCodes][5] = 16
			return h
		})
		if _, err := runner.Load(context.Background(), stored, runner.Options{}); err == nil || !strings.Contains(err.Error(), "four bits") {
			t.Errorf("symmetric %v: %v", symmetric, err)
		}
	}
}
