package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/quantize/qgraph"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
	"github.com/pare-dev/pare/targets/samples"
)

// needsSamples refuses to build what needs samples without them.
func (e *engine) needsSamples() error {
	if e.net == nil {
		return nil
	}
	var errs []error
	for i := range e.r.Targets {
		t := &e.r.Targets[i]
		req, err := qgraph.ParseRequest(t.Quantize)
		if err != nil { // of a target that takes no graphs
			continue
		}
		if req.Kind == qgraph.KindStatic && e.net.calib == nil {
			errs = append(errs, misuse("target "+t.Name, "add --calibration FILE ([calibration] samples), or take --quantize dynamic-int8, int4 or f32", "%s needs samples to find the ranges of activations", t.Quantize))
		}
		if t.Mix && (req.Kind != qgraph.KindStatic || e.r.Gate["sqnr_db"] == 0) {
			errs = append(errs, misuse("target "+t.Name, "add --gate sqnr_db=30", "mix keeps nodes in float until a gate on sqnr_db holds, and there is none"))
		}
		if e.net.notRun != "" && req.Kind == qgraph.KindStatic {
			errs = append(errs, misuse("target "+t.Name, "take --quantize dynamic-int8, int4 or f32", "%s, so it cannot be calibrated", e.net.notRun))
		}
	}
	return errors.Join(errs...)
}

// planGraph plans one target: what would be written is sketched, and held against the target's rules.
func (e *engine) planGraph(ctx context.Context, j *job) error {
	r := j.rep
	refuse := func(tensor, reason, hint string) error {
		r.Refusals = append(r.Refusals, report.Line{Tensor: tensor, Reason: reason, Hint: hint})
		r.Verdict = report.Refused
		return e.replaceable(j)
	}
	if j.table.Graph == nil {
		return refuse("", "the target takes language models, and no graphs", "pare targets lists those that do")
	}
	r.Container = j.t.Container
	like := e.like()
	c, err := e.change(ctx, j, like, true)
	if err != nil && like == nil && e.open() {
		// Dimensions that are tried in the place of open ones need not go together: the graph as it is then.
		r.Caveats = append(r.Caveats, "what would be quantized is not known while dimensions of inputs are open: fix them with --shape INPUT=1x3x224x224, or give samples")
		c, err = &changed{g: e.net.base, graph: report.Graph{Float: nodeCount(e.net.base)}}, nil
	}
	if err != nil {
		var fe *fault.Error
		if errors.As(err, &fe) && errors.Is(err, fault.ErrMisuse) && strings.HasPrefix(fe.Op, "quantize.") {
			return refuse(fe.Tensor, fe.Err.Error(), fe.Hint)
		}
		return inModel(e.src.Path, err)
	}
	r.Graph, r.Tensors, r.Skipped = &c.graph, e.graphTensors(c), c.pass.Skipped
	if e.rep.Planned {
		r.Notes = append(r.Notes, c.pass.Notes...)
		if e.net.calib == nil && j.net.req.Kind == qgraph.KindStatic {
			r.Caveats = append(r.Caveats, "build needs samples to find the ranges of activations: --calibration FILE")
		}
	}
	r.Bytes = constantBytes(c.g)
	r.Ratio = float64(r.Bytes) / float64(max(e.rep.Source.Bytes, 1))
	r.BitsPerWeight = 8 * float64(r.Bytes) / float64(max(e.rep.Source.Parameters, 1))
	if err := e.judge(ctx, j, c.g); err != nil {
		return err
	}
	if n := len(c.graph.Findings); n > 0 {
		if j.t.FailOn == "fallback" {
			for _, f := range c.graph.Findings {
				r.Refusals = append(r.Refusals, report.Line{Tensor: f.Node, Reason: f.Reason, Hint: f.Nearest})
			}
			r.Verdict = report.Refused
			return e.replaceable(j)
		}
		if !e.rep.Planned { // a plan lists them
			r.Caveats = append(r.Caveats, fmt.Sprintf("the target does not run all of it: %s", plural(n, "finding", "findings")))
		}
	}
	m := e.src.Clone()
	if c.pass.Name != "copy" {
		m.Graph = c.g
	}
	notes, err := formats.Plan(j.t.Container, m, formats.WriteOptions{Force: true})
	if errors.Is(err, fault.ErrRefused) {
		r.Refusals = append(r.Refusals, refusalLines(err)...)
		r.Verdict = report.Refused
	} else if err != nil {
		return err
	}
	if e.rep.Planned {
		r.Notes = append(r.Notes, notes...)
	}
	return e.replaceable(j)
}

// like are samples whose shapes stand for those of open inputs, nil when there are none.
func (e *engine) like() ir.Samples {
	switch {
	case e.net.calib != nil:
		return e.net.calib
	case e.net.check != nil:
		return e.net.check
	}
	return nil
}

// open reports whether inputs have dimensions that nothing fixes.
func (e *engine) open() bool {
	return slices.ContainsFunc(e.net.g.Inputs, func(v *graph.Value) bool {
		if v.Shape == nil {
			return true
		}
		_, known := v.Shape.Known()
		return !known
	})
}

// judge holds what is written against the rules of the target. Types and shapes are inferred where they can be: with
// dimensions of inputs open, those that the file has are judged.
func (e *engine) judge(ctx context.Context, j *job, g *graph.Graph) error {
	j.rep.Graph.Findings = nil
	if j.table.Graph.Rules == nil {
		return nil
	}
	c, _ := g.Clone()
	like := e.like()
	net, err := e.passNetwork(ctx, like)
	if err != nil {
		return err
	}
	if err := net.Infer(ctx, c); err != nil && !e.open() && e.net.notRun == "" {
		return inModel(e.src.Path, err)
	}
	j.rep.Graph.Findings = j.table.Graph.Legal(c)
	return nil
}

// constantBytes is about the size of a graph's file: that of its constants, and a little for each node.
func constantBytes(g *graph.Graph) (n int64) {
	for _, v := range g.Constants() {
		n += int64(v.Const.Type.Bytes(v.Const.Elems())) + 64
	}
	return n + 128*int64(len(g.Nodes))
}

// estimateGraph fills in memory and disk, and refuses what cannot be kept.
func (e *engine) estimateGraph(jobs []*job) error {
	rep := e.rep
	held := int64(proc.Program+proc.Slack) + runner.Held(e.src)
	least, usual := held, held
	source := rep.Source.Bytes
	for _, j := range jobs {
		rep.DiskBytes += j.rep.Bytes + reportBytes
		if j.t.Archive {
			rep.WorkBytes += j.rep.Bytes
		}
		switch j.net.req.Kind {
		case qgraph.KindBlocks: // a band of weights at a time
			usual = max(usual, held+128<<20)
		case qgraph.KindFloat:
		default: // weights in float and as codes, and packed by the network that runs
			least, usual = max(least, held+3*source), max(usual, held+5*source+32<<20)
		}
	}
	if len(e.r.Passes) > 0 { // original and pruned side by side, and what each layer is fitted on
		least, usual = max(least, held+3*source), max(usual, held+5*source+32<<20)
	}
	if e.net.check != nil { // both ready to run
		least, usual = max(least, held+2*source), max(usual, held+4*source)
	}
	rep.PlannedMemoryBytes = usual
	if rep.Planned {
		rep.PeakMemoryBytes = usual
	}
	if most := e.o.MaxMemory; most > 0 {
		rep.PlannedMemoryBytes = max(least, min(usual, most))
	}
	return errors.Join(proc.Afford("plan", least, e.o.MaxMemory, "raise --max-memory, leave the comparison out (--no-verify), or quantize weights alone (int4-32)"), e.checkDisk())
}

// prepareGraph makes the keys of stages, and what targets start from.
func (e *engine) prepareGraph(ctx context.Context) error {
	e.refKey = key(e.o.Tool, e.origins.Model, e.r.Source.Shapes, e.r.Preprocess, e.origins.Assets)
	e.key = key(e.refKey, e.origins.Samples)
	e.ref, e.base = e.src, e.src
	e.net.base = e.net.g // the plan's was a sketch
	for i := range e.r.Passes {
		if err := e.timed("prune", "", func() (bool, error) { return e.pruneChannels(ctx, i) }); err != nil {
			return err
		}
	}
	return nil
}

// graphKey is the digest of everything that the package of a graph depends on.
func (e *engine) graphKey(j *job) string {
	parts := []any{e.key, *j.t, e.anonymous(j), e.r.Gate["sqnr_db"] > 0 && j.t.Mix, e.r.Gate["sqnr_db"]}
	if !j.t.Mix {
		parts = parts[:3]
	}
	if j.isa {
		parts = append(parts, e.o.ISA)
	}
	return key(parts...)
}

// checkKey stands for what packages are compared on.
func (e *engine) checkKey() string {
	return key(e.origins.Check, e.net.labels, e.r.Preprocess, e.origins.Assets)
}

// graphDigests names the inputs of a build by their content.
func (e *engine) graphDigests(ctx context.Context) (err error) {
	o := &e.origins
	e.meter.Stage("digest", e.rep.Source.Bytes, "bytes")
	if o.Model, err = pack.SourceDigest(ctx, e.r.Source.Model, e.meter.Add); err != nil {
		return err
	}
	for _, f := range formats.DataFiles(e.src) { // weights beside the model
		sum, err := pack.SourceDigest(ctx, f, e.meter.Add)
		if err != nil {
			return err
		}
		o.Model = "sha256:" + digestOf(o.Model+"\n"+sum)
	}
	e.rep.Source.Digest = o.Model
	if o.Samples, err = e.sampleDigests(ctx, e.r.Calibration.Samples); err != nil {
		return err
	}
	check := e.r.Verify.Samples
	if e.net.same {
		check = e.r.Calibration.Samples
	}
	if o.Check, err = e.sampleDigests(ctx, check); err != nil {
		return err
	}
	for _, a := range e.inputFiles() {
		sum, err := pack.SourceDigest(ctx, a.from, nil)
		if err != nil {
			return err
		}
		o.Assets = append(o.Assets, sum)
	}
	return nil
}

// sampleDigests spells samples with digests in place of files; numbers stay as they are.
func (e *engine) sampleDigests(ctx context.Context, list []string) ([]string, error) {
	var out []string
	for _, g := range samples.ParseGiven(list, e.net.g.Inputs) {
		text := g.Values[0]
		if exists(text) {
			sum, err := pack.SourceDigest(ctx, text, nil)
			if err != nil {
				return nil, err
			}
			text = sum
		}
		if g.Input != "" {
			text = g.Input + "=" + text
		}
		out = append(out, text)
	}
	return out, nil
}

// inputFile is a file that preprocessing needs, with its place among the assets of a package.
type inputFile struct{ from, to string }

// tokenizerFiles are what a tokenizer's folder may hold that counts.
var tokenizerFiles = []string{"tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"}

// inputFiles lists the files that preprocessing names, so that a package has all that it needs.
func (e *engine) inputFiles() (list []inputFile) {
	for i, name := range sortedKeys(e.r.Preprocess) {
		p := e.r.Preprocess[name]
		if t := p.Tokenizer; t != "" {
			dir := t
			if st, err := os.Stat(t); err == nil && !st.IsDir() {
				dir = filepath.Dir(t)
			}
			for _, f := range tokenizerFiles {
				if from := filepath.Join(dir, f); exists(from) {
					list = append(list, inputFile{from, inputFolder(i) + f})
				}
			}
		}
		if v := p.Value; v != "" && exists(v) {
			list = append(list, inputFile{v, inputFolder(i) + filepath.Base(v)})
		}
	}
	return list
}

// inputFolder is where the files of one input lie among the assets.
func inputFolder(i int) string { return fmt.Sprintf("inputs/%d/", i) }

// inputAssets reads them.
func (e *engine) inputAssets() (map[string][]byte, error) {
	assets := map[string][]byte{}
	for _, f := range e.inputFiles() {
		b, err := os.ReadFile(f.from)
		if err != nil {
			return nil, &fault.Error{File: f.from, Op: "package", Err: err}
		}
		assets[f.to] = b
	}
	return assets, nil
}

// packedInputs is the preprocessing as the package has it: files are named by their place in it.
func (e *engine) packedInputs() recipe.Inputs {
	if e.r.Preprocess == nil {
		return nil
	}
	out := recipe.Inputs{}
	for i, name := range sortedKeys(e.r.Preprocess) {
		p := e.r.Preprocess[name]
		if p.Tokenizer != "" {
			p.Tokenizer = "assets/" + strings.TrimSuffix(inputFolder(i), "/")
		}
		if p.Value != "" && exists(p.Value) {
			p.Value = "assets/" + inputFolder(i) + filepath.Base(p.Value)
		}
		out[name] = p
	}
	return out
}

// graphManifest says what only packages of graphs say.
func (e *engine) graphManifest(man *pack.Manifest) {
	man.Parameters = e.net.parameters
	for _, s := range e.origins.Samples {
		man.Samples = append(man.Samples, pack.Origin{Digest: s})
	}
}

// inModel names the source in an error that names no file.
func inModel(path string, err error) error {
	var fe *fault.Error
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &fe) && fe.File != "" {
		return err
	}
	return &fault.Error{File: path, Err: err}
}
