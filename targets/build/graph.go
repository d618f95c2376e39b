package build

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
	"github.com/pare-dev/pare/prune/channels"
	"github.com/pare-dev/pare/quantize/qgraph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/targets"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/samples"
)

// network is what an engine holds when the source is a graph of operators and not a language model. Stages,
// packages, reports and verdicts are the same; what differs is in the files that begin with graph.
type network struct {
	g *graph.Graph // the source's: defaults of inputs are constants, and open shapes that the recipe fixes are fixed
	// base is what targets start from: g, or what passes made of it, which has so many parameters.
	base       *graph.Graph
	parameters int64
	// calib and check are the samples to learn from and to compare on, nil for none. same says that they are the
	// same ones.
	calib, check *samples.Set
	same         bool
	labels       []int  // of check
	notRun       string // why pare cannot run the graph, "" when it can
}

// isGraph reports whether a model is a graph and nothing else.
func isGraph(m *ir.Model) bool { return m.Graph != nil && m.Decoder == nil && m.Encoder == nil }

// openGraph makes the part of an engine that is about a graph. It reads no sample yet.
func (e *engine) openGraph(ctx context.Context) error {
	n := &network{}
	e.net = n
	n.g, _ = e.src.Graph.Clone()
	rewrite.Freeze(n.g)
	n.base, n.parameters = n.g, e.src.Parameters()
	shapes, err := samples.ParseShapes(e.r.Source.Shapes, n.g.Inputs)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		if err := rewrite.Fix(n.g, name, shapes[name]); err != nil {
			return err
		}
	}
	if _, err := eval.Compile(n.g, e.evalOptions(1)); errors.Is(err, eval.ErrOperator) {
		n.notRun = "pare does not run this graph: " + err.Error()
	} else if err != nil {
		return err
	}
	open := func(list []string) (*samples.Set, error) {
		s, err := samples.Open(n.g.Inputs, samples.ParseGiven(list, n.g.Inputs), samples.Options{Preprocess: e.r.Preprocess, Split: true})
		if err == nil {
			e.closers = append(e.closers, func() { _ = s.Close() })
		}
		return s, err
	}
	var errs []error
	if len(e.r.Calibration.Samples) > 0 {
		n.calib, err = open(e.r.Calibration.Samples)
		errs = append(errs, err)
	}
	switch {
	case e.r.Verify.Off:
	case len(e.r.Verify.Samples) > 0:
		n.check, err = open(e.r.Verify.Samples)
		errs = append(errs, err)
	case n.calib != nil: // a set of its own: each loads files in its own order
		n.same = true
		n.check, err = open(e.r.Calibration.Samples)
		errs = append(errs, err)
	}
	if e.r.Verify.Labels != "" {
		n.labels, err = samples.Labels(e.r.Verify.Labels)
		errs = append(errs, err)
		if n.check == nil {
			errs = append(errs, misuse("labels", `name the samples that they are for: samples = ["..."] under [verify]`, "there are labels, and no samples"))
		}
	}
	return errors.Join(errs...)
}

// evalOptions are how graphs run, parts of them at a time.
func (e *engine) evalOptions(parts int64) eval.Options {
	return eval.Options{ISA: e.o.ISA, Pool: e.pool, Memory: e.memory() / parts}
}

// passNetwork runs graphs for passes, at the shapes that the samples have.
func (e *engine) passNetwork(ctx context.Context, list ir.Samples) (*eval.Network, error) {
	net := &eval.Network{Options: e.evalOptions(2), Shapes: map[string][]int{}}
	if list == nil {
		return net, nil
	}
	first, err := list.Sample(ctx, 0)
	if err != nil {
		return nil, err
	}
	for name, t := range first {
		net.Shapes[name] = t.Shape
	}
	return net, nil
}

// resolveGraph spells out every default of a recipe for a graph, and finds the keys that mean nothing for one.
func resolveGraph(in *recipe.Recipe) (*recipe.Recipe, error) {
	r := clone(in)
	var errs []error
	bad := func(section, key, hint string) {
		errs = append(errs, misuse("recipe", hint, "%s in %s is for language models; the source is a graph", key, section))
	}
	c, v, b := &r.Calibration, &r.Verify, &r.Bench
	for _, x := range []struct {
		said               bool
		section, key, hint string
	}{
		{len(r.Source.Adapters) > 0, "[source]", "adapters", "merge adapters before the model is exported"},
		{r.Source.Dtype != "", "[source]", "dtype", "the type of weights is quantize, in [[target]]"},
		{r.Distill != nil, "[distill]", "text", "graphs are not trained: leave the section out"},
		{len(c.Text) > 0, "[calibration]", "text", `samples = ["FILE"] names what a graph learns from`},
		{c.Tokens > 0, "[calibration]", "tokens", "leave it out"},
		{c.Context > 0, "[calibration]", "context", "leave it out"},
		{c.Imatrix != "", "[calibration]", "imatrix", "leave it out"},
		{len(v.Text) > 0, "[verify]", "text", `samples = ["FILE"] names what graphs are compared on`},
		{v.Context > 0, "[verify]", "context", "leave it out"},
		{v.Chunks > 0 || v.MaxChunks > 0, "[verify]", "chunks", "leave it out: all samples are compared"},
		{b.Prompt > 0, "[bench]", "prompt", "leave it out"},
		{b.Generate > 0, "[bench]", "generate", "leave it out"},
	} {
		if x.said {
			bad(x.section, x.key, x.hint)
		}
	}
	for _, p := range r.Passes {
		if p.Use != channels.Pass {
			bad("[[pass]]", p.Use, "take "+channels.Pass)
		}
	}
	resolveChannels(r)
	for _, name := range sortedKeys(r.Gate) {
		if languageGate(name) {
			errs = append(errs, misuse("gate", "graphs have sqnr_db, sqnr_all_db, cosine, top1, accuracy_drop, f1_drop, auc_drop, size_ratio and latency_speedup", "%s says nothing about graphs", name))
		}
	}
	if !v.Off && v.Undecided == "" {
		v.Undecided = "fail"
	}
	if !b.Off && b.Repeat == 0 {
		b.Repeat = gateRepeat
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		table, err := targets.Lookup(t.Use)
		if err != nil {
			return nil, err
		}
		t.Name = nameOf(t)
		if table.Graph == nil {
			continue // refused, and said so
		}
		if t.Container == "" {
			t.Container = graphContainer
		}
		if t.Container != graphContainer {
			errs = append(errs, misuse("target "+t.Name, "leave container out, or write "+graphContainer, "%s holds language models; the source is a graph", t.Container))
		}
		if t.Quantize == "" {
			t.Quantize = table.Graph.Quantize
		}
		req, err := qgraph.ParseRequest(t.Quantize)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t.Quantize = req.Name
		if _, err := staticConfig(t, table.Graph, req); err != nil {
			errs = append(errs, err)
		}
		if req.Kind == qgraph.KindStatic && t.Method == "" {
			t.Method = "mse"
		}
	}
	return r, errors.Join(errs...)
}

// graphContainer is the format of packages of graphs.
const graphContainer = "onnx"

// languageGate says that a gate is about texts.
func languageGate(name string) bool {
	return slices.Contains([]string{"kl_mean", "kl_p99", "perplexity_increase", "cosine_mean", "retrieval", "decode_speedup", "prefill_speedup"}, name)
}

// graphKeys refuses keys of graphs in a recipe whose source is none.
func graphKeys(r *recipe.Recipe) error {
	var errs []error
	bad := func(section, key, hint string) {
		errs = append(errs, misuse("recipe", hint, "%s in %s is for graphs (ONNX); the source is a language model", key, section))
	}
	for _, x := range []struct {
		said               bool
		section, key, hint string
	}{
		{len(r.Source.Shapes) > 0, "[source]", "shapes", "leave it out"},
		{len(r.Calibration.Samples) > 0, "[calibration]", "samples", `text = ["FILE"] names what a language model learns from`},
		{len(r.Verify.Samples) > 0, "[verify]", "samples", `text = ["FILE"] names what is compared on`},
		{r.Verify.Labels != "", "[verify]", "labels", "leave it out"},
		{len(r.Preprocess) > 0, "[preprocess]", "the table", "leave it out"},
	} {
		if x.said {
			bad(x.section, x.key, x.hint)
		}
	}
	for _, p := range r.Passes {
		if p.Use == channels.Pass {
			bad("[[pass]]", p.Use, "take prune.width or prune.depth")
		}
	}
	for i := range r.Targets {
		for _, key := range graphTargetKeys(&r.Targets[i]) {
			bad("[[target]]", key, "leave it out")
		}
	}
	if _, ok := r.Gate["latency_speedup"]; ok {
		errs = append(errs, misuse("gate", "language models have decode_speedup and prefill_speedup", "latency_speedup is for graphs"))
	}
	return errors.Join(errs...)
}

// graphTargetKeys lists the keys of a target that are said and only graphs have.
func graphTargetKeys(t *recipe.Target) (keys []string) {
	for _, x := range []struct {
		said bool
		key  string
	}{
		{t.Activations != "", "activations"},
		{t.Weights != "", "weights"},
		{t.Symmetric, "symmetric"},
		{t.PerTensor, "per_tensor"},
		{t.Percentile != 0, "percentile"},
		{len(t.Without) > 0, "without"},
		{t.Mix, "mix"},
		{t.FailOn != "", "fail_on"},
	} {
		if x.said {
			keys = append(keys, x.key)
		}
	}
	return keys
}
