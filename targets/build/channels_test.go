package build

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

func smallRecipe(t *testing.T) *recipe.Recipe {
	t.Helper()
	r, err := recipe.Load(filepath.Join(networks, "mnist", "small.toml"))
	if err != nil {
		t.Fatal(err)
	}
	r.Bench.Off = true
	return r
}

// Multiplications of the network of digits (testdata/graphs/README.md): 5x5 kernels on 28x28 and 14x14 pixels, and
// ten scores of 16 channels of 4x4.
func digitsCost(first, second int) int64 {
	return int64(first*25*28*28 + second*first*25*14*14 + 10*second*16)
}

// Digits with half of the multiplications, on integers, are as often right, and
// the comparison is with the network as it was, which has 98.7 % of the thousand right in ONNX Runtime.
func TestBuildChannels(t *testing.T) {
	r := smallRecipe(t)
	planned, err := Plan(t.Context(), r, Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	var digests []string
	var rep *report.Report
	for _, threads := range []int{1, 2} {
		out := t.TempDir()
		if rep, err = Run(t.Context(), r, Options{Out: out, Threads: threads, Tool: "pare test", KeepWork: true}); err != nil {
			t.Fatal(err)
		}
		x := &rep.Targets[0]
		if g := x.Graph; x.Verdict != report.Pass || g.Task == nil || g.Task.N != 1000 || g.Task.Original != 0.987 || g.Task.Package < 0.982 || g.Integer < 3 {
			t.Fatalf("%s: %+v", x.Verdict, x.Graph.Task)
		}
		digests = append(digests, x.Digest)
		m, man, err := pack.Open(t.Context(), x.Package, nil)
		if err != nil {
			t.Fatal(err)
		}
		var kernels [][]int
		var weights int64
		for _, v := range m.Graph.Constants() {
			if len(v.Const.Shape) == 4 && v.Const.Type == graph.Uint8 {
				kernels = append(kernels, v.Const.Shape)
			}
			if v.Const.Type == graph.Uint8 && len(v.Const.Shape) > 1 {
				weights += int64(v.Const.Elems())
			}
		}
		if len(kernels) != 2 || kernels[0][0] != kernels[1][1] {
			t.Fatalf("kernels %v", kernels)
		}
		cost := digitsCost(kernels[0][0], kernels[1][0])
		c := rep.Passes[0].Channels
		if whole := digitsCost(8, 16); c.Before.FLOPs != whole || c.After.FLOPs != cost || 2*cost > whole || man.Parameters >= rep.Source.Parameters || man.Parameters < weights {
			t.Errorf("kernels %v: %d multiplications, %d parameters; the report has %+v", kernels, cost, man.Parameters, c)
		}
		if c.Score != "fit" || len(c.Fits) == 0 || len(c.Outputs) != 1 || c.Samples == 0 || man.Recipe.Passes[0].Score != "fit" || man.Recipe.Passes[0].Multiple != 8 {
			t.Errorf("%+v; the package says %+v", c, man.Recipe.Passes)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		again, err := Run(t.Context(), r, Options{Out: out, Threads: threads, Tool: "pare test", Force: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range again.Stages {
			if s.Name == "prune" && !s.Reused {
				t.Error("what another run pruned was pruned again")
			}
		}
		digests = append(digests, again.Targets[0].Digest)
	}
	for _, d := range digests {
		if d != digests[0] {
			t.Errorf("not the same bytes with one thread, from the work folder, and with two: %v", digests)
		}
	}
	// A plan chooses as build does, and says the size of what is written.
	a, _ := json.Marshal(planned.Passes[0].Channels.Groups)
	b, _ := json.Marshal(rep.Passes[0].Channels.Groups)
	if string(a) != string(b) {
		t.Errorf("planned %s, done %s", a, b)
	}
	if p, w := planned.Targets[0].Bytes, rep.Targets[0].Bytes; float64(p) < 0.7*float64(w) || float64(p) > 1.3*float64(w) {
		t.Errorf("planned %d bytes, written %d", p, w)
	}
	page, err := rep.HTML()
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{string(rep.Markdown()), string(page)} {
		for _, want := range []string{"of the multiplications (", human.Thousands(786560), "of 16 channels stay", "all 10 channels stay: ", " fitted: "} {
			if !strings.Contains(form, want) {
				t.Errorf("no %q in the report:\n%s", want, form)
			}
		}
	}
}

// Weights keep their names and get new shapes; without samples channels go by the size of their weights, nothing is
// fitted, and the bytes are the same on any machine.
func TestBuildChannelsPlain(t *testing.T) {
	half := recipe.Ratio(0.5)
	off := false
	r := smallRecipe(t)
	r.Calibration.Samples, r.Verify, r.Gate = nil, recipe.Verify{}, nil
	r.Passes = []recipe.Pass{{Use: "prune.channels", Ratio: &half, Multiple: 1, Refit: &off}}
	for _, quantize := range []string{"f32", "dynamic-int8"} {
		r.Targets = []recipe.Target{{Use: "x86-64-v3", Quantize: quantize}}
		rep, err := Run(t.Context(), r, Options{Out: t.TempDir(), Threads: 2, Tool: "pare test"})
		if err != nil {
			t.Fatal(err)
		}
		x := &rep.Targets[0]
		shapes := map[string][]int{}
		for _, w := range x.Tensors {
			if w.To != "gone" {
				shapes[w.Name] = w.Shape
			}
		}
		for name, want := range map[string]int{"Parameter5": 4 * 25, "Parameter87": 8 * 4 * 25} {
			if graph.Elems(shapes[name]) != want {
				t.Errorf("%s: %s is %v, want %d weights", quantize, name, shapes[name], want)
			}
		}
		if p := rep.Passes[0].Channels; x.SameBytes != "any machine" || p.Score != "magnitude" || p.Samples != 0 || len(p.Fits) > 0 {
			t.Errorf("%s: same bytes on %s, %+v", quantize, x.SameBytes, p)
		}
	}
}

// A run that is stopped while it prunes leaves nothing; what cannot be is said before anything is written.
func TestBuildChannelsMistakes(t *testing.T) {
	out := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Run(ctx, smallRecipe(t), Options{Out: out, Threads: 2, Progress: &stopping{"fit", cancel}}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(out, "[^.]*")); left != nil {
		t.Errorf("stopped: left %v", left)
	}
	share := func(x recipe.Ratio) *recipe.Ratio { return &x }
	for _, c := range []struct {
		name, want string
		do         func(r *recipe.Recipe)
	}{
		{"two budgets", "one of flops, ratio, parameters and bytes", func(r *recipe.Recipe) { r.Passes[0].Ratio = share(0.5) }},
		{"no budget", "one of flops, ratio, parameters and bytes", func(r *recipe.Recipe) { r.Passes[0].FLOPs = nil }},
		{"no share", "is no share", func(r *recipe.Recipe) { r.Passes[0].FLOPs = share(1.5) }},
		{"nothing left", "cannot be met", func(r *recipe.Recipe) { r.Passes[0].FLOPs = share(0.001) }},
		{"key of zeros", "say nothing about channels", func(r *recipe.Recipe) { r.Passes[0].Sparsity = share(0.5) }},
		{"score of blocks", `judged by "influence"`, func(r *recipe.Recipe) { r.Passes[0].Score = "influence" }},
		{"score without samples", "needs samples", func(r *recipe.Recipe) {
			r.Passes[0].Score, r.Calibration.Samples, r.Verify.Labels, r.Targets[0].Quantize = "fit", nil, "", "f32"
		}},
		{"another pass", "prune.width in [[pass]] is for language models", func(r *recipe.Recipe) { r.Passes[0] = recipe.Pass{Use: "prune.width", Ratio: share(0.5)} }},
		{"flops of another pass", "about channels of graphs", func(r *recipe.Recipe) { r.Passes[0].Use = "prune.magnitude" }},
		{"a language model", "prune.channels in [[pass]] is for graphs", func(r *recipe.Recipe) { r.Source.Model = tiny }},
	} {
		r := smallRecipe(t)
		c.do(r)
		out := filepath.Join(t.TempDir(), "dist")
		err := Check(r)
		if err == nil {
			_, err = Run(t.Context(), r, Options{Out: out, Threads: 1, Tool: "pare test"})
		}
		if !errors.Is(err, fault.ErrMisuse) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if left, _ := filepath.Glob(filepath.Join(out, "*")); left != nil {
			t.Errorf("%s: wrote %v", c.name, left)
		}
	}
}
