package build

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/targets/recipe"
)

// stopAt ends the context after some pieces of a stage.
type stopAt struct {
	progress.Sink
	stage string
	now   string
	left  int
	stop  context.CancelFunc
}

func (s *stopAt) Stage(name string, total int64, unit string) {
	s.now = name
	s.Sink.Stage(name, total, unit)
}

func (s *stopAt) Add(n int64) {
	if s.now == s.stage {
		if s.left--; s.left == 0 {
			s.stop()
		}
	}
	s.Sink.Add(n)
}

// A recipe that prunes, trains and quantizes: the package holds the pattern, is nearer to the original than
// without training, and an interrupted training goes on to the same bytes.
func TestDistill(t *testing.T) {
	if testing.Short() {
		t.Skip("trains for some seconds")
	}
	r := &recipe.Recipe{
		Source:      recipe.Source{Model: filepath.Join(books, "model")},
		Calibration: recipe.Calibration{Text: []string{filepath.Join(books, "text", "calibration.txt")}, Tokens: 2048, Context: 256},
		Passes:      []recipe.Pass{{Use: "prune.magnitude", Pattern: "2:4"}},
		Targets:     []recipe.Target{{Use: "x86-64-v3", Quantize: "q8_0"}},
		Verify:      recipe.Verify{Chunks: 4, Context: 256},
		Bench:       recipe.Bench{Off: true},
	}
	kl := func(r *recipe.Recipe, out string) (float64, string) {
		rep, err := Run(t.Context(), r, Options{Out: out})
		if err != nil {
			t.Fatal(err)
		}
		if z := rep.Targets[0].Zeros; z == nil || len(z.Broken) > 0 {
			t.Errorf("zeros: %+v", z)
		}
		if d := rep.Distill; (d == nil) != (r.Distill == nil) || d != nil && (d.Tokens != 8192 || len(d.Curve) != 8) {
			t.Errorf("training: %+v", d)
		}
		return rep.Targets[0].KL.Mean, rep.Targets[0].Digest
	}
	without, _ := kl(r, t.TempDir())
	r.Distill = &recipe.Distill{Text: []string{filepath.Join(books, "text", "calibration.txt")}, Tokens: 8192, Context: 128, Batch: 8}
	with, digest := kl(r, t.TempDir())
	if with > 0.8*without {
		t.Errorf("KL %v after training, %v without", with, without)
	}
	out := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	if _, err := Run(ctx, r, Options{Out: out, Progress: &stopAt{Sink: progress.Discard, stage: "distill", stop: stop, left: 3}}); err == nil {
		t.Error("the build was not interrupted")
	}
	if _, again := kl(r, out); again != digest {
		t.Error("another package after an interruption")
	}
}

// A type to be right for: the file holds what products computed with.
func TestDistillAware(t *testing.T) {
	if testing.Short() {
		t.Skip("trains for some seconds")
	}
	out := t.TempDir() + "/aware.gguf"
	r := &recipe.Recipe{
		Source:  recipe.Source{Model: filepath.Join(books, "model"), Dtype: "keep"},
		Distill: &recipe.Distill{Teacher: filepath.Join(books, "model"), Text: []string{filepath.Join(books, "text", "calibration.txt")}, Tokens: 4096, Context: 128, Batch: 8, Aware: "q4_0"},
	}
	if _, err := Transform(t.Context(), Step{Recipe: r, Quantize: &recipe.Target{Quantize: "q4_0", Method: "rtn"}, Out: out}, Options{}); err != nil {
		t.Fatal(err)
	}
	m, err := formats.Open(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close() //nolint:errcheck // read only
	if typ := m.Role(ir.RoleMLPDown, 3).Type; typ != "q4_0" {
		t.Errorf("stored as %s", typ)
	}
	r.Distill.Teacher = ""
	if _, err := Transform(t.Context(), Step{Recipe: r, Out: out + "2.gguf"}, Options{}); err == nil || !strings.Contains(err.Error(), "no teacher") {
		t.Errorf("without a teacher: %v", err)
	}
}
