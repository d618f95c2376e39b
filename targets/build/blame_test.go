package build

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// A package that fails an accuracy gate names the tensors that lost most, worst first, and the flags
// it prints do buy accuracy back.
func TestFailedGateNamesLayers(t *testing.T) {
	r := &recipe.Recipe{
		Source:  recipe.Source{Model: filepath.Join(books, "model")},
		Targets: []recipe.Target{{Use: "arm64", Quantize: "q2_k"}},
		Verify:  recipe.Verify{Text: []string{filepath.Join(books, "text", "test.txt")}, Context: 256, Chunks: 8, MaxChunks: 8},
		Bench:   recipe.Bench{Off: true},
		Gate:    recipe.Gate{"kl_mean": 0.001},
	}
	rep, err := Run(context.Background(), r, Options{Out: filepath.Join(t.TempDir(), "out")})
	if err != nil {
		t.Fatal(err)
	}
	x := &rep.Targets[0]
	if x.Verdict != report.Fail || len(x.Losses) != blameNamed {
		t.Fatalf("verdict %s, losses %+v", x.Verdict, x.Losses)
	}
	for i, l := range x.Losses {
		if l.KL <= 0 || i > 0 && l.KL > x.Losses[i-1].KL || l.Keep == "" {
			t.Errorf("loss %d: %+v", i, l)
		}
		r.Targets[0].Keep = append(r.Targets[0].Keep, l.Keep)
	}
	r.Verify.Chunks, r.Gate = 8, recipe.Gate{"kl_mean": 10}
	again, err := Run(context.Background(), r, Options{Out: filepath.Join(t.TempDir(), "out")})
	if err != nil {
		t.Fatal(err)
	}
	if y := &again.Targets[0]; !(y.KL.Mean < x.KL.Mean) || y.Bytes <= x.Bytes || len(y.Losses) != 0 {
		t.Errorf("with %v: KL %v and %d bytes, before %v and %d", r.Targets[0].Keep, y.KL.Mean, y.Bytes, x.KL.Mean, x.Bytes)
	}
}
