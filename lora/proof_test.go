package lora_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/lora"
	"github.com/pare-dev/pare/runner"
)

// session adapts the runner's.
type session struct{ *runner.Session }

func (s session) Append(ctx context.Context, tokens []int32, fn func(int, []float32) error) error {
	return s.Session.Append(ctx, tokens, runner.WantAll, fn)
}

// sessions makes a runner of a model and returns how to start a sequence on it.
func sessions(t *testing.T, m *ir.Model) func() (lora.Session, error) {
	t.Helper()
	r, err := runner.Load(t.Context(), m, runner.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return func() (lora.Session, error) { return session{r.NewSession()}, nil }
}

// logits runs sequences and returns all rows.
func logits(t *testing.T, open func() (lora.Session, error), sequences [][]int32) []float32 {
	t.Helper()
	var all []float32
	for _, tokens := range sequences {
		s, err := open()
		if err != nil {
			t.Fatal(err)
		}
		err = s.Append(t.Context(), tokens, func(_ int, x []float32) error {
			all = append(all, x...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	return all
}

// split reads input_ids [n, length].
func split(ids []float32, n int) [][]int32 {
	out := make([][]int32, n)
	for i, id := range ids {
		s := i / (len(ids) / n)
		out[s] = append(out[s], int32(id))
	}
	return out
}

// The logits of the merged model, and of base plus adapter side by side in our own runner, against
// PEFT's unmerged model; and the proof over the two. 2e-4 is the cases' own tolerance: effects are
// 5 to 16.
func TestLogits(t *testing.T) {
	for _, name := range []string{
		"lora-qv", "lora-second", "rslora-all", "dora", "lora-modules-to-save", "lora-embedding", "lora-patterns", "lora-bias-all",
		"combine-linear", "combine-cat", "combine-ties", "combine-svd", "combine-magnitude-prune", "merge-sequence",
	} {
		t.Run(name, func(t *testing.T) {
			refs := []string{filepath.Join(adapters, name)}
			if name == "merge-sequence" {
				refs = []string{filepath.Join(adapters, "lora-qv"), filepath.Join(adapters, "lora-second")}
			}
			base, m := open(t, filepath.Join(adapters, "base-llama")), open(t, filepath.Join(adapters, "base-llama"))
			list := load(t, refs...)
			apply(t, m, list, lora.Options{})
			beside, err := lora.New(list, lora.Options{}).Attached(t.Context(), base, ir.Env{})
			if err != nil {
				t.Fatal(err)
			}
			ref := tensors(t, filepath.Join(adapters, name, "reference.safetensors"))
			ids := split(ref["input_ids"], 2)
			merged, attached := sessions(t, m), sessions(t, beside)
			if d := maxDiff(logits(t, merged, ids), ref["logits"]); !(d <= 2e-4) {
				t.Errorf("merged: logits differ by %g", d)
			}
			if d := maxDiff(logits(t, attached, ids), ref["logits"]); !(d <= 2e-4) {
				t.Errorf("attached: logits differ by %g", d)
			}
			p, err := lora.Prove(t.Context(), attached, merged, ids)
			if err != nil || !p.Holds || p.Tokens != 48 || p.MaxAbs > 2e-4 || p.KLMean > 1e-8 || p.Agreement != 1 {
				t.Errorf("%+v, %v", p, err)
			}
			plain := sessions(t, base)
			if p, err = lora.Prove(t.Context(), attached, plain, ids); err != nil || p.Holds || p.MaxAbs < 1 || !errors.Is(p.Err(), lora.ErrProof) {
				t.Errorf("the base alone passes as merged: %+v, %v", p, err)
			}
		})
	}
}

// A real adapter on a trained bf16 model: layer 0 and the logits as PEFT has them in float32.
func TestBooks(t *testing.T) {
	const books = "../testdata/books-llama/"
	m, base := open(t, books+"model"), open(t, books+"model")
	list := load(t, books+"adapter-shakespeare")
	res := apply(t, m, list, lora.Options{Type: storage.F32})
	if res.Changed != 42 {
		t.Errorf("%d matrices changed, want 42", res.Changed)
	}
	want := tensors(t, books+"adapter-shakespeare-expected.safetensors")
	checked := 0
	for _, at := range m.Tensors() {
		if want[at.Name] == nil {
			continue
		}
		checked++
		if d := maxDiff(values(t, m, at.Name), want[at.Name]); !(d <= 1e-5) {
			t.Errorf("%s differs by %g", at.Name, d)
		}
	}
	if checked != 7 {
		t.Errorf("%d tensors compared, want 7", checked)
	}
	beside, err := lora.New(list, lora.Options{}).Attached(t.Context(), base, ir.Env{})
	if err != nil {
		t.Fatal(err)
	}
	ids := split(want["input_ids"], 2)
	ids = [][]int32{ids[0]}
	rows := 128 * 4096
	merged, attached := sessions(t, m), sessions(t, beside)
	spread := float64(slices.Max(want["logits_merged"]) - slices.Min(want["logits_merged"]))
	if d := maxDiff(logits(t, merged, ids), want["logits_merged"][:rows]); !(d <= 2e-4*spread) {
		t.Errorf("merged: logits differ by %g", d)
	}
	if d := maxDiff(logits(t, attached, ids), want["logits_adapter_unmerged"][:rows]); !(d <= 2e-4*spread) {
		t.Errorf("attached: logits differ by %g", d)
	}
	p, err := lora.Prove(t.Context(), attached, merged, ids)
	if err != nil || !p.Holds {
		t.Fatalf("%+v, %v", p, err)
	}
	t.Logf("merge against base+adapter on a bf16 base: %+v", *p)
}

// fixed gives the same logits for every token.
type fixed []float32

func (f fixed) Append(_ context.Context, tokens []int32, fn func(int, []float32) error) error {
	for i := range tokens {
		if err := fn(i, f); err != nil {
			return err
		}
	}
	return nil
}
func (fixed) Close() {}

// The figures of a proof by hand: KL({.5,.5}‖{.9,.1}) is 0.5108 nats.
func TestProofFigures(t *testing.T) {
	of := func(x ...float64) func() (lora.Session, error) {
		var f fixed
		for _, v := range x {
			f = append(f, float32(math.Log(v)))
		}
		return func() (lora.Session, error) { return f, nil }
	}
	p, err := lora.Prove(t.Context(), of(.5, .5), of(.9, .1), [][]int32{make([]int32, 20), {1}})
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(p.KLMean-0.5108) > 1e-4 || math.Abs(p.KLMax-0.5108) > 1e-4 || math.Abs(p.MaxAbs-math.Log(5)) > 1e-6 || p.Tokens != 21 || p.Agreement != 1 || p.Holds {
		t.Errorf("%+v", p)
	}
	if _, err := lora.Prove(t.Context(), of(.5, .5), of(.2, .3, .5), [][]int32{{1}}); !errors.Is(err, lora.ErrProof) {
		t.Errorf("vocabularies of two sizes: %v", err)
	}
	if _, err := lora.Prove(t.Context(), of(1), of(1), nil); err == nil {
		t.Error("a proof over nothing")
	}
}
