package build

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/targets/recipe"
)

func structured(p recipe.Pass) *recipe.Recipe {
	return &recipe.Recipe{
		Source:      recipe.Source{Model: filepath.Join(books, "model"), Dtype: "keep"},
		Calibration: recipe.Calibration{Text: []string{filepath.Join(books, "text", "calibration.txt")}, Tokens: 2048, Context: 256},
		Passes:      []recipe.Pass{p},
	}
}

// From a recipe to packages of smaller models: narrower, trained and quantized, and shallower.
func TestStructuredBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("trains for some seconds")
	}
	quarter := recipe.Ratio(0.25)
	r := structured(recipe.Pass{Use: "prune.width", Ratio: &quarter})
	r.Source.Dtype = ""
	r.Distill = &recipe.Distill{Text: r.Calibration.Text, Tokens: 4096, Context: 128, Batch: 8}
	r.Targets = []recipe.Target{{Use: "x86-64-v3", Quantize: "q8_0"}}
	r.Verify = recipe.Verify{Chunks: 2, Context: 256}
	r.Bench = recipe.Bench{Off: true}
	out := t.TempDir()
	planned, err := Plan(t.Context(), r, Options{Out: out})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := Run(t.Context(), r, Options{Out: out})
	if err != nil {
		t.Fatal(err)
	}
	x := &rep.Targets[0]
	if x.Zeros != nil || x.KL == nil || !(x.KL.Mean < 0.3) {
		t.Errorf("zeros %v, KL %+v", x.Zeros, x.KL)
	}
	if p := planned.Targets[0].Bytes; p > x.Bytes || float64(p) < 0.9*float64(x.Bytes) {
		t.Errorf("planned %d bytes, written %d", p, x.Bytes)
	}
	if n := rep.Passes[0].Notes; len(n) == 0 || !strings.Contains(n[0], "768 → 512") {
		t.Errorf("notes %q", n)
	}
	again, err := Run(t.Context(), r, Options{Out: out, Force: true}) // from the work folder, where dimensions are kept
	if err != nil || again.Targets[0].Digest != x.Digest {
		t.Errorf("again: %v", err)
	}
}

// A step writes a folder or a file that opens with the new dimensions, and can be trained at once.
func TestStructuredStep(t *testing.T) {
	dir := t.TempDir()
	shallow := filepath.Join(dir, "shallow.gguf")
	if _, err := Transform(t.Context(), Step{Recipe: structured(recipe.Pass{Use: "prune.depth", Blocks: 5}), Out: shallow}, Options{}); err != nil {
		t.Fatal(err)
	}
	narrow := filepath.Join(dir, "narrow")
	if _, err := Transform(t.Context(), Step{Recipe: structured(recipe.Pass{Use: "prune.width", FFN: 512, KVHeads: 2}), Out: narrow}, Options{}); err != nil {
		t.Fatal(err)
	}
	trained := filepath.Join(dir, "trained")
	learn := &recipe.Recipe{
		Source:  recipe.Source{Model: narrow, Dtype: "keep"},
		Distill: &recipe.Distill{Teacher: filepath.Join(books, "model"), Text: []string{filepath.Join(books, "text", "calibration.txt")}, Tokens: 512, Context: 64, Batch: 4},
	}
	if _, err := Transform(t.Context(), Step{Recipe: learn, Out: trained}, Options{}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][4]int{shallow: {5, 768, 8, 4}, narrow: {6, 512, 4, 2}, trained: {6, 512, 4, 2}} {
		m, err := formats.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		d := m.Decoder
		if got := [4]int{d.Layers, d.FFN, d.Heads, d.KVHeads}; got != want || d.HeadDim != 32 || m.Check() != nil {
			t.Errorf("%s: %v, want %v (%v)", path, got, want, m.Check())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Orders that undo each other, and keys of the other kind of pass, are refused before anything is opened.
func TestStructureChecks(t *testing.T) {
	half := recipe.Ratio(0.5)
	for name, passes := range map[string][]recipe.Pass{
		"zeros before width":   {{Use: "prune.magnitude", Sparsity: &half}, {Use: "prune.width", Ratio: &half}},
		"a ratio of zeros":     {{Use: "prune.magnitude", Ratio: &half}},
		"blocks of a merge":    {{Use: "lora.merge", Blocks: 3}},
		"a fit of other kinds": {{Use: "prune.depth", Blocks: 3, Refit: new(bool)}},
	} {
		if errs := checkPasses(passes, true); len(errs) == 0 {
			t.Errorf("%s: passed", name)
		}
	}
	if errs := checkPasses([]recipe.Pass{{Use: "prune.depth", Blocks: 5}, {Use: "prune.width", Ratio: &half}, {Use: "prune.magnitude", Sparsity: &half}}, false); len(errs) > 0 {
		t.Errorf("both kinds in their order: %v", errs)
	}
}
