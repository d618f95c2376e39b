package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/npy"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// networks are real models, each with a recipe.
const networks = "../../testdata/graphs/"

func graphRecipe(t *testing.T, name string) *recipe.Recipe {
	t.Helper()
	r, err := recipe.Load(filepath.Join(networks, name, "build.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(r); err != nil {
		t.Fatal(err)
	}
	return r
}

// Digits become packages of integers for a CPU without VNNI and for a neural processor. 98.7 % of the thousand are
// right in ONNX Runtime (testdata/graphs/README.md). The bytes do not depend on the number of threads, and what
// another run left is used again.
func TestBuildGraph(t *testing.T) {
	r := graphRecipe(t, "mnist")
	r.Bench.Off = true
	var digests [2]string
	for i, threads := range []int{1, 2} {
		out := t.TempDir()
		o := Options{Out: out, Threads: threads, KeepWork: true, Tool: "pare test"}
		rep, err := Run(t.Context(), r, o)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Verdict != report.Pass || len(rep.Targets) != 2 || !rep.Graphs() {
			t.Fatalf("%s: %+v", rep.Verdict, rep.Targets)
		}
		for k, x := range rep.Targets {
			g := x.Graph
			if g.Task == nil || g.Task.N != 1000 || g.Task.Original != 0.987 || g.Task.Package < 0.985 || g.Least().SQNR < 30 || !g.Calibrated || len(g.Values) < 3 {
				t.Errorf("%s: %+v", x.Name, g)
			}
			m, man, err := pack.Open(t.Context(), x.Package, nil)
			if err != nil {
				t.Fatal(err)
			}
			if man.Container != "onnx" || man.Model != "model.onnx" || len(man.Samples) != 1 || !strings.HasPrefix(man.Samples[0].Digest, "sha256:") || man.Recipe.Calibration.Samples[0] != man.Samples[0].Digest {
				t.Errorf("%+v", man)
			}
			// targets.md: without VNNI sums of u8 x s8 overflow, so weights are u8 there; QNN takes s8 per channel.
			want := []graph.DType{graph.Uint8, graph.Int8}[k]
			found := 0
			for _, v := range m.Graph.Constants() {
				if len(v.Const.Shape) == 4 && v.Const.Type == want {
					found++
				}
			}
			if found != 2 || m.Graph.Opset[""] < 13 {
				t.Errorf("%s: %d convolutions with weights of %s, operator set %d", x.Name, found, want, m.Graph.Opset[""])
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		digests[i] = rep.Targets[0].Digest + rep.Targets[1].Digest
		if i > 0 {
			continue
		}
		o.Force = true
		again, err := Run(t.Context(), r, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range again.Stages {
			if s.Target != "" && !s.Reused {
				t.Errorf("%s of %s was done again", s.Name, s.Target)
			}
		}
		if again.Targets[0].Digest+again.Targets[1].Digest != digests[0] {
			t.Error("the second run came to other packages")
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("%s with one thread, %s with two", digests[0], digests[1])
	}
}

// A recipe for every kind of model: pictures, sounds with states, arrays, files; quantized statically, dynamically, in
// blocks, and not at all.
func TestGraphKinds(t *testing.T) {
	for name, want := range map[string]func(t *testing.T, rep *report.Report){
		"magika": func(t *testing.T, rep *report.Report) {
			for _, x := range rep.Targets {
				if x.Graph.Top1 == nil || x.Graph.Top1.Agreement < 0.8 || x.Graph.Calibrated || x.SameBytes != "any machine" || x.Ratio > 0.95 {
					t.Errorf("%s: %+v", x.Name, x.Graph)
				}
			}
		},
		"silero": func(t *testing.T, rep *report.Report) {
			if g := rep.Targets[0].Graph; g.Samples != 250 || g.Integer == 0 || len(rep.Targets[0].Skipped) == 0 && g.Float == 0 {
				t.Errorf("%+v", g)
			}
		},
		"dtln": func(t *testing.T, rep *report.Report) {
			if x := rep.Targets[0]; x.Verdict != report.Pass || x.Method != "percentile" {
				t.Errorf("%s, %s", x.Verdict, x.Method)
			}
		},
		"yunet": func(t *testing.T, rep *report.Report) {
			if g := rep.Targets[0].Graph; g.Integer < 50 || len(g.Outputs) != 12 || g.Least().SQNR < 15 {
				t.Errorf("%+v", g)
			}
			if len(rep.Targets) < 2 {
				t.Fatal("one target")
			}
			x := rep.Targets[1]
			made, _ := os.ReadFile(filepath.Join(x.Package, "model.onnx"))
			source, _ := os.ReadFile(networks + "yunet/yunet_n_320_320.onnx")
			if !bytes.Equal(made, source) || len(source) == 0 || x.Graph.Least().SQNR != 200 {
				t.Errorf("what nobody changed is not written as it was read: %+v", x.Graph.Outputs)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			rep, err := Run(t.Context(), graphRecipe(t, name), Options{Out: t.TempDir(), Threads: 2, Tool: "pare test"})
			if err != nil {
				t.Fatal(err)
			}
			want(t, rep)
		})
	}
}

// fewDigits is the recipe with the first digits as the only samples.
func fewDigits(t *testing.T) *recipe.Recipe {
	t.Helper()
	set, err := npy.Open(networks + "mnist/images-idx3-ubyte.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	all, err := set.All()
	if err != nil {
		t.Fatal(err)
	}
	const n = 40
	file := filepath.Join(t.TempDir(), "digits.npy")
	w, err := npy.Create(file, set.Elem, n, 1, 1, 28, 28)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(all[:n*28*28]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r := graphRecipe(t, "mnist")
	r.Calibration.Samples, r.Verify.Labels, r.Bench.Off, r.Targets, r.Gate = []string{file}, "", true, r.Targets[:1], nil
	return r
}

// A gate that nothing reaches leaves a rejected package; with mix, layers stay in float until the gate holds, and the
// trade is told.
func TestGraphGates(t *testing.T) {
	r := fewDigits(t)
	r.Gate = recipe.Gate{"sqnr_db": 60}
	out := t.TempDir()
	rep, err := Run(t.Context(), r, Options{Out: out, Threads: 2, Tool: "pare test"})
	if err != nil {
		t.Fatal(err)
	}
	x := &rep.Targets[0]
	if x.Verdict != report.Fail || x.Package != filepath.Join(out, "x86-64-v3.rejected") {
		t.Errorf("%s in %s", x.Verdict, x.Package)
	}
	plain := x.Graph.Least().SQNR
	r.Gate = recipe.Gate{"sqnr_db": recipe.Ratio(plain + 0.2)}
	r.Targets[0].Mix = true
	if rep, err = Run(t.Context(), r, Options{Out: out, Threads: 2, Tool: "pare test"}); err != nil {
		t.Fatal(err)
	}
	x = &rep.Targets[0]
	if x.Verdict != report.Pass || len(x.Graph.Trades) == 0 || x.Graph.Least().SQNR < plain+0.2 || x.Graph.Trades[0].Bytes <= 0 {
		t.Errorf("%s: %+v", x.Verdict, x.Graph)
	}
	page, err := rep.HTML()
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{string(rep.Markdown()), string(page)} {
		if !strings.Contains(form, " stays float: ") {
			t.Errorf("the report does not tell the trade:\n%s", form)
		}
	}
}

// Mistakes are found before anything is written, and say what to do.
func TestGraphMistakes(t *testing.T) {
	mnist := networks + "mnist/mnist-8.onnx"
	cut := filepath.Join(t.TempDir(), "cut.onnx")
	whole, err := os.ReadFile(mnist)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	images := networks + "mnist/images-idx3-ubyte.gz"
	for _, c := range []struct {
		name string
		is   error
		want string
		do   func(r *recipe.Recipe)
	}{
		{"no samples", fault.ErrMisuse, "needs samples", func(r *recipe.Recipe) { r.Calibration.Samples, r.Verify.Labels = nil, "" }},
		{"text", fault.ErrMisuse, "text in [calibration] is for language models", func(r *recipe.Recipe) { r.Calibration.Text = []string{"a.txt"} }},
		{"pruning", fault.ErrMisuse, "for language models", func(r *recipe.Recipe) {
			s := recipe.Ratio(0.5)
			r.Passes = []recipe.Pass{{Use: "prune.magnitude", Sparsity: &s}}
		}},
		{"gate of texts", fault.ErrMisuse, "kl_mean says nothing about graphs", func(r *recipe.Recipe) { r.Gate = recipe.Gate{"kl_mean": 1} }},
		{"type", fault.ErrMisuse, `a graph cannot be "q4_k_m"`, func(r *recipe.Recipe) { r.Targets[0].Quantize = "q4_k_m" }},
		{"container", fault.ErrMisuse, "gguf holds language models", func(r *recipe.Recipe) { r.Targets[0].Container = "gguf" }},
		{"saturation", fault.ErrMisuse, "overflow", func(r *recipe.Recipe) { r.Targets[0].Activations = "int8" }},
		{"16 bits of 8", fault.ErrMisuse, "are not int8", func(r *recipe.Recipe) { r.Targets[0].Activations = "uint16" }},
		{"method", fault.ErrMisuse, "codes of language models' weights", func(r *recipe.Recipe) { r.Targets[0].Method = "gptq" }},
		{"percentile", fault.ErrMisuse, "says nothing to method mse", func(r *recipe.Recipe) { r.Targets[0].Method, r.Targets[0].Percentile = "mse", 0.99 }},
		{"mix without a gate", fault.ErrMisuse, "there is none", func(r *recipe.Recipe) { r.Targets[0].Mix, r.Gate = true, nil }},
		{"key of static", fault.ErrMisuse, "symmetric is for static", func(r *recipe.Recipe) { r.Targets[0].Quantize, r.Targets[0].Symmetric = "dynamic-int8", true }},
		{"shape", fault.ErrMisuse, "dimensions", func(r *recipe.Recipe) { r.Source.Shapes = []string{"Input3=1x1"} }},
		{"samples of another input", fault.ErrMisuse, `no input "Input4"`, func(r *recipe.Recipe) { r.Calibration.Samples = []string{"Input4=zeros"} }},
		{"labels without samples", fault.ErrMisuse, "no samples", func(r *recipe.Recipe) { r.Calibration.Samples, r.Targets[0].Quantize = nil, "f32" }},
		{"labels that are none", fault.ErrMisuse, "no list of whole numbers", func(r *recipe.Recipe) { r.Verify.Labels = images }},
		{"half a file", nil, "cut.onnx", func(r *recipe.Recipe) { r.Source.Model = cut }},
		{"memory", fault.ErrBudget, "at least", func(r *recipe.Recipe) {}},
		{"disk", fault.ErrBudget, "of disk", func(r *recipe.Recipe) {}},
	} {
		r := graphRecipe(t, "mnist")
		r.Targets, r.Gate = r.Targets[:1], nil
		c.do(r)
		out := filepath.Join(t.TempDir(), "dist")
		o := Options{Out: out, Threads: 1, Tool: "pare test"}
		switch c.name {
		case "memory":
			o.MaxMemory = 1 << 20
		case "disk":
			o.MaxDisk = 1000
		}
		err := Check(r)
		if err == nil {
			_, err = Run(t.Context(), r, o)
		}
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if left, _ := filepath.Glob(filepath.Join(out, "*")); left != nil {
			t.Errorf("%s: wrote %v", c.name, left)
		}
	}
}

// stopping is a sink that cancels the run when a stage begins.
type stopping struct {
	at     string
	cancel context.CancelFunc
}

func (s *stopping) Stage(name string, _ int64, _ string) {
	if strings.HasPrefix(name, s.at) {
		s.cancel()
	}
}
func (s *stopping) Add(int64)           {}
func (s *stopping) Note(string, string) {}

// A run that is stopped leaves no package, and the next one goes on and comes to the same bytes.
func TestGraphStopped(t *testing.T) {
	r := fewDigits(t)
	want, err := Run(t.Context(), r, Options{Out: t.TempDir(), Threads: 2, Tool: "pare test"})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"calibrate", "write", "verify"} {
		out := filepath.Join(t.TempDir(), "dist")
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Run(ctx, r, Options{Out: out, Threads: 2, Tool: "pare test", Progress: &stopping{at, cancel}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("stopped at %s: %v", at, err)
		}
		if left, _ := filepath.Glob(filepath.Join(out, "[^.]*")); left != nil { // finished stages lie in .work
			t.Errorf("stopped at %s: left %v", at, left)
		}
		rep, err := Run(t.Context(), r, Options{Out: out, Threads: 2, Tool: "pare test"})
		if err != nil || rep.Targets[0].Digest != want.Targets[0].Digest {
			t.Errorf("after a stop at %s: %v", at, err)
		}
		if _, err := os.Stat(filepath.Join(out, ".work")); !os.IsNotExist(err) {
			t.Errorf("after a stop at %s the work folder stays: %v", at, err)
		}
	}
}

// Keys of graphs in the recipe of a language model are mistakes.
func TestGraphKeysOfLanguageModels(t *testing.T) {
	r := &recipe.Recipe{Targets: []recipe.Target{{Use: "arm64", Symmetric: true}}}
	r.Source.Model = tiny
	r.Calibration.Samples = []string{"x.npy"}
	_, err := Plan(t.Context(), r, Options{Threads: 1})
	if !errors.Is(err, fault.ErrMisuse) || !strings.Contains(err.Error(), "symmetric in [[target]] is for graphs") || !strings.Contains(err.Error(), "samples in [calibration] is for graphs") {
		t.Error(err)
	}
	r = &recipe.Recipe{Targets: []recipe.Target{{Use: "arm64", Container: "onnx"}}}
	r.Source.Model = tiny
	if _, err := Plan(t.Context(), r, Options{Threads: 1}); !errors.Is(err, fault.ErrMisuse) || !strings.Contains(err.Error(), "onnx") {
		t.Error(err)
	}
}

// Weights in a file beside the model count among what a package is made from: when they change, so does the package.
func TestGraphDataBeside(t *testing.T) {
	m, err := formats.Open(t.Context(), networks+"magika/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "model.onnx")
	if err := errors.Join(formats.Write(t.Context(), "onnx", m, file, formats.WriteOptions{External: true}), m.Close()); err != nil {
		t.Fatal(err)
	}
	r := &recipe.Recipe{Source: recipe.Source{Model: file}, Targets: []recipe.Target{{Use: "arm64", Quantize: "int4"}}, Bench: recipe.Bench{Off: true}}
	o := Options{Out: filepath.Join(dir, "dist"), Threads: 2, Tool: "pare test", KeepWork: true, Force: true}
	var digests [2]string
	for i := range digests {
		rep, err := Run(t.Context(), r, o)
		if err != nil {
			t.Fatal(err)
		}
		digests[i] = rep.Targets[0].Digest + rep.Source.Digest
		b, err := os.ReadFile(file + ".data")
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-2] ^= 0x10
		if err := os.WriteFile(file+".data", b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if digests[0] == digests[1] {
		t.Error("other weights, and the same package from the work folder")
	}
}

// A report has the time of one sample and of batches of eight, together where the graph leaves its batch open, and says
// for each target what nobody has run.
func TestGraphReport(t *testing.T) {
	r := graphRecipe(t, "mnist")
	r.Source.Model = filepath.Join(networks, "magika", "model.onnx")
	r.Calibration.Samples, r.Verify.Labels, r.Gate, r.Preprocess = []string{filepath.Join(networks, "magika", "inputs.npy")}, "", nil, nil
	r.Bench.Repeat = 1
	r.Targets = []recipe.Target{{Use: "arm64", Quantize: "dynamic-int8"}, {Use: "x86-64-v3", Quantize: "f32"}}
	rep, err := Run(t.Context(), r, Options{Out: t.TempDir(), Tool: "pare test"})
	if err != nil {
		t.Fatal(err)
	}
	for i, never := range []string{"ONNX Runtime ran graphs of this kind on x86-64 only", "OpenVINO was never given one"} {
		x := rep.Targets[i]
		if !strings.Contains(strings.Join(x.NotExecuted, "\n"), never) {
			t.Errorf("%s: not executed: %q", x.Name, x.NotExecuted)
		}
		b := x.Graph.Bench
		if b == nil || len(b.Models) != 2 || len(b.Ratio.Batches) != 2 {
			t.Fatalf("%s: %+v", x.Name, b)
		}
		for _, m := range b.Models {
			if one, eight := m.Batches[0], m.Batches[1]; one.Batch != 1 || eight.Batch != 8 || !eight.Together || eight.LatencyS.P50 < one.LatencyS.P50 {
				t.Errorf("%s: %+v", x.Name, m.Batches)
			}
		}
	}
}
