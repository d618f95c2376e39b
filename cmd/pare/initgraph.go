package main

import (
	"fmt"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/targets"
)

// graphStarter is the recipe that `pare init` writes for a graph.
const graphStarter = `# A recipe for pare: pare build -r %[1]s -o dist
# Every key and its meaning: docs/recipe.md, or pare check --schema.

[source]
model    = %[2]q          # an ONNX file
%[3]s
[calibration]
# samples = [%[4]s]  # inputs like those that the graph will see, 100 or more: .npy, pictures, sounds, folders

# [[pass]]
# use   = "prune.channels"  # a smaller network of the same operators, fitted to what the original makes of the samples
# flops = "50%%"             # share of the multiplications that stays

[verify]
# samples = [%[4]s]  # inputs that calibration does not see; its own unless given
# labels  = "labels.npy"        # the right class of each
%[5]s%[6]s
# Every limit must be kept, or the package is not published (exit code 3).
[gate]
# sqnr_db         = 30          # signal to error of the worst output, dB
# accuracy_drop   = "1%%"        # with labels
# latency_speedup = 1.0         # against the original, same machine, same run
`

// graphStarterFor fills it in: what is open in the graph, and what its inputs may want to be told.
func graphStarterFor(m *ir.Model, model string, names []string, out string) (string, error) {
	var shapes, inputs, sections strings.Builder
	sample := "\"samples.npy\""
	var free []*graph.Value
	for _, v := range m.Graph.Inputs {
		if v.Const == nil {
			free = append(free, v)
		}
	}
	if len(free) > 1 {
		var list []string
		for _, v := range free {
			list = append(list, fmt.Sprintf("%q", v.Name+"=FILE.npy"))
		}
		sample = strings.Join(list, ", ")
	}
	for _, v := range free {
		if _, known := v.Shape.Known(); !known {
			fmt.Fprintf(&shapes, "# shapes = [%q]  # %s is %s: neural processors want every dimension fixed\n", v.Name+"=1x3x224x224", v.Name, inputShape(v))
		}
		fmt.Fprintf(&inputs, "\n# [preprocess.%q]  # %s %s: how files become it, where it is not an array as it stands\n", v.Name, v.Type, inputShape(v))
		if v.Shape != nil && len(*v.Shape) == 4 {
			inputs.WriteString("# channels = \"bgr\"\n# mean     = [0.485, 0.456, 0.406]\n# std      = [0.229, 0.224, 0.225]\n# scale    = 0.00392156862745098\n")
		}
	}
	for _, n := range names {
		t, err := targets.Lookup(n)
		if err != nil {
			return "", err
		}
		if t.Graph == nil {
			return "", &fault.Error{Op: "target " + n, Err: misusef("it takes language models only; %s is a graph", model), Hint: "pare targets lists those that run graphs"}
		}
		fmt.Fprintf(&sections, "\n[[target]]\nuse      = %q  # %s\nquantize = %q\n", t.Name, t.Doc, t.Graph.Quantize)
		for _, o := range t.Graph.Options {
			fmt.Fprintf(&sections, "# quantize = %q  # %s\n", o.Quantize, o.Why)
		}
		sections.WriteString("# mix      = true    # keep few layers in float, none of them superfluous, with which the gate on sqnr_db holds\n")
	}
	recipeFile := out
	if out == "-" {
		recipeFile = "recipe.toml"
	}
	return fmt.Sprintf(graphStarter, shellLine([]string{recipeFile}), relativeTo(out, model), shapes.String(), sample, inputs.String(), sections.String()), nil
}

func inputShape(v *graph.Value) string {
	if v.Shape == nil {
		return "of any shape"
	}
	return v.Shape.Text()
}
