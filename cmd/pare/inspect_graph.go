package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// inspectGraph is what `pare inspect` says of a network that is stored as operators.
type inspectGraph struct {
	Opset     map[string]int    `json:"opset"` // by domain, "" is ai.onnx
	Inputs    []inspectValue    `json:"inputs"`
	Outputs   []inspectValue    `json:"outputs"`
	Nodes     int               `json:"nodes"`     // those of subgraphs included
	Operators []inspectOperator `json:"operators"` // the most frequent first
}

type inspectValue struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`  // tensor, sequence, optional, optional sequence, other
	Type  string `json:"type"`  // of the elements, "" when the file does not say
	Shape *[]any `json:"shape"` // numbers and names of dimensions, null when not even the rank is known
}

type inspectOperator struct {
	Name   string `json:"name"`
	Domain string `json:"domain"`
	Count  int    `json:"count"`
}

// graphOf describes the graph of a model, nil for none.
func graphOf(g *graph.Graph) *inspectGraph {
	if g == nil {
		return nil
	}
	o := &inspectGraph{Opset: maps.Clone(g.Opset), Inputs: valuesOf(g.Inputs), Outputs: valuesOf(g.Outputs), Operators: []inspectOperator{}}
	count := map[inspectOperator]int{}
	var visit func(g *graph.Graph)
	visit = func(g *graph.Graph) {
		for _, n := range g.Nodes {
			o.Nodes++
			count[inspectOperator{Name: n.Op, Domain: n.Domain}]++
			for _, sub := range n.Graphs() {
				visit(sub)
			}
		}
	}
	visit(g)
	for op, n := range count {
		op.Count = n
		o.Operators = append(o.Operators, op)
	}
	slices.SortFunc(o.Operators, func(x, y inspectOperator) int {
		return cmp.Or(y.Count-x.Count, strings.Compare(x.Name, y.Name), strings.Compare(x.Domain, y.Domain))
	})
	return o
}

func valuesOf(list []*graph.Value) []inspectValue {
	out := []inspectValue{}
	for _, v := range list {
		x := inspectValue{Name: v.Name, Kind: kindName(v.Kind)}
		if v.Type != graph.Undefined {
			x.Type = v.Type.String()
		}
		if v.Shape != nil {
			dims := make([]any, len(*v.Shape))
			for i, d := range *v.Shape {
				switch {
				case d.Size >= 0:
					dims[i] = d.Size
				case d.Name != "":
					dims[i] = d.Name
				default:
					dims[i] = "?"
				}
			}
			x.Shape = &dims
		}
		out = append(out, x)
	}
	return out
}

func kindName(k graph.Kind) string {
	switch k {
	case graph.KindTensor:
		return "tensor"
	case graph.KindSequence:
		return "sequence"
	case graph.KindOptional:
		return "optional"
	case graph.KindOptionalSequence:
		return "optional sequence"
	}
	return "other"
}

// loose are the constants that lie in the graph alone, because no weight is stored in their type: 4-bit and
// 2-bit numbers, some floats of 8 bits.
func loose(m *ir.Model) (out []inspectTensor) {
	if m.Graph == nil {
		return nil
	}
	for _, v := range m.Graph.Constants() {
		t := v.Const
		if bits := t.Type.Bits(); bits == 0 || bits > 8 || m.Find(v.Name) != nil {
			continue
		}
		x := inspectTensor{Name: v.Name, Block: -1, Shape: slices.Clone(t.Shape), Type: t.Type.String(), Bytes: int64(t.Type.Bytes(t.Elems()))}
		x.BitsPerWeight = float64(t.Type.Bits())
		out = append(out, x)
	}
	return out
}

// isWeight reports constants of a graph that hold weights, as opposed to parameters of its operators: indices,
// axes, limits.
func isWeight(t *ir.Tensor) bool {
	info, ok := storage.Lookup(t.Type)
	return ok && info.Float && t.Elems() > 1
}

// mostOperators is how many the first look shows.
const mostOperators = 16

// text is what a person sees of the graph.
func (o *inspectGraph) text(w io.Writer) {
	label := func(name, text string) { fmt.Fprintf(w, "%-9s %s\n", name, text) }
	list := func(name string, values []inspectValue) {
		for _, v := range values {
			text, shape := v.Name+"  "+v.Type, ""
			if v.Kind != "tensor" {
				text = v.Name + "  " + v.Kind + " " + v.Type
			}
			if v.Shape != nil {
				shape = shapeText(*v.Shape)
			}
			label(name, strings.TrimRight(text+" "+shape, " "))
			name = ""
		}
	}
	list("input", o.Inputs)
	list("output", o.Outputs)
	var words []string
	for i, op := range o.Operators {
		if i == mostOperators {
			words = append(words, fmt.Sprintf("and %d more (--output json has all)", len(o.Operators)-i))
			break
		}
		words = append(words, fmt.Sprintf("%s %d", qualified(op), op.Count))
	}
	for name := "operators"; len(words) > 0; name = "" {
		n := min(len(words), 8)
		label(name, strings.Join(words[:n], " · "))
		words = words[n:]
	}
}

// shapeText is 1x3x224x224, or batch x 3 where dimensions have names.
func shapeText(shape []any) string {
	if len(shape) == 0 {
		return "scalar"
	}
	times, dims := "x", make([]string, len(shape))
	for i, d := range shape {
		if dims[i] = fmt.Sprint(d); named(d) {
			times = " x "
		}
	}
	return strings.Join(dims, times)
}

func named(d any) bool { _, is := d.(string); return is }

func qualified(op inspectOperator) string {
	if op.Domain == "" {
		return op.Name
	}
	return op.Domain + "." + op.Name
}

// head is the graph in a few words.
func (o *inspectGraph) head() string {
	var words []string
	for _, d := range slices.Sorted(maps.Keys(o.Opset)) {
		if d == "" {
			words = append(words, fmt.Sprintf("opset %d", o.Opset[d]))
		} else {
			words = append(words, fmt.Sprintf("%s %d", d, o.Opset[d]))
		}
	}
	return strings.Join(append(words, plural(o.Nodes, "node")), " · ")
}
