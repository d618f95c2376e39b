package runner_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

const encoders = "../testdata/encoders"

// textsOf reads the texts of a reference, without those rows' padding.
func textsOf(t testing.TB, ref, suffix string) []runner.Text {
	t.Helper()
	ids, shape := reference(t, ref, "input_ids"+suffix)
	n := shape[1]
	texts := make([]runner.Text, shape[0])
	for i := range texts {
		for _, id := range ids[i*n : (i+1)*n] {
			texts[i].IDs = append(texts[i].IDs, int32(id))
		}
	}
	return texts
}

func withTypes(t testing.TB, texts []runner.Text, ref, name string) {
	t.Helper()
	types, _ := reference(t, ref, name)
	for i := range texts {
		n := len(texts[i].IDs)
		for _, typ := range types[i*n : (i+1)*n] {
			texts[i].Types = append(texts[i].Types, int32(typ))
		}
	}
}

func loadEncoder(t testing.TB, m *ir.Model, opt runner.Options) *runner.Encoder {
	t.Helper()
	e, err := runner.LoadEncoder(context.Background(), m, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// hidden copies the states of all texts.
func hidden(t testing.TB, e *runner.Encoder, texts []runner.Text) (all [][]float32) {
	t.Helper()
	err := e.Hidden(context.Background(), texts, func(_ int, s kernels.Matrix) error {
		var x []float32
		for r := range s.Rows {
			x = append(x, s.Row(r)...)
		}
		all = append(all, x)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func embed(t testing.TB, e *runner.Encoder, texts []runner.Text) (all [][]float32) {
	t.Helper()
	err := e.Embed(context.Background(), texts, func(_ int, v []float32) error {
		all = append(all, slices.Clone(v))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// near compares with a reference of float32; states are of the size of 1, and rounding shows in the sixth
// digit. The least mistake of testdata/architectures/README.md changes them by 8e-4.
func near(t *testing.T, what string, got, want []float32, tol float64) {
	t.Helper()
	if len(got) != len(want) || len(got) == 0 {
		t.Fatalf("%s: %d numbers, want %d", what, len(got), len(want))
	}
	worst := 0.0
	for i := range got {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= worst) {
			worst = d
		}
	}
	if !(worst <= tol) {
		t.Errorf("%s: differs by %v", what, worst)
	}
}

// TestEncoders compares hidden states and embeddings with PyTorch's (transformers), on every level.
func TestEncoders(t *testing.T) {
	for _, name := range []string{"distilbert", "roberta", "roberta-head", "bert-max", "bert"} {
		dir := filepath.Join(encoders, name)
		if name == "bert" {
			dir = filepath.Join(architectures, name)
		}
		ref := filepath.Join(dir, "reference.safetensors")
		m := open(t, dir)
		if m.Encoder == nil {
			t.Fatalf("%s: %v", name, m.Problems)
		}
		texts := textsOf(t, ref, "")
		if m.Encoder.Types > 1 {
			withTypes(t, texts, ref, "token_type_ids")
		}
		want, shape := reference(t, ref, "last_hidden_state")
		for _, isa := range cpu.Available() {
			e := loadEncoder(t, m, runner.Options{ISA: isa, Threads: 2})
			size := shape[1] * shape[2]
			for i, x := range hidden(t, e, texts) {
				near(t, name+" "+string(isa), x, want[i*size:(i+1)*size], 5e-5)
			}
			if m.Encoder.Pooling == "" {
				continue
			}
			vectors, _ := reference(t, ref, "embeddings")
			for i, v := range embed(t, e, texts) {
				near(t, name+" "+string(isa)+" embedding", v, vectors[i*shape[2]:(i+1)*shape[2]], 5e-5)
			}
		}
	}
}

// TestEncoderShortTexts: texts of different lengths beside each other give what PyTorch gives for each in a
// padded batch under a mask.
func TestEncoderShortTexts(t *testing.T) {
	dir := filepath.Join(architectures, "bert")
	ref := filepath.Join(dir, "reference.safetensors")
	e := loadEncoder(t, open(t, dir), runner.Options{})
	texts := textsOf(t, ref, "_padded")
	withTypes(t, texts, ref, "token_type_ids_padded")
	mask, _ := reference(t, ref, "attention_mask_padded")
	want, shape := reference(t, ref, "last_hidden_state_padded")
	for i := range texts {
		n := 0
		for _, v := range mask[i*shape[1] : (i+1)*shape[1]] {
			n += int(v)
		}
		texts[i].IDs, texts[i].Types = texts[i].IDs[:n], texts[i].Types[:n]
	}
	if len(texts[0].IDs) == len(texts[1].IDs) {
		t.Fatal("texts of one length")
	}
	for i, x := range hidden(t, e, texts) {
		from := i * shape[1] * shape[2]
		near(t, "padded", x, want[from:from+len(x)], 5e-5)
	}
}

// TestEncoderCompany: a text's states are the same bytes alone and beside others, in any batch, at any
// number of threads, and with weights laid out before or when they are used.
func TestEncoderCompany(t *testing.T) {
	for _, name := range []string{"roberta", "bert-max"} {
		dir := filepath.Join(encoders, name)
		m := open(t, dir)
		texts := textsOf(t, filepath.Join(dir, "reference.safetensors"), "")
		texts[1].IDs = texts[1].IDs[:7]
		for range 40 {
			texts = append(texts, texts[0], texts[1])
		}
		want := hidden(t, loadEncoder(t, m, runner.Options{Threads: 1}), texts)
		least := int64(1 << 20) // with which the model runs, and there is no room for weights that are laid out
		for ; ; least += 8 << 10 {
			e, err := runner.LoadEncoder(context.Background(), m, runner.Options{Threads: 1, Batch: 64, Memory: least})
			if err == nil {
				e.Close()
				break
			}
			if !errors.Is(err, fault.ErrBudget) {
				t.Fatal(err)
			}
		}
		for _, opt := range []runner.Options{{Threads: 3}, {Threads: 2, Batch: 64}, {Threads: 1, Batch: 64, Memory: least}} {
			e := loadEncoder(t, m, opt)
			for i, x := range hidden(t, e, texts) {
				if !slices.Equal(x, want[i]) {
					t.Fatalf("%s, %+v: text %d differs", name, opt, i)
				}
			}
			for i := range 3 {
				if !slices.Equal(hidden(t, e, texts[i:i+1])[0], want[i]) {
					t.Fatalf("%s, %+v: text %d alone differs", name, opt, i)
				}
			}
		}
	}
}

// TestEncoderRefuses: what cannot be computed is said before anything is.
func TestEncoderRefuses(t *testing.T) {
	m := open(t, filepath.Join(encoders, "roberta"))
	e := loadEncoder(t, m, runner.Options{})
	for name, text := range map[string]runner.Text{
		"no tokens":       {},
		"too long":        {IDs: make([]int32, 41)},
		"no such token":   {IDs: []int32{150}},
		"a negative one":  {IDs: []int32{-1}},
		"no such type":    {IDs: []int32{1}, Types: []int32{1}},
		"types too short": {IDs: []int32{1, 2}, Types: []int32{0}},
	} {
		err := e.Embed(context.Background(), []runner.Text{text}, func(int, []float32) error { return nil })
		if !errors.Is(err, runner.ErrText) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := runner.LoadEncoder(context.Background(), m, runner.Options{Memory: 1000}); !errors.Is(err, fault.ErrBudget) {
		t.Errorf("1000 bytes: got %v", err)
	}
	if _, err := runner.LoadEncoder(context.Background(), open(t, filepath.Join(architectures, "llama")), runner.Options{}); !errors.Is(err, ir.ErrNoEncoder) {
		t.Errorf("a language model: got %v", err)
	}
	if _, err := runner.Load(context.Background(), m, runner.Options{}); !errors.Is(err, ir.ErrEncoder) {
		t.Errorf("as a language model: got %v", err)
	}
}
