package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

const (
	books = "../../testdata/books-llama"
	tiny  = "../../testdata/architectures/llama"
)

// order is what a child process does: a build, or a step.
type childJob struct {
	Recipe    *recipe.Recipe
	Out, To   string
	Quantize  *recipe.Target
	Threads   int
	MaxMemory int64
	ISA       cpu.Level
}

type childResult struct {
	Report *report.Report
	Peak   int64
	Err    string
}

func (j childJob) options() Options {
	return Options{Tool: "pare test", Out: j.Out, Threads: j.Threads, MaxMemory: j.MaxMemory, ISA: j.ISA}
}

func (j childJob) run(ctx context.Context) (*report.Report, error) {
	if j.To != "" {
		return Transform(ctx, Step{Recipe: j.Recipe, Quantize: j.Quantize, Out: j.Out, To: j.To}, j.options())
	}
	return Run(ctx, j.Recipe, j.options())
}

const childEnv = "PARE_TEST_CHILD"

// TestMain lets this binary be its own child: memory is measured, and killing survived, by a process
// that does nothing else.
func TestMain(m *testing.M) {
	text := os.Getenv(childEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	var j childJob
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		panic(err)
	}
	rep, err := j.run(context.Background())
	res := childResult{Report: rep, Peak: proc.PeakMemory()}
	if err != nil {
		res.Err = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(res); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// errKilled says that the child did not come to its end.
var errKilled = errors.New("killed")

// child runs a job in a process of its own, and kills it after a time when one is given.
func child(t *testing.T, j childJob, kill time.Duration) (childResult, error) {
	t.Helper()
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if kill > 0 {
		timer := time.AfterFunc(kill, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err = cmd.Wait()
	var res childResult
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &res)
	} else if kill > 0 && errs.Len() == 0 {
		return res, errKilled
	}
	if err != nil {
		t.Fatalf("child: %v\n%s", err, errs.Bytes())
	}
	return res, nil
}

// digests are the package digests of a report by target name, beside those of what lies in the
// packages' places. Folders are compared with their manifests first.
func digests(t *testing.T, rep *report.Report) map[string]string {
	t.Helper()
	ctx := context.Background()
	out := map[string]string{}
	for i := range rep.Targets {
		r := &rep.Targets[i]
		m, man, err := pack.Open(ctx, r.Package, nil)
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		print, err := fingerprint(ctx, r.Package)
		if err != nil {
			t.Fatal(err)
		}
		if d, _ := man.Digest(); d != r.Digest {
			t.Errorf("%s: the report says %s, the package %s", r.Name, r.Digest, d)
		}
		out[r.Name] = r.Digest + " " + print
	}
	return out
}

// copyDir copies the files at the top of a folder.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tinyRecipe is a small job that uses every part of the engine but pruning and adapters.
func tinyRecipe() *recipe.Recipe {
	return &recipe.Recipe{
		Source:      recipe.Source{Model: tiny},
		Calibration: recipe.Calibration{Text: []string{filepath.Join(books, "text", "calibration.txt")}, Tokens: 2048, Context: 64},
		Verify:      recipe.Verify{Text: []string{filepath.Join(books, "text", "test.txt")}, Context: 64, Chunks: 4, MaxChunks: 8},
		Bench:       recipe.Bench{Off: true},
	}
}

func must(t *testing.T, m *ir.Model, name string) *ir.Tensor {
	t.Helper()
	x := m.Find(name)
	if x == nil {
		t.Fatalf("no tensor %q", name)
	}
	return x
}
