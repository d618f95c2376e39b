package build

import (
	"runtime"
	"slices"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
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
		if p := &r.Passes[i]; p.Use == "prune.magnitude" && p.Scope == "" && p.Pattern == "" {
			p.Scope = "layer"
		}
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		table, err := targets.Lookup(t.Use)
		if err != nil {
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

// gptqBits is the size above which choosing codes by GPTQ is not worth its time by default: 8 and 6
// bit types are hardly distinguishable from the original as they are.
const gptqBits = 5.1

// method is the default: what the target prefers when there is calibration text, the model can be
// run and the type is one that gains from it; round to nearest otherwise.
func method(t *recipe.Target, table *targets.Target, r *recipe.Recipe, m *ir.Model) (string, error) {
	req, err := request(t, table)
	if err != nil {
		return "", err
	}
	if len(r.Calibration.Text) == 0 || table.Calibrated != "gptq" || req.Preset == nil || m != nil && m.Decoder == nil {
		return "rtn", nil
	}
	if info := storage.MustLookup(req.Preset.Base); info.Grid == nil || info.Bits() > gptqBits {
		return "rtn", nil
	}
	return "gptq", nil
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
	if len(r.Calibration.Text) == 0 || t.Method != "rtn" || req.Preset == nil {
		return false
	}
	return storage.MustLookup(req.Preset.Base).Bits() < 7
}

// needsRun says that making the packages, not only checking them, takes a run of the model.
func needsRun(r *recipe.Recipe) bool {
	if prunesByActivations(r) {
		return true
	}
	for i := range r.Targets {
		if r.Targets[i].Method == "gptq" {
			return true
		}
	}
	return false
}

// prunesByActivations says that what is pruned depends on a run of the model, so that the bytes of
// every target do.
func prunesByActivations(r *recipe.Recipe) bool {
	return r.Calibration.Imatrix == "" && slices.ContainsFunc(r.Passes, func(p recipe.Pass) bool { return p.Use == "prune.wanda" })
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

// clone copies a recipe deeply enough that resolving it leaves the caller's alone.
func clone(in *recipe.Recipe) *recipe.Recipe {
	r := *in
	r.Source.Adapters = slices.Clone(in.Source.Adapters)
	r.Passes = slices.Clone(in.Passes)
	r.Targets = slices.Clone(in.Targets)
	r.Gate = recipe.Gate{}
	for k, v := range in.Gate {
		r.Gate[k] = v
	}
	return &r
}
