package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/targets"
	"github.com/pare-dev/pare/targets/build"
	"github.com/pare-dev/pare/targets/recipe"
	booksllama "github.com/pare-dev/pare/testdata/books-llama"
)

// recipeFlags are the choices that build and plan share: each stands for a key of the recipe and
// wins over it.
type recipeFlags struct {
	file        string
	adapters    []string
	dtype       string
	allowBase   bool
	targets     []string
	quantize    string
	method      string
	keep        []string
	archive     bool
	prune       string
	sparsity    ratio
	pattern     string
	ratio       ratio
	only        []string
	calibration []string
	tokens      int
	imatrix     string
	text        []string
	order       orderFlags
	chunks      int
	gates       []string
	noVerify    bool
	noBench     bool
	container   string
	samples     []string // of graphs
	labels      string
	shapes      []string
	failOn      choice
	typed       func(flag string) bool
}

// languageBuildFlags are those of build and plan that graphs do not have, graphBuildFlags those that only they have.
var (
	languageBuildFlags = []string{"adapter", "dtype", "allow-base-mismatch", "prune", "sparsity", "ratio", "pattern", "only", "tokens", "imatrix", "text", "chunks", "shuffle", "unpacked"}
	graphBuildFlags    = []string{"samples", "labels", "shape", "fail-on"}
)

func (fl *recipeFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&fl.file, "recipe", "r", "", "recipe `FILE`; flags win over it")
	f.StringArrayVar(&fl.adapters, "adapter", nil, "LoRA adapter to merge, `DIR` or DIR:WEIGHT; repeat it for several")
	f.StringVar(&fl.dtype, "dtype", "", "`TYPE` of merged weights before quantization: keep, f32, f16 or bf16")
	f.BoolVar(&fl.allowBase, "allow-base-mismatch", false, "merge an adapter that names another base model")
	f.StringArrayVarP(&fl.targets, "target", "t", nil, "`TARGET` to make a package for; repeat it for several; default this machine")
	f.StringVar(&fl.quantize, "quantize", "", "`TYPE` for all targets, such as q4_k_m; default what each target prefers")
	f.StringVar(&fl.method, "method", "", "how codes are chosen: "+strings.Join(quantize.MethodNames(), " or ")+"; default gptq for 4-bit types when there is calibration text")
	f.StringArrayVar(&fl.keep, "keep", nil, "`PATTERN=TYPE`: other types for some tensors; the first match counts")
	f.BoolVar(&fl.archive, "archive", false, "write each package as one file, NAME.pare")
	f.StringVar(&fl.prune, "prune", "", "prune by `METHOD`: "+strings.Join(prune.MethodNames(), ", "))
	f.Var(&fl.sparsity, "sparsity", "share of weights to prune, 0.5 or 50%")
	f.Var(&fl.ratio, "ratio", "width, depth: share of the parameters of the blocks that goes, 0.25 or 25%")
	f.StringVar(&fl.pattern, "pattern", "", "prune in a pattern `N:M`: at most N of M neighbours stay, such as 2:4")
	f.StringArrayVar(&fl.only, "only", nil, "prune tensors that match `PATTERN`; repeat it for several")
	f.StringArrayVar(&fl.calibration, "calibration", nil, "`FILE` of text, JSON lines (FILE:FIELD) or token ids (.npy) that methods learn from; of graphs samples, NAME=FILE where there are several inputs; repeat it for several")
	intFrom(f, &fl.tokens, "tokens", "", 1, 0, "tokens of the calibration text to use; default 65536")
	f.StringVar(&fl.imatrix, "imatrix", "", "importance matrix `FILE` in place of measuring one (pare calibrate)")
	f.StringArrayVar(&fl.text, "text", nil, "`FILE` of text, JSON lines or token ids to compare on, which calibration does not see; default a part it left over, or a built-in sample")
	intFrom(f, &fl.chunks, "chunks", "", 1, 0, "chunks of 512 tokens to compare at first; default 16")
	f.StringArrayVar(&fl.gates, "gate", nil, "`NAME=LIMIT`: publish only packages within it, such as kl_mean=0.05; repeat it for several")
	f.BoolVar(&fl.noVerify, "no-verify", false, "do not compare with the original")
	f.BoolVar(&fl.noBench, "no-bench", false, "do not measure speed")
	f.StringVar(&fl.container, "container", "", "file `FORMAT` of the packages, where a target takes several: gguf, compressed-tensors or onnx; default from the model")
	f.StringArrayVar(&fl.samples, "samples", nil, "`FILE` or folder that graphs are compared on; NAME=FILE where there are several inputs; default the samples of --calibration")
	f.StringVar(&fl.labels, "labels", "", "`FILE` with the right class of every sample of a graph: .npy, idx, or a number a line")
	f.StringArrayVar(&fl.shapes, "shape", nil, "fix the dimensions of a graph's input, `INPUT=1x3x224x224`; repeat it for several")
	fl.failOn = choice{of: []string{"", "fallback"}}
	f.Var(&fl.failOn, "fail-on", "exit 4 on EVENT: fallback, when a target does not run all of a graph")
	fl.order.register(c)
	complete(c, "fail-on", "fallback")
	complete(c, "container", "gguf", "compressed-tensors", "onnx")
	complete(c, "target", targets.Names()...)
	complete(c, "dtype", "keep", "f32", "f16", "bf16")
	completeTypes(c, "quantize")
	complete(c, "method", quantize.MethodNames()...)
	complete(c, "prune", prune.MethodNames()...)
	complete(c, "pattern", "2:4", "4:8")
	completePatterns(c, "keep", true)
	completePatterns(c, "only", false)
	completeGates(c)
}

// recipe makes the recipe that was asked for: the file, then the flags over it.
func (fl *recipeFlags) recipe(a *app, args []string) (*recipe.Recipe, error) {
	r := &recipe.Recipe{}
	if fl.file != "" {
		var err error
		if r, err = recipe.Load(fl.file); err != nil {
			return nil, err
		}
	}
	if len(args) > 0 {
		r.Source.Model = args[0]
	}
	f, err := formats.Sniff(r.Source.Model)
	if err == nil && f.Name == "onnx" {
		if err := fl.network(r); err != nil {
			return nil, err
		}
		return fl.limits(a, r)
	}
	for _, name := range graphBuildFlags {
		if err == nil && fl.typed(name) {
			return nil, flagFault(name, misusef("it is for graphs; %s is none", r.Source.Model))
		}
	}
	if err := fl.source(r); err != nil {
		return nil, err
	}
	if err := fl.pruning(r); err != nil {
		return nil, err
	}
	if len(fl.calibration) > 0 {
		r.Calibration.Text = fl.calibration
	}
	if fl.tokens > 0 {
		r.Calibration.Tokens = fl.tokens
	}
	fl.order.apply(&r.Calibration)
	if fl.imatrix != "" {
		r.Calibration.Imatrix = fl.imatrix
	}
	fl.packages(r)
	if len(fl.text) > 0 {
		r.Verify.Text = fl.text
	}
	if fl.chunks > 0 {
		r.Verify.Chunks = fl.chunks
	}
	return fl.limits(a, r)
}

// network applies what only graphs have. What stands in the environment for language models is no mistake.
func (fl *recipeFlags) network(r *recipe.Recipe) error {
	for _, name := range languageBuildFlags {
		if fl.typed(name) {
			return flagFault(name, misusef("it is for language models; %s is a graph", r.Source.Model))
		}
	}
	if len(fl.calibration) > 0 {
		r.Calibration.Samples = fl.calibration
	}
	if len(fl.samples) > 0 {
		r.Verify.Samples = fl.samples
	}
	if fl.labels != "" {
		r.Verify.Labels = fl.labels
	}
	if len(fl.shapes) > 0 {
		r.Source.Shapes = fl.shapes
	}
	fl.packages(r)
	for i := range r.Targets {
		if fl.failOn.value != "" {
			r.Targets[i].FailOn = fl.failOn.value
		}
	}
	return nil
}

// limits applies what both kinds of models have, and checks the whole.
func (fl *recipeFlags) limits(a *app, r *recipe.Recipe) (*recipe.Recipe, error) {
	if a.seedIsSet {
		r.Calibration.Seed = a.seed
	}
	r.Verify.Off = r.Verify.Off || fl.noVerify
	r.Bench.Off = r.Bench.Off || fl.noBench
	if r.Gate == nil {
		r.Gate = recipe.Gate{}
	}
	for _, g := range fl.gates {
		if err := r.Gate.Set(g); err != nil {
			return nil, flagFault("gate", err)
		}
	}
	if r.Source.Model == "" {
		return nil, misuse("pare build MODEL -t arm64 -o dist", "no MODEL is named, neither on the line nor in a recipe")
	}
	return r, build.Check(r)
}

func (fl *recipeFlags) source(r *recipe.Recipe) error {
	if len(fl.adapters) > 0 {
		r.Source.Adapters = nil
	}
	for _, s := range fl.adapters {
		ad, err := recipe.ParseAdapter(s)
		if err != nil {
			return flagFault("adapter", err)
		}
		r.Source.Adapters = append(r.Source.Adapters, ad)
	}
	if fl.dtype != "" {
		if !slices.Contains([]string{"keep", "f32", "f16", "bf16"}, fl.dtype) {
			return flagFault("dtype", misusef("%q is not a choice; take keep, f32, f16 or bf16", fl.dtype))
		}
		r.Source.Dtype = fl.dtype
	}
	r.Source.AllowBaseMismatch = r.Source.AllowBaseMismatch || fl.allowBase
	return nil
}

// pruning puts one pruning pass in place of the recipe's.
func (fl *recipeFlags) pruning(r *recipe.Recipe) error {
	if fl.prune == "" {
		if fl.sparsity != 0 || fl.ratio != 0 || fl.pattern != "" || len(fl.only) > 0 {
			return misuse("add --prune magnitude", "--sparsity, --ratio, --pattern and --only say how to prune, but nothing says that")
		}
		return nil
	}
	p, err := fl.prunePass()
	if err != nil {
		return err
	}
	r.Passes = slices.DeleteFunc(r.Passes, func(p recipe.Pass) bool { return prune.Lookup(p.Use) != nil })
	r.Passes = append(r.Passes, p)
	return nil
}

// prunePass makes the pass that the flags ask for.
func (fl *recipeFlags) prunePass() (recipe.Pass, error) {
	if m := prune.Lookup(prune.Prefix + fl.prune); m != nil && m.Structured {
		if fl.ratio == 0 || fl.sparsity != 0 || fl.pattern != "" || len(fl.only) > 0 {
			return recipe.Pass{}, misuse("say --ratio 25%; a recipe takes more", "--prune %s takes out whole parts: it needs --ratio, and no --sparsity, --pattern or --only", fl.prune)
		}
		r := recipe.Ratio(fl.ratio)
		return recipe.Pass{Use: m.Pass(), Ratio: &r}, nil
	}
	if fl.ratio != 0 {
		return recipe.Pass{}, misuse("say --sparsity 50%", "--ratio is for --prune %s", strings.Join(prune.StructureNames(), " and "))
	}
	return prunePass(fl.prune, fl.sparsity, fl.pattern, fl.only)
}

// prunePass checks the words of a pass that prunes single weights.
func prunePass(method string, sparsity ratio, pattern string, only []string) (recipe.Pass, error) {
	methods := prune.WeightNames()
	if !slices.Contains(methods, method) {
		hint := "take " + strings.Join(methods, " or ")
		if near := human.Nearest(method, methods); near != "" {
			hint = "did you mean " + near + "?"
		}
		return recipe.Pass{}, misuse(hint, "no pruning method is called %q", method)
	}
	p := recipe.Pass{Use: prune.Prefix + method, Pattern: pattern, Only: only}
	if sparsity > 0 {
		s := recipe.Ratio(sparsity)
		p.Sparsity = &s
	}
	if p.Sparsity == nil && pattern == "" {
		return p, misuse("add --sparsity 50% or --pattern 2:4", "nothing says how much to prune")
	}
	return p, nil
}

// pruneIgnores refuses flags of prune that would change nothing.
func pruneIgnores(m *prune.Method, given func(flag string) bool) error {
	for _, name := range []string{"calibration", "imatrix", "tokens", "shuffle", "unpacked"} {
		if !m.Learns && given(name) {
			return flagFault(name, misuse("leave it out, or add --method wanda", "%s looks at weights alone", m.Name))
		}
	}
	if given("pattern") && given("scope") {
		return flagFault("scope", misuse("leave one of them out", "within a pattern the weights of each group compete"))
	}
	return nil
}

// packages applies what the flags say about targets. A target that the recipe describes keeps what
// the recipe says of it.
func (fl *recipeFlags) packages(r *recipe.Recipe) {
	if len(fl.targets) > 0 {
		var list []recipe.Target
		for _, name := range fl.targets {
			if i := slices.IndexFunc(r.Targets, func(t recipe.Target) bool { return t.Use == name || t.Name == name }); i >= 0 {
				list = append(list, r.Targets[i])
			} else {
				list = append(list, recipe.Target{Use: name})
			}
		}
		r.Targets = list
	}
	if len(r.Targets) == 0 {
		r.Targets = []recipe.Target{{Use: build.DefaultTarget()}}
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		if fl.quantize != "" {
			t.Quantize = fl.quantize
		}
		if fl.method != "" {
			t.Method = fl.method
		}
		if len(fl.keep) > 0 {
			t.Keep = append(slices.Clone(fl.keep), t.Keep...)
		}
		if fl.container != "" {
			t.Container = fl.container
		}
		t.Archive = t.Archive || fl.archive
	}
}

// options are the choices of a run that do not change what is made.
func (a *app) options() build.Options {
	return build.Options{
		Tool: "pare " + version, Threads: a.threads, ISA: a.level, MaxMemory: int64(a.maxMemory),
		Work: a.work, Progress: a.progressSink(), Sample: &build.Text{Name: "embedded sample", Text: booksllama.Test()},
	}
}

// sortedNames lists the keys of a map in order.
func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
