package build

import (
	"runtime"
	"slices"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/targets"
	"github.com/pare-dev/pare/targets/recipe"
)

// Defaults of a recipe; docs/recipe.md repeats them.
const (
	defaultTokens    = 65536
	defaultContext   = 512
	defaultChunks    = 16
	defaultMaxChunks = 128
	defaultPrompt    = 128
	defaultGenerate  = 32
	defaultRepeat    = 5
	gateRepeat       = 20 // rounds when a gate judges a speed: fewer cannot tell small differences
)

// DefaultTarget is the target that this machine is one of.
func DefaultTarget() string {
	levels := cpu.Available()
	switch {
	case runtime.GOARCH == "arm64":
		return "arm64"
	case slices.Contains(levels, cpu.AVX512):
		return "x86-64-v4"
	}
	return "x86-64-v3"
}

// resolve spells out every default, so that the recipe in a package or report says what was done
// and not what was left unsaid. m may be nil: then nothing that depends on the model is filled in.
func resolve(in *recipe.Recipe, m *ir.Model) (*recipe.Recipe, error) {
	r := clone(in)
	set := func(to *int, value int) {
		if *to == 0 {
			*to = value
		}
	}
	c, v, b := &r.Calibration, &r.Verify, &r.Bench
	if len(c.Text) > 0 {
		set(&c.Tokens, defaultTokens)
		set(&c.Context, defaultContext)
	}
	if !v.Off {
		set(&v.Context, defaultContext)
		set(&v.Chunks, defaultChunks)
		set(&v.MaxChunks, max(defaultMaxChunks, v.Chunks))
		if v.Undecided == "" {
			v.Undecided = "fail"
		}
	}
	if !b.Off {
		set(&b.Prompt, defaultPrompt)
		set(&b.Generate, defaultGenerate)
		if gatesSpeed(r.Gate) {
			set(&b.Repeat, gateRepeat)
		}
		set(&b.Repeat, defaultRepeat)
	}
	if m != nil && m.Decoder != nil && m.Decoder.Context > 0 {
		c.Context, v.Context = min(c.Context, m.Decoder.Context), min(v.Context, m.Decoder.Context)
		b.Prompt = max(min(b.Prompt, m.Decoder.Context-b.Generate), min(b.Prompt, 1))
	}
	if r.Source.Dtype == "" && len(r.Source.Adapters) > 0 {
		r.Source.Dtype = "keep"
	}
	for i := range r.Passes {
		p := &r.Passes[i]
		if m := prune.Lookup(p.Use); m != nil && p.Scope == "" && p.Pattern == "" && !m.Structured {
			p.Scope = string(m.Scope)
		} else if m != nil && p.Score == "" && len(m.Scores) > 0 {
			p.Score = m.Scores[0]
		}
	}
	if r.Distill != nil {
		resolveDistill(r.Distill, m)
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		table, err := targets.Lookup(t.Use)
		if err != nil {
			return nil, err
		}
		if err := checkLanguageTarget(t, table); err != nil {
			return nil, err
		}
		box, err := table.Container(t.Container)
		if err != nil {
			return nil, err
		}
		t.Container, t.Name = box.Format, nameOf(t)
		if t.Quantize == "" {
			t.Quantize = table.Quantize
		}
		if t.Method == "" {
			if t.Method, err = method(t, table, r, m); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// method is the default: what the target prefers when there is calibration text, the model can be
// run and the type is one that gains from it; round to nearest otherwise.
func method(t *recipe.Target, table *targets.Target, r *recipe.Recipe, m *ir.Model) (string, error) {
	req, err := request(t, table)
	if err != nil {
		return "", err
	}
	preferred, err := quantize.LookupMethod(table.Calibrated)
	if err != nil {
		return "", err
	}
	if preferred.Runs && (len(r.Calibration.Text) == 0 || m != nil && m.Decoder == nil) || preferred.Gains != nil && !preferred.Gains(req) {
		return "rtn", nil
	}
	return preferred.Name, nil
}

// runs says that the method of a target runs the model. Check has found that it exists.
func runs(t *recipe.Target) bool {
	m, err := quantize.LookupMethod(t.Method)
	return err == nil && m.Runs
}

// usesImportance says that a target's tensors are encoded with an importance matrix: a file that
// the recipe names, or one measured on the calibration text for block types that are small enough
// to gain from it. GPTQ measures its own. Uniform schemes gain next to nothing from one (int4 in
// groups of 128 on the books model: KL 0.0235 with, 0.0239 without), so they stay free of
// activations and come out the same on any machine.
func usesImportance(t *recipe.Target, req quantize.Request, r *recipe.Recipe) bool {
	if r.Calibration.Imatrix != "" {
		return true
	}
	if len(r.Calibration.Text) == 0 || runs(t) || req.Preset == nil {
		return false
	}
	return storage.MustLookup(req.Preset.Base).Bits() < 7
}

// needsRun says that making the packages, not only checking them, takes a run of the model.
func needsRun(r *recipe.Recipe) bool { return r.Distill != nil || needsCalibration(r) }

// needsCalibration says that it takes calibration text as well.
func needsCalibration(r *recipe.Recipe) bool {
	if prunesByActivations(r) {
		return true
	}
	for i := range r.Targets {
		if runs(&r.Targets[i]) {
			return true
		}
	}
	return false
}

// prunesByActivations says that what is pruned depends on a run of the model, so that the bytes of
// every target do.
func prunesByActivations(r *recipe.Recipe) bool {
	return slices.ContainsFunc(r.Passes, func(p recipe.Pass) bool {
		m := prune.Lookup(p.Use)
		return m != nil && (m.Runs || m.Learns && r.Calibration.Imatrix == "")
	})
}

// onlySize says that a gate needs no run of the models.
func onlySize(g recipe.Gate) bool {
	for name := range g {
		if name != "size_ratio" {
			return false
		}
	}
	return true
}

// gatesSpeed says that a gate judges how fast a package is.
func gatesSpeed(g recipe.Gate) bool {
	_, decode := g["decode_speedup"]
	_, prefill := g["prefill_speedup"]
	_, latency := g["latency_speedup"]
	return decode || prefill || latency
}

// clone copies a recipe deeply enough that resolving it leaves the caller's alone.
func clone(in *recipe.Recipe) *recipe.Recipe {
	r := *in
	r.Source.Adapters = slices.Clone(in.Source.Adapters)
	r.Passes = slices.Clone(in.Passes)
	r.Targets = slices.Clone(in.Targets)
	if in.Distill != nil {
		d := *in.Distill
		r.Distill = &d
	}
	r.Gate = recipe.Gate{}
	for k, v := range in.Gate {
		r.Gate[k] = v
	}
	return &r
}
