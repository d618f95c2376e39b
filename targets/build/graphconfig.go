package build

import (
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/quantize/qgraph"
	"github.com/pare-dev/pare/targets"
	"github.com/pare-dev/pare/targets/recipe"
)

// codeTypes are the codes that recipes name.
var codeTypes = map[string]graph.DType{"uint8": graph.Uint8, "int8": graph.Int8, "uint16": graph.Uint16, "int16": graph.Int16}

// staticConfig is the quantization to integers that a target asks for: what its table says, with what the recipe
// says over it. What does not go together, or cannot be exact on the device, is refused with the reason.
func staticConfig(t *recipe.Target, table *targets.Graph, req qgraph.Request) (qgraph.Config, error) {
	cfg := table.Static
	bad := func(hint, format string, args ...any) (qgraph.Config, error) {
		return cfg, misuse("target "+nameOf(t), hint, format, args...)
	}
	var err error
	if cfg.Keep, err = qgraph.ParsePatterns(t.Keep); err != nil {
		return cfg, err
	}
	if req.Kind != qgraph.KindStatic {
		for _, key := range graphTargetKeys(t) {
			if key != "fail_on" && !(key == "weights" && req.Kind == qgraph.KindDynamic) {
				return bad("quantize to int8 or int16, or leave it out", "%s is for static quantization; %s has no such choice", key, t.Quantize)
			}
		}
		if t.Method != "" {
			return bad("leave it out", "method chooses ranges of activations; %s needs none", t.Quantize)
		}
		return cfg, nil
	}
	if req.Activations != graph.Undefined {
		cfg.Activations = req.Activations
	}
	if req.Wide {
		cfg.Activations = graph.Uint16
		if r := table.Rules; r != nil && !slices.Contains(r.Codes, "u16") {
			return bad("quantize to int8", "it has no activations of 16 bits")
		}
	}
	if a := t.Activations; a != "" {
		if strings.HasSuffix(a, "16") != req.Wide {
			return bad("write quantize = \"int16\" for 16 bits, \"int8\" for 8", "activations of %s are not %s", a, t.Quantize)
		}
		cfg.Activations = codeTypes[a]
	}
	if t.Weights != "" {
		cfg.Weights = codeTypes[t.Weights]
	}
	if table.Saturates {
		if cfg.Activations == graph.Int8 {
			return bad(`leave activations out: uint8 is exact there`, "sums of signed products overflow on it: runtimes would compute something else")
		}
		cfg.SevenBits = cfg.Weights == graph.Int8
	}
	cfg.SymmetricActivations = cfg.SymmetricActivations || t.Symmetric
	cfg.PerTensor = cfg.PerTensor || t.PerTensor
	if t.Method != "" {
		m, err := calib.LookupMethod(t.Method)
		if err != nil {
			return bad("choose "+strings.Join(calib.MethodNames(), ", "), "method %s chooses the codes of language models' weights", t.Method)
		}
		cfg.Method, cfg.Ranged = m, true
	}
	if p := float64(t.Percentile); p != 0 {
		if cfg.Method != calib.Percentile {
			return bad(`add method = "percentile"`, "percentile says nothing to method %s", cfg.Method)
		}
		if p <= 1 {
			p *= 100 // 99.99% and 0.9999 are the same
		}
		if p < 50 || p > 100 {
			return bad("99.99% is usual", "a percentile of %v%%", p)
		}
		cfg.Percent = p
	}
	cfg.NoEqualize, cfg.NoRounding, cfg.NoBias = slices.Contains(t.Without, "equalize"), slices.Contains(t.Without, "rounding"), slices.Contains(t.Without, "bias")
	return cfg, cfg.Check()
}

// checkGraphTarget finds what is wrong with a target of a graph before the graph is known.
func checkGraphTarget(t *recipe.Target, table *targets.Target) error {
	if table.Graph == nil {
		return misuse("target "+t.Use, "pare targets lists those that run graphs", "it takes language models only")
	}
	if t.Container != "" && t.Container != graphContainer {
		return misuse("target "+t.Use, "leave container out, or write "+graphContainer, "graphs lie in %s files, not %s", graphContainer, t.Container)
	}
	name := t.Quantize
	if name == "" {
		name = table.Graph.Quantize
	}
	req, err := qgraph.ParseRequest(name)
	if err != nil {
		return err
	}
	_, err = staticConfig(t, table.Graph, req)
	return err
}
