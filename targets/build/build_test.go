package build

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// The whole job on a trained model: adapter merged and proved, three packages written, read back and
// compared. The perplexity of the original is that of the reference run in the data's README, the
// sizes are those of the real llama.cpp's files, and the KL divergence is below what its own
// imatrix-free files reach (0.0181 for Q4_0, 0.0118 for Q4_K_M, 0.0003 for Q8_0).
func TestBooks(t *testing.T) {
	out := filepath.Join(t.TempDir(), "dist")
	r := &recipe.Recipe{
		Source:      recipe.Source{Model: filepath.Join(books, "model")},
		Calibration: recipe.Calibration{Text: []string{filepath.Join(books, "text", "calibration.txt")}, Tokens: 8192},
		Targets: []recipe.Target{
			{Use: "arm64"}, {Use: "x86-64-v4", Method: "rtn"}, {Use: "x86-64-v3", Quantize: "q8_0", Archive: true},
		},
		Verify: recipe.Verify{Text: []string{filepath.Join(books, "text", "test.txt")}, Chunks: 16, MaxChunks: 16},
		Bench:  recipe.Bench{Off: true},
		Gate:   recipe.Gate{"kl_mean": 0.05, "top1": 0.8, "size_ratio": 0.6},
	}
	var seen []string
	rep, err := Run(context.Background(), r, Options{Tool: "pare test", Out: out, OnTarget: func(x *report.Target) { seen = append(seen, x.Name) }})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Verdict != report.Pass || strings.Join(seen, " ") != "arm64 x86-64-v4 x86-64-v3" {
		t.Errorf("verdict %s, targets %v", rep.Verdict, seen)
	}
	want := map[string]struct {
		method string
		bytes  int64
		kl     float64
	}{
		"arm64":     {"gptq", 4250240, 0.0181},
		"x86-64-v4": {"rtn", 4368512, 0.0118},
		"x86-64-v3": {"rtn", 7387776, 0.0003},
	}
	for i := range rep.Targets {
		x := &rep.Targets[i]
		w := want[x.Name]
		if x.Method != w.method || x.Bytes < w.bytes-1024 || x.Bytes > w.bytes+1024 {
			t.Errorf("%s: %s, %d bytes; want %s, about %d", x.Name, x.Method, x.Bytes, w.method, w.bytes)
		}
		if !(x.KL.Mean < w.kl) || x.KL.Mean <= 0 {
			t.Errorf("%s: KL %v, want below %v", x.Name, x.KL.Mean, w.kl)
		}
		if p := x.Perplexity.Original; p < 30 || p > 55 { // 39.47 over 64 chunks; these are the first 16
			t.Errorf("%s: perplexity of the original %v", x.Name, p)
		}
		if p := rep.Targets[0].Perplexity.Original; x.Perplexity.Original != p { // it is run once, and remembered
			t.Errorf("%s: perplexity of the original %v, beside the first package %v", x.Name, x.Perplexity.Original, p)
		}
		if len(x.Gate.Checks) != 3 || len(x.Layers) != 6 || x.Sample == nil {
			t.Errorf("%s: gate %+v, %d layers", x.Name, x.Gate, len(x.Layers))
		}
		for _, y := range x.Tensors {
			if y.Figures["sqnr_db"] < 15 {
				t.Errorf("%s: %s reads back with %v dB", x.Name, y.Name, y.Figures["sqnr_db"])
			}
		}
		m, man, err := pack.Open(context.Background(), x.Package, nil)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(x.Package); err == nil && st.IsDir() {
			if own, err := report.Read(filepath.Join(x.Package, "report.json")); err != nil || len(own.Targets) != 1 || own.Verdict != x.Verdict {
				t.Errorf("%s: the report in the package: %v", x.Name, err)
			}
		}
		if man.Recipe.Source.Model != rep.Source.Digest || !strings.HasPrefix(rep.Source.Digest, "sha256:") || m.Decoder == nil {
			t.Errorf("%s: source %s", x.Name, man.Recipe.Source.Model)
		}
		if d, _ := man.Digest(); d != x.Digest {
			t.Errorf("%s: digest %s, the report says %s", x.Name, d, x.Digest)
		}
		m.Close()
	}
	if exists(filepath.Join(out, ".work")) {
		t.Error("the work folder was left behind")
	}
	if _, err := Run(context.Background(), r, Options{Out: out}); !errors.Is(err, pack.ErrExists) || !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("a second run overwrites: %v", err)
	}
}

// Same inputs, same bytes: at one and two threads, with limited memory, and from a copy of the
// inputs in another place.
func TestSameBytes(t *testing.T) {
	var first map[string]string
	for _, c := range []struct {
		name    string
		threads int
		memory  int64
		model   string
	}{{"one thread", 1, 0, ""}, {"two threads", 2, 0, ""}, {"little memory", 2, 128 << 20, ""}, {"elsewhere", 2, 0, "copy"}} {
		r := tinyRecipe()
		r.Passes = []recipe.Pass{{Use: "prune.wanda", Pattern: "2:4", Only: []string{"*.mlp.down_proj*"}}}
		r.Targets = []recipe.Target{{Use: "arm64"}, {Use: "x86-64-v3", Method: "rtn"}, {Use: "gpu-vllm", Quantize: "int8"}, {Use: "x86-64-v4", Quantize: "q6_k", Archive: true}}
		if c.model != "" {
			r.Source.Model = filepath.Join(t.TempDir(), c.model)
			copyDir(t, tiny, r.Source.Model)
		}
		rep, err := childJob{Recipe: r, Out: filepath.Join(t.TempDir(), "out"), Threads: c.threads, MaxMemory: c.memory}.run(context.Background())
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := digests(t, rep)
		if first == nil {
			first = got
		}
		if !maps.Equal(got, first) {
			t.Errorf("%s: %v, want %v", c.name, got, first)
		}
	}
}

// A gate that fails keeps the package out of its place; one that cannot tell reads more text first.
func TestGates(t *testing.T) {
	ctx := context.Background()
	run := func(g recipe.Gate, change func(*recipe.Recipe, *Options)) (*report.Report, string) {
		t.Helper()
		r := tinyRecipe()
		r.Calibration = recipe.Calibration{}
		r.Targets = []recipe.Target{{Use: "x86-64-v3", Quantize: "q2_k", Name: "small"}}
		r.Gate = g
		r.Verify.Chunks, r.Verify.MaxChunks = 8, 12 // of fewer than eight there is no verdict
		o := Options{Out: filepath.Join(t.TempDir(), "out")}
		if change != nil {
			change(r, &o)
		}
		rep, err := Run(ctx, r, o)
		if err != nil {
			t.Fatal(err)
		}
		return rep, o.Out
	}
	rep, out := run(recipe.Gate{"kl_mean": 1e-9}, nil)
	x := &rep.Targets[0]
	if x.Verdict != report.Fail || rep.Verdict != report.Fail || !exists(filepath.Join(out, "small.rejected", "model.gguf")) || exists(filepath.Join(out, "small")) {
		t.Errorf("failed gate: %s, package %s", x.Verdict, x.Package)
	}
	if x.Protocol.Chunks != 8 {
		t.Errorf("a clear failure read %d chunks, 8 are enough", x.Protocol.Chunks)
	}
	rep, out = run(recipe.Gate{"kl_mean": 1e-9}, func(_ *recipe.Recipe, o *Options) { o.Publish = true })
	if rep.Verdict != report.Fail || !exists(filepath.Join(out, "small")) {
		t.Errorf("published all the same: %s", rep.Targets[0].Package)
	}
	rep, _ = run(recipe.Gate{"kl_mean": 100, "size_ratio": 0.9, "perplexity_increase": 10}, nil)
	if rep.Verdict != report.Pass {
		t.Errorf("wide gates: %+v", rep.Targets[0].Gate)
	}
	rep, _ = run(nil, func(r *recipe.Recipe, _ *Options) { r.Verify.Chunks = 12 })
	mean := rep.Targets[0].KL.Mean // a limit at the value itself cannot be decided
	rep, out = run(recipe.Gate{"kl_mean": recipe.Ratio(mean)}, nil)
	if x := &rep.Targets[0]; x.Verdict != report.Inconclusive || x.Protocol.Chunks != 12 || exists(filepath.Join(out, "small")) {
		t.Errorf("undecided: %s after %d chunks (the cap is 12)", x.Verdict, x.Protocol.Chunks)
	}
	rep, out = run(recipe.Gate{"kl_mean": recipe.Ratio(mean)}, func(r *recipe.Recipe, _ *Options) { r.Verify.Undecided = "pass" })
	if rep.Verdict != report.Pass || !exists(filepath.Join(out, "small")) {
		t.Errorf("undecided, let pass: %s", rep.Verdict)
	}
	rep, _ = run(recipe.Gate{"size_ratio": 0.01}, func(r *recipe.Recipe, _ *Options) { r.Verify.Off = true })
	if rep.Verdict != report.Fail || rep.Targets[0].KL != nil {
		t.Errorf("size gate: %+v", rep.Targets[0].Gate)
	}
}

// What a target cannot take is said for every tensor before anything is written; other targets are built.
func TestRefusals(t *testing.T) {
	ctx := context.Background()
	out := filepath.Join(t.TempDir(), "out")
	r := tinyRecipe()
	r.Targets = []recipe.Target{{Use: "gpu-vllm", Keep: []string{"*.q_proj.*=q6_k", "*.0.mlp.up_proj.*=int8"}}, {Use: "arm64"}}
	for i, run := range []func(context.Context, *recipe.Recipe, Options) (*report.Report, error){Plan, Run} {
		rep, err := run(ctx, r, Options{Out: out})
		if err != nil {
			t.Fatal(err)
		}
		x := &rep.Targets[0]
		if rep.Verdict != report.Refused || x.Verdict != report.Refused || rep.Targets[1].Verdict == report.Refused {
			t.Errorf("verdicts %s, %s, %s", rep.Verdict, x.Verdict, rep.Targets[1].Verdict)
		}
		var lines []string
		for _, l := range x.Refusals {
			lines = append(lines, l.Tensor+": "+l.Reason+" | "+l.Hint)
		}
		text := strings.Join(lines, "\n")
		for _, want := range []string{
			`model.layers.0.self_attn.q_proj.weight: compressed-tensors cannot hold q6_k | --keep "model.layers.0.self_attn.q_proj.weight=bf16"`,
			`model.layers.1.self_attn.q_proj.weight: `,
			`model.layers.0.mlp.up_proj.weight: the runtime fuses it with "model.layers.0.mlp.gate_proj.weight", so both need one scheme`,
		} {
			if !strings.Contains(text, want) {
				t.Errorf("refusals\n%s\nlack\n%s", text, want)
			}
		}
		if i == 0 && exists(out) {
			t.Error("something was written by a plan")
		}
		if i == 1 && (rep.Targets[1].KL == nil || !exists(filepath.Join(rep.Targets[1].Package, "manifest.json")) || exists(filepath.Join(out, "gpu-vllm"))) {
			t.Errorf("the other target: %s", rep.Targets[1].Verdict)
		}
	}
	r = tinyRecipe()
	out = filepath.Join(t.TempDir(), "other")
	r.Source.Model = "../../testdata/adapters/base-gpt2"
	r.Targets = []recipe.Target{{Use: "arm64"}}
	rep, err := Run(ctx, r, Options{Out: out})
	if err != nil || rep.Verdict != report.Refused || !strings.Contains(rep.Targets[0].Refusals[0].Reason, "architecture") {
		t.Errorf("unknown architecture in GGUF: %v, %+v", err, rep)
	}
}

func TestMistakes(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		change func(*recipe.Recipe)
		want   string
	}{
		"target":       {func(r *recipe.Recipe) { r.Targets = []recipe.Target{{Use: "amr64"}} }, `unknown target "amr64"; did you mean arm64?`},
		"type":         {func(r *recipe.Recipe) { r.Targets[0].Quantize = "q4_k_n" }, `unknown type "q4_k_n"; types are `},
		"container":    {func(r *recipe.Recipe) { r.Targets[0].Container = "safetensors" }, `no container "safetensors"; choose gguf`},
		"same name":    {func(r *recipe.Recipe) { r.Targets = append(r.Targets, r.Targets[0]) }, `two packages are called "arm64"`},
		"name escapes": {func(r *recipe.Recipe) { r.Targets[0].Name = "../x" }, `"../x" is not a name for a folder`},
		"order": {func(r *recipe.Recipe) {
			r.Source.Adapters = []recipe.Adapter{{Path: "a", Weight: 1}}
			r.Passes = []recipe.Pass{{Use: "prune.magnitude", Pattern: "2:4"}, {Use: "lora.merge"}}
		}, `lora.merge comes after prune.magnitude: an adapter was trained on the whole weights`},
		"merge of nothing":       {func(r *recipe.Recipe) { r.Passes = []recipe.Pass{{Use: "lora.merge"}} }, `there is no adapter to merge`},
		"pattern":                {func(r *recipe.Recipe) { r.Passes = []recipe.Pass{{Use: "prune.wanda", Only: []string{"["}}} }, `pattern [`},
		"gate":                   {func(r *recipe.Recipe) { r.Gate = recipe.Gate{"kl": 1} }, `no gate is called "kl"`},
		"gate without measuring": {func(r *recipe.Recipe) { r.Gate = recipe.Gate{"decode_speedup": 1.5} }, `gate decode_speedup: latency is not measured`},
		"no model":               {func(r *recipe.Recipe) { r.Source.Model = "" }, `no model is named`},
		"no such model":          {func(r *recipe.Recipe) { r.Source.Model = "nowhere" }, `nowhere: no such file or directory`},
		"override": {
			func(r *recipe.Recipe) { r.Targets[0].Keep = []string{"*.v_prj.*=q6_k"} },
			`pattern "*.v_prj.*" matches no tensor`,
		},
		"no text":     {func(r *recipe.Recipe) { r.Calibration, r.Verify.Text = recipe.Calibration{}, nil }, `there is no text to compare the models on`},
		"text absent": {func(r *recipe.Recipe) { r.Verify.Text = []string{"nowhere.txt"} }, `nowhere.txt: text: `},
		"gptq without text": {
			func(r *recipe.Recipe) { r.Calibration, r.Targets[0].Method = recipe.Calibration{}, "gptq" },
			`gptq`,
		},
	} {
		r := tinyRecipe()
		r.Targets = []recipe.Target{{Use: "arm64"}}
		c.change(r)
		out := filepath.Join(t.TempDir(), "out")
		_, err := Run(ctx, r, Options{Out: out})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
		if exists(out) {
			t.Errorf("%s: something was written", name)
		}
	}
}

// Budgets are refused before the work starts.
func TestBudgets(t *testing.T) {
	r := tinyRecipe()
	r.Targets = []recipe.Target{{Use: "arm64"}}
	for name, o := range map[string]Options{"memory": {MaxMemory: 20 << 20}, "disk": {MaxDisk: 1000}} {
		o.Out = filepath.Join(t.TempDir(), "out")
		rep, err := Run(context.Background(), r, o)
		if !errors.Is(err, fault.ErrBudget) || rep == nil || exists(o.Out) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Single steps write one file: quantized to GGUF, read back, converted to a folder and again.
func TestSteps(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	do := func(s Step) *report.Report {
		t.Helper()
		rep, err := Transform(ctx, s, Options{Tool: "pare test"})
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	src := &recipe.Recipe{Source: recipe.Source{Model: tiny}}
	q := filepath.Join(dir, "q.gguf")
	rep := do(Step{Recipe: src, Quantize: &recipe.Target{Quantize: "q5_k_m", Keep: []string{"*.attn_v=q8_0"}}, Out: q})
	m, _, err := pack.OpenAny(ctx, q, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if v := m.Role(ir.RoleAttnV, 1); v.Type != "q8_0" || rep.Targets[0].Bytes == 0 || rep.Targets[0].Package != q {
		t.Errorf("attn_v is %s", v.Type)
	}
	if _, err := Transform(ctx, Step{Recipe: src, Out: q}, Options{}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("overwrites without force: %v", err)
	}
	// float GGUF -> folder -> safetensors values stay the same
	g, h := filepath.Join(dir, "f.gguf"), filepath.Join(dir, "folder")
	do(Step{Recipe: src, Out: g})
	do(Step{Recipe: &recipe.Recipe{Source: recipe.Source{Model: g, Dtype: "f32"}}, Out: h})
	a, _, err := pack.OpenAny(ctx, tiny, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, _, err := pack.OpenAny(ctx, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, x := range a.Tensors() {
		y := must(t, b, x.Name)
		if y.Type != "f32" {
			t.Errorf("%s is %s", y.Name, y.Type)
		}
		d, err := difference(ctx, x, y, 1<<20)
		if err != nil || d["sqnr_db"] != 200 {
			t.Errorf("%s: %v, %v", x.Name, d, err)
		}
	}
	// pruning a model of unknown architecture
	p := filepath.Join(dir, "pruned.safetensors")
	half := recipe.Ratio(0.5)
	rep = do(Step{Recipe: &recipe.Recipe{
		Source: recipe.Source{Model: "../../testdata/adapters/base-gpt2"}, Passes: []recipe.Pass{{Use: "prune.magnitude", Sparsity: &half}},
	}, Out: p})
	if len(rep.Passes) != 1 || rep.Passes[0].Changed == 0 || !exists(p) {
		t.Errorf("%+v", rep.Passes)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.work")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// The merged model computes what base plus adapter compute, at every dtype that it can be stored in.
func TestMergeStep(t *testing.T) {
	for _, dtype := range []string{"", "keep", "f32"} {
		out := filepath.Join(t.TempDir(), "merged")
		text, err := os.ReadFile(filepath.Join(books, "text", "shakespeare-test.txt"))
		if err != nil {
			t.Fatal(err)
		}
		rep, err := Transform(context.Background(), Step{Recipe: &recipe.Recipe{Source: recipe.Source{
			Model: filepath.Join(books, "model"), Dtype: dtype, Adapters: []recipe.Adapter{{Path: filepath.Join(books, "adapter-shakespeare"), Weight: 1}},
		}}, Out: out}, Options{Sample: &Text{"sample", text}})
		if err != nil {
			t.Fatal(err)
		}
		if p := rep.Merge; p == nil || p.Verdict != report.Pass || !(p.MaxAbsDiff < 1e-3) || p.Tokens < 256 || rep.Adapters[0].Matrices != 42 {
			t.Errorf("proof %+v of %+v", p, rep.Adapters)
		}
		m, _, err := pack.OpenAny(context.Background(), out, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := "bf16"
		if dtype == "f32" {
			want = dtype
		}
		if got := mainType(m); got != want {
			t.Errorf("dtype %q: stored as %s", dtype, got)
		}
		m.Close()
	}
}
