package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/lora"
	"github.com/pare-dev/pare/targets/recipe"
)

// An adapter that was trained on a quantized base opens as those of PEFT do, merges into that base and, by
// its names, into the Hugging Face folder it came from; interrupted, it comes to the same bytes.
func TestTrainLora(t *testing.T) {
	if testing.Short() {
		t.Skip("trains for some seconds")
	}
	dir := t.TempDir()
	base := filepath.Join(dir, "base.gguf")
	if _, err := Transform(t.Context(), Step{Recipe: &recipe.Recipe{Source: recipe.Source{Model: filepath.Join(books, "model")}}, Quantize: &recipe.Target{Quantize: "q8_0", Method: "rtn"}, Out: base}, Options{}); err != nil {
		t.Fatal(err)
	}
	train := func(ctx context.Context, out string, p progress.Sink) error {
		l := LoraTraining{
			Model: base, Text: []string{filepath.Join(books, "text", "calibration.txt")}, Rank: 4, Alpha: 8,
			Targets: []string{"q_proj", "up_proj"}, Tokens: 3072, Context: 128, Batch: 8, Rate: 5e-3, Out: out,
		}
		rep, err := TrainLora(ctx, l, Options{Progress: p, Threads: 2})
		if err != nil {
			return err
		}
		if rep.Distill.Tokens != 3072 || len(rep.Distill.Curve) != 3 {
			t.Errorf("training: %+v", rep.Distill)
		}
		return nil
	}
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	if err := train(t.Context(), one, progress.Discard); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	if err := train(ctx, two, &stopAt{Sink: progress.Discard, stage: "distill", stop: stop, left: 2}); !errors.Is(err, context.Canceled) {
		t.Fatalf("not interrupted: %v", err)
	}
	if err := train(t.Context(), two, progress.Discard); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"adapter_config.json", "adapter_model.safetensors"} {
		a, err := os.ReadFile(filepath.Join(one, name))
		b, err2 := os.ReadFile(filepath.Join(two, name))
		if err != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs after an interruption: %v %v", name, err, err2)
		}
	}
	a, err := lora.Open(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	if a.Method() != "LoRA r=4" || a.Modules() != 12 || a.Config.Scale("model.layers.3.mlp.up_proj") != 2 {
		t.Errorf("%s of %d modules", a.Method(), a.Modules())
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(books, "text", "test.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, into := range []string{base, filepath.Join(books, "model")} {
		out := filepath.Join(t.TempDir(), "merged.gguf")
		r := &recipe.Recipe{Source: recipe.Source{Model: into, Adapters: []recipe.Adapter{{Path: one, Weight: 1}}, Dtype: "f32"}}
		if _, err := Transform(t.Context(), Step{Recipe: r, Out: out}, Options{Sample: &Text{"sample", text}}); err != nil {
			t.Errorf("merging into %s: %v", into, err)
			continue
		}
		m, err := formats.Open(t.Context(), out)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What makes no sense is refused before anything is trained.
func TestTrainLoraRefused(t *testing.T) {
	good := LoraTraining{Model: filepath.Join(books, "model"), Text: []string{filepath.Join(books, "text", "calibration.txt")}, Out: filepath.Join(t.TempDir(), "out")}
	busy := t.TempDir()
	if err := os.WriteFile(filepath.Join(busy, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(l *LoraTraining, o *Options)
		class  error
	}{
		"no text":   {func(l *LoraTraining, _ *Options) { l.Text = nil }, fault.ErrMisuse},
		"no module": {func(l *LoraTraining, _ *Options) { l.Targets = []string{"q_porj"} }, fault.ErrMisuse},
		"rank":      {func(l *LoraTraining, _ *Options) { l.Rank = -1 }, fault.ErrMisuse},
		"context":   {func(l *LoraTraining, _ *Options) { l.Context = 1 << 20 }, fault.ErrMisuse},
		"not ours":  {func(l *LoraTraining, o *Options) { l.Out, o.Force = busy, true }, fault.ErrMisuse},
		"exists":    {func(l *LoraTraining, _ *Options) { l.Out = busy }, fault.ErrMisuse},
		"memory":    {func(_ *LoraTraining, o *Options) { o.MaxMemory = 60 << 20 }, fault.ErrBudget},
		"no decoder": {func(l *LoraTraining, _ *Options) {
			l.Model = filepath.Join("..", "..", "testdata", "architectures", "bert")
		}, fault.ErrMisuse},
	} {
		l, o := good, Options{}
		c.change(&l, &o)
		if _, err := TrainLora(t.Context(), l, o); !errors.Is(err, c.class) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := filepath.Glob(good.Out + "*"); err != nil || left != nil {
		t.Errorf("a refused training left %v, %v", left, err)
	}
}
