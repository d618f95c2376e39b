package channels

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// label says which axis of a value holds channels, and the id of each. A value without a label keeps its shape
// whatever is pruned.
type label struct {
	axis int
	ids  []int
}

// tracer follows channels through a graph.
type tracer struct {
	g      *graph.Graph
	x      *graph.Index
	u      units
	at     map[*graph.Value]*label
	layers []*layer
	// edits are what has to be done to nodes once it is known what goes.
	edits []func(k *keeper)
}

// trace follows the channels of a graph whose shapes are inferred.
func trace(g *graph.Graph, only, skip []string) *tracer {
	t := &tracer{g: g, x: graph.NewIndex(g), at: map[*graph.Value]*label{}}
	for _, n := range g.Nodes {
		t.node(n)
	}
	for _, v := range g.Outputs {
		if l := t.at[v]; l != nil {
			t.u.pin(l.ids, fmt.Sprintf("it reaches %s, an output of the graph", v.Name))
		}
	}
	for _, l := range t.layers {
		// a depthwise layer makes no channels of its own: whoever names others does not mean it
		if len(only) > 0 && !l.own && !matches(l.n, only) || matches(l.n, skip) {
			t.u.pin(l.out, l.n.Label()+" is left alone as asked")
		}
	}
	return t
}

// matches reports whether a pattern is that of the node's name, operator, output or of what reports call it.
func matches(n *graph.Node, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return n.Name != "" && ir.Glob(p, n.Name) || ir.Glob(p, n.Op) || ir.Glob(p, n.Out[0].Name) || ir.Glob(p, n.Label())
	})
}

// selected fails for a pattern that selects no layer: a name that is mistyped would say nothing.
func (t *tracer) selected(patterns []string) error {
	for _, p := range patterns {
		if slices.ContainsFunc(t.layers, func(l *layer) bool { return matches(l.n, []string{p}) }) {
			continue
		}
		var names []string
		for _, l := range t.layers {
			names = append(names, l.n.Name, l.n.Op, l.n.Label())
		}
		hint := "a layer is a convolution or a product with weights; pare inspect --tensors lists what there is"
		if near := human.Nearest(p, names); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return &fault.Error{Op: "pattern " + p, Err: fault.As(fault.ErrMisuse, errors.New("it selects no layer whose channels could go")), Hint: hint}
	}
	return nil
}

// rule follows channels through a node. It reports why it cannot, in which case the channels stay.
type rule func(t *tracer, n *graph.Node) (why string)

// rules by operator of ai.onnx.
var rules = map[string]rule{}

func init() {
	add := func(r rule, ops ...string) {
		for _, op := range ops {
			rules[op] = r
		}
	}
	add((*tracer).conv, "Conv", "ConvTranspose")
	add((*tracer).product, "Gemm", "MatMul")
	add((*tracer).norm, "BatchNormalization", "InstanceNormalization")
	add((*tracer).same, "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Mish", "Gelu",
		"Swish", "Softplus", "Softsign", "ThresholdedRelu", "Erf", "Exp", "Log", "Sqrt", "Abs", "Neg", "Sign", "Reciprocal", "Floor", "Ceil",
		"Round", "Sin", "Cos", "Identity", "Dropout", "Cast", "Clip", "Not", "IsNaN", "IsInf", "Shrink")
	add((*tracer).pool, "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
	add((*tracer).joined, "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mean", "Sum", "Mod", "PRelu", "Where", "Equal", "Less",
		"Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor")
	add((*tracer).concat, "Concat")
	add((*tracer).split, "Split")
	add((*tracer).slice, "Slice")
	add((*tracer).gather, "Gather")
	add((*tracer).transpose, "Transpose")
	add((*tracer).reshape, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
	add((*tracer).pad, "Pad")
	add((*tracer).resize, "Resize", "Upsample")
	add((*tracer).reduce, "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
	add((*tracer).along, "Softmax", "LogSoftmax", "Hardmax", "CumSum")
	add((*tracer).shape, "Shape")
}

// node follows channels through one node.
func (t *tracer) node(n *graph.Node) {
	why := "is not followed"
	if r := rules[n.Op]; n.Domain == "" && r != nil && len(n.Graphs()) == 0 && n.Output(0) != nil && n.Input(0) != nil {
		why = r(t, n)
	}
	if why == "" {
		return
	}
	for v := range graph.Reads(n) {
		if l := t.at[v]; l != nil {
			t.u.pin(l.ids, n.Label()+" "+why)
		}
	}
	for _, v := range n.Out {
		delete(t.at, v)
	}
}

// give labels a value, unless its shape says otherwise.
func (t *tracer) give(v *graph.Value, axis int, ids []int) bool {
	if v == nil {
		return true
	}
	if size(v, axis) != len(ids) {
		return false
	}
	t.at[v] = &label{axis, ids}
	return true
}

// edit remembers what to do to a node.
func (t *tracer) edit(do func(k *keeper)) { t.edits = append(t.edits, do) }

// rank of a value, -1 where it is not known.
func rank(v *graph.Value) int {
	switch {
	case v == nil:
		return -1
	case v.Const != nil:
		return len(v.Const.Shape)
	case v.Shape == nil:
		return -1
	}
	return len(*v.Shape)
}

// size of an axis of a value, -1 where it is not known.
func size(v *graph.Value, axis int) int {
	if axis < 0 || axis >= rank(v) {
		return -1
	}
	if v.Const != nil {
		return v.Const.Shape[axis]
	}
	return (*v.Shape)[axis].Size
}

// ints are the elements of a constant list of integers, or of an attribute of old operator sets.
func ints(n *graph.Node, input int, attr string) ([]int, bool) {
	if n.Has(attr) {
		return n.Ints(attr), n.Ints(attr) != nil
	}
	v := n.Input(input)
	if v == nil {
		return nil, true
	}
	if v.Const == nil {
		return nil, false
	}
	list, err := v.Const.Ints()
	if err != nil {
		return nil, false
	}
	out := make([]int, len(list))
	for i, e := range list {
		out[i] = int(e)
	}
	return out, true
}

// axisOf counts negative axes from the end; -1 when there is no such axis.
func axisOf(axis, rank int) int {
	if axis < 0 {
		axis += rank
	}
	if axis < 0 || axis >= rank {
		return -1
	}
	return axis
}
