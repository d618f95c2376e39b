package build

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// longRecipe goes through every kind of stage: pruning with activations, GPTQ, an importance matrix,
// plain rounding, an archive.
func longRecipe() *recipe.Recipe {
	r := tinyRecipe()
	r.Calibration.Tokens = 8192
	r.Passes = []recipe.Pass{{Use: "prune.wanda", Pattern: "2:4", Only: []string{"*.mlp.*"}}}
	r.Targets = []recipe.Target{
		{Use: "arm64"}, {Use: "x86-64-v3", Method: "rtn"}, {Use: "gpu-vllm"}, {Use: "x86-64-v4", Quantize: "q8_0", Archive: true},
	}
	return r
}

// A run that is killed again and again, wherever that happens to be, comes to the same bytes as one
// that was left alone, and does not begin anew each time.
func TestKilledRunsGoOn(t *testing.T) {
	whole := childJob{Recipe: longRecipe(), Out: filepath.Join(t.TempDir(), "whole"), Threads: 2}
	start := time.Now()
	res, err := child(t, whole, 0)
	undisturbed := res.Report
	took := time.Since(start)
	if err != nil || res.Err != "" {
		t.Fatal(err, res.Err)
	}
	want := digests(t, res.Report)

	broken := childJob{Recipe: longRecipe(), Out: filepath.Join(t.TempDir(), "broken"), Threads: 2}
	rng := rand.New(rand.NewPCG(3, 14)) //nolint:gosec // reproducible points to kill at
	kills := 0
	for {
		limit := time.Duration(0)
		if kills < 12 { // short lives first, so that early stages are hit too
			limit = 20*time.Millisecond + time.Duration(rng.Float64()*float64(took)*float64(kills+1)/12)
		}
		res, err = child(t, broken, limit)
		if !errors.Is(err, errKilled) {
			break
		}
		kills++
		if left, _ := filepath.Glob(filepath.Join(broken.Out, "*", "*.partial")); left != nil {
			t.Errorf("half-written in a published place: %v", left)
		}
	}
	if err != nil || res.Err != "" {
		t.Fatal(err, res.Err)
	}
	if kills == 0 {
		t.Error("no run was killed: the test shows nothing")
	}
	if got := digests(t, res.Report); !maps.Equal(got, want) {
		t.Errorf("after %d kills %v, want %v", kills, got, want)
	}
	if got, want := figures(res.Report), figures(undisturbed); !reflect.DeepEqual(got, want) {
		t.Errorf("after %d kills the report says %v of the tensors, want %v", kills, got, want)
	}
	reused := 0
	for _, s := range res.Report.Stages {
		if s.Reused {
			reused++
		}
	}
	if reused == 0 {
		t.Errorf("nothing was taken over from %d killed runs: %+v", kills, res.Report.Stages)
	}
	if entries, _ := os.ReadDir(broken.Out); len(entries) != 4 {
		t.Errorf("left behind: %v", entries)
	}
}

// figures are what a report says of the tensors, by pass or target and name.
func figures(rep *report.Report) map[string]map[string]float64 {
	all := map[string]map[string]float64{}
	for _, p := range rep.Passes {
		for _, x := range p.Tensors {
			all[p.Name+" "+x.Name] = x.Figures
		}
	}
	for i := range rep.Targets {
		for _, x := range rep.Targets[i].Tensors {
			all[rep.Targets[i].Name+" "+x.Name] = x.Figures
		}
	}
	return all
}

// The moments around publishing: the record is written, the package not yet in its place; and the
// package is in its place, the run not yet at its end.
func TestPublishingGoesOn(t *testing.T) {
	ctx := context.Background()
	out := filepath.Join(t.TempDir(), "out")
	r := tinyRecipe()
	r.Calibration = recipe.Calibration{}
	r.Targets = []recipe.Target{{Use: "arm64", Quantize: "q8_0"}}
	r.Gate = recipe.Gate{"kl_mean": 0.05} // random weights are not the easiest
	o := Options{Out: out, KeepWork: true}
	rep, err := Run(ctx, r, o)
	if err != nil {
		t.Fatal(err)
	}
	want := digests(t, rep)
	again := func(what string) {
		t.Helper()
		rep, err := Run(ctx, r, o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := digests(t, rep); !maps.Equal(got, want) || rep.Targets[0].KL == nil {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	again("package in its place")
	stages, _ := filepath.Glob(filepath.Join(out, ".work", "stage-package-*"))
	if len(stages) != 1 {
		t.Fatal(stages)
	}
	if err := os.Rename(filepath.Join(out, "arm64"), filepath.Join(stages[0], "package")); err != nil {
		t.Fatal(err)
	}
	again("package not yet in its place")
	// a package that somebody else put there is not ours to replace
	if err := os.WriteFile(filepath.Join(out, "arm64", pack.ManifestName), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(ctx, r, o); !errors.Is(err, pack.ErrExists) {
		t.Errorf("a foreign package was replaced: %v", err)
	}
}

// Two runs cannot share a work folder at one time.
func TestWorkFolderIsLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "work")
	w, err := openWork(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openWork(dir); err == nil {
		t.Error("opened twice")
	}
	if err := w.close(true); err != nil {
		t.Error(err)
	}
	if exists(dir) {
		t.Error("the folder was left behind")
	}
}

// canceller cancels a run at the first event of the first stage with a prefix.
type canceller struct {
	prefix string
	cancel context.CancelFunc
	at     time.Time
	now    string
	mu     sync.Mutex
}

func (c *canceller) Stage(name string, _ int64, _ string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = name
	if c.prefix == "" {
		c.stop()
	}
}

func (c *canceller) Add(int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.HasPrefix(c.now, c.prefix) {
		c.stop()
	}
}

func (c *canceller) Note(string, string) {}

func (c *canceller) stop() {
	if c.at.IsZero() {
		c.at = time.Now()
	}
	c.cancel()
}

// Cancelling stops soon, at the beginning as well as amid the work on a target, and leaves nothing in
// the places of packages. The next run goes on.
func TestCancel(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	for _, stage := range []string{"", "write arm64"} {
		ctx, cancel := context.WithCancel(context.Background())
		sink := &canceller{prefix: stage, cancel: cancel}
		_, err := Run(ctx, longRecipe(), Options{Out: out, Progress: sink})
		cancel()
		if sink.at.IsZero() || !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled in %q (%v): %v", stage, !sink.at.IsZero(), err)
		}
		if d := time.Since(sink.at); d > 5*time.Second {
			t.Errorf("cancelled in %q: stopped after %v", stage, d)
		}
		entries, err := os.ReadDir(out)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				t.Errorf("cancelled in %q: %s is there", stage, e.Name())
			}
		}
	}
	if _, err := Run(context.Background(), longRecipe(), Options{Out: out}); err != nil {
		t.Errorf("going on: %v", err)
	}
}

// A work folder that finished a target into one output folder does not pass for another: the package
// is built from its kept stages there too.
func TestAnotherOutFolder(t *testing.T) {
	dir := t.TempDir()
	r := tinyRecipe()
	r.Targets = []recipe.Target{{Use: "arm64", Quantize: "q8_0"}}
	r.Verify, r.Bench, r.Gate = recipe.Verify{Off: true}, recipe.Bench{Off: true}, nil
	var first map[string]string
	for _, out := range []string{"one", "two"} {
		rep, err := Run(context.Background(), r, Options{Out: filepath.Join(dir, out), Work: filepath.Join(dir, "work"), KeepWork: true})
		if err != nil {
			t.Fatal(err)
		}
		if !exists(filepath.Join(dir, out, "arm64", "model.gguf")) {
			t.Fatalf("%s holds no package; the report says %s", out, rep.Targets[0].Package)
		}
		if got := digests(t, rep); first == nil {
			first = got
		} else if !maps.Equal(got, first) {
			t.Errorf("digests %v, first %v", got, first)
		}
	}
}

// Too little memory for GPTQ changes bytes: the plan and the manifest say so, and stages that were kept
// from such a run are not taken for those of a roomier one.
func TestCrampedGPTQ(t *testing.T) {
	dir := t.TempDir()
	r := &recipe.Recipe{
		Source:      recipe.Source{Model: filepath.Join(books, "model")},
		Calibration: recipe.Calibration{Text: []string{filepath.Join(books, "text", "calibration.txt")}, Tokens: 1024},
		Targets:     []recipe.Target{{Use: "arm64", Quantize: "q4_0", Method: "gptq"}},
		Verify:      recipe.Verify{Off: true},
		Bench:       recipe.Bench{Off: true},
	}
	build := func(out, work string, memory int64) (map[string]string, string) {
		t.Helper()
		rep, err := Run(context.Background(), r, Options{Out: filepath.Join(dir, out), Work: filepath.Join(dir, work), KeepWork: true, MaxMemory: memory})
		if err != nil {
			t.Fatal(err)
		}
		return digests(t, rep), rep.Targets[0].SameBytes
	}
	roomy, where := build("roomy", "w1", 0)
	if strings.Contains(where, "rounded") {
		t.Errorf("without a limit: same bytes on %q", where)
	}
	cramped, where := build("cramped", "w2", 80<<20)
	if !strings.Contains(where, "layers of 768 inputs rounded to nearest") || maps.Equal(cramped, roomy) {
		t.Errorf("with little memory: same bytes on %q", where)
	}
	if again, _ := build("again", "w2", 0); !maps.Equal(again, roomy) {
		t.Errorf("after a cramped run over the same work folder: %v, want %v", again, roomy)
	}
}
