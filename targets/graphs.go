package targets

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/quantize/qgraph"
	"github.com/pare-dev/pare/targets/npu"
)

// Graph is what a target takes of networks of operators, inside ONNX files.
type Graph struct {
	// Quantize is how a network is quantized when nobody says; Options are other choices.
	Quantize string   `json:"quantize"`
	Options  []Option `json:"options"`
	// Static is the quantization to integers that the target executes.
	Static qgraph.Config `json:"-"`
	// Saturates says that sums of u8 x s8 products overflow at full range, and those of s8 x s8 in any case.
	Saturates bool `json:"saturates,omitempty"`

	Runtimes []Runtime `json:"runtimes"`
	Notes    []string  `json:"notes,omitempty"`
	// Rules are those of a neural processor, nil where every operator runs.
	Rules *npu.Rules `json:"rules,omitempty"`
	// NotExecuted is what no test executes.
	NotExecuted string `json:"not_executed,omitempty"`
}

// Legal lists what keeps the target from running all of a network: nothing on a CPU. Types and shapes must
// have been written into its values.
func (t *Graph) Legal(g *graph.Graph) []npu.Finding {
	if t.Rules == nil {
		return nil
	}
	return t.Rules.Check(g)
}

// onnxRuntimes are the programs that CPU packages of networks are for.
func onnxRuntimes() []Runtime {
	return []Runtime{{Name: "ONNX Runtime", Since: "1.31.1"}, {Name: "OpenVINO", Since: "2026.4.1"}}
}

// noOpenVINO is what no test does with packages for CPUs: it runs those for Intel's neural processor.
const noOpenVINO = "ONNX Runtime ran packages of this kind; OpenVINO was never given one"

func floatOption() Option { return Option{"f32", "no quantization"} }

// x86v3Graph is for processors without VNNI: their 8-bit products u8 x s8 are added in pairs of 16 bits, which
// overflow at full range. Unsigned weights around 128 and signed ones of 7 bits are exact; signed
// activations are not.
func x86v3Graph() *Graph {
	return &Graph{
		Quantize: "int8", Static: qgraph.Config{Weights: graph.Uint8}, Saturates: true,
		Options:     []Option{{"int4", "weights in blocks of 32 for MatMulNBits, activations stay floats"}, floatOption()},
		Runtimes:    onnxRuntimes(),
		NotExecuted: noOpenVINO,
		Notes:       []string{"int8: unsigned weights around 128, since sums of u8 x s8 products overflow without VNNI"},
	}
}

func x86v4Graph() *Graph {
	return &Graph{
		Quantize: "int8", Static: qgraph.Config{Weights: graph.Int8},
		Options:     []Option{{"int4", "weights in blocks of 32 for MatMulNBits, activations stay floats"}, floatOption()},
		Runtimes:    onnxRuntimes(),
		NotExecuted: noOpenVINO,
		Notes:       []string{"int8: u8 activations, s8 weights: exact with VNNI; for CPUs without it choose x86-64-v3"},
	}
}

func arm64Graph() *Graph {
	return &Graph{
		Quantize: "int8", Static: qgraph.Config{Weights: graph.Int8},
		Options:     []Option{{"int4", "weights in blocks of 32 for MatMulNBits, activations stay floats"}, floatOption()},
		Runtimes:    []Runtime{{Name: "ONNX Runtime", Since: "1.31.1"}},
		NotExecuted: "ONNX Runtime ran graphs of this kind on x86-64 only, none of these packages on ARM; pare's own kernels for ARM were run on an emulated processor",
	}
}

// Neural processors are targets for networks only.
func init() {
	for _, r := range npu.All() {
		g := &Graph{
			Quantize: "int8", Rules: r, NotExecuted: r.NotExecuted, Notes: r.Notes, Options: []Option{},
			Static: qgraph.Config{Weights: graph.Int8, Everything: true, SymmetricActivations: r.Symmetric, PowerOfTwo: r.PowerOfTwo},
		}
		if !slices.Contains(r.Codes, "u8") {
			g.Static.Activations, g.Static.PerTensor = graph.Int8, true
		}
		for _, x := range r.Runtimes {
			g.Runtimes = append(g.Runtimes, Runtime(x))
		}
		if len(r.On("u16")) > 0 {
			g.Options = append(g.Options, Option{"int16", "activations in 16 bits, weights in 8: nearly exact, about half as fast"})
		}
		register(&Target{
			Name: r.Name, Doc: r.Doc, Containers: []Container{}, Graph: g, ISA: r.ISA, NotExecuted: r.NotExecuted,
			Quantize: g.Quantize, Calibrated: "rtn", Zeros: "nothing: these compilers take dense weights",
		})
	}
}
