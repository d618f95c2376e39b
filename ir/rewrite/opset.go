package rewrite

import (
	"errors"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// Newest is the version of ai.onnx that Upgrade knows the changes up to.
const Newest = 21

// step is a version of ai.onnx that changed how an operator is written. Changes that only admit more types
// or more attributes with the old meaning as default need no entry.
type step struct {
	version int
	ops     []string
	change  func(u *upgrade, n *graph.Node) error
}

var steps = []step{
	{9, []string{"BatchNormalization"}, (*upgrade).batchNorm},
	{9, []string{"Scan"}, func(*upgrade, *graph.Node) error {
		return fmt.Errorf("a Scan over batches, as operator set 8 had it")
	}},
	{10, []string{"Slice"}, func(u *upgrade, n *graph.Node) error { return u.inputs(n, "starts", "ends", "axes") }},
	{10, []string{"TopK"}, func(u *upgrade, n *graph.Node) error { return u.one(n, "k") }},
	{10, []string{"Upsample"}, (*upgrade).upsample},
	{11, []string{"Clip"}, (*upgrade).clip},
	{11, []string{"Pad"}, (*upgrade).pad},
	{11, []string{"Resize"}, (*upgrade).resize},
	{11, []string{"Scatter"}, func(_ *upgrade, n *graph.Node) error { n.Op = "ScatterElements"; return nil }},
	{12, []string{"Dropout"}, (*upgrade).dropout},
	{13, []string{"Squeeze", "Unsqueeze", "ReduceSum"}, func(u *upgrade, n *graph.Node) error { return u.inputs(n, "axes") }},
	{13, []string{"Split"}, func(u *upgrade, n *graph.Node) error { return u.inputs(n, "split") }},
	{13, []string{"Softmax", "LogSoftmax", "Hardmax"}, (*upgrade).softmax},
	{18, []string{"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"}, func(u *upgrade, n *graph.Node) error { return u.inputs(n, "axes") }},
	{18, []string{"Split"}, (*upgrade).split},
	{21, []string{"GroupNormalization"}, (*upgrade).groupNorm},
}

// upgrade is under way in one graph.
type upgrade struct {
	names *names
	g     *graph.Graph
	front []*graph.Node // nodes to go before the one that is changed
	back  []*graph.Node // and after it
}

// Upgrade writes the nodes of ai.onnx as a newer operator set wants them. Results stay the same. A node that
// has no equal in the new set is an error, and the graph is then half changed: work on a clone.
func Upgrade(g *graph.Graph, to int) error {
	from := g.Opset[""]
	if from >= to {
		return nil
	}
	if to > Newest || from < 7 {
		return &fault.Error{Op: "opset", Err: fault.As(fault.ErrMisuse, fmt.Errorf("operator set %d does not become %d: from 7 to %d they do", from, to, Newest))}
	}
	if err := upgradeGraph(g, newNames(g), from, to); err != nil {
		return err
	}
	if g.Opset == nil {
		g.Opset = map[string]int{}
	}
	g.Opset[""] = to
	return nil
}

func upgradeGraph(g *graph.Graph, all *names, from, to int) error {
	u := &upgrade{names: all, g: g}
	var nodes []*graph.Node
	for _, n := range g.Nodes {
		for _, sub := range n.Graphs() {
			if err := upgradeGraph(sub, all, from, to); err != nil {
				return err
			}
		}
		list, err := u.node(n, from, to)
		if err != nil {
			return err
		}
		nodes = append(nodes, list...)
	}
	g.Nodes = nodes
	return nil
}

// node is what becomes of a node, whose subgraphs stay as they are.
func (u *upgrade) node(n *graph.Node, from, to int) ([]*graph.Node, error) {
	u.front, u.back = nil, nil
	for _, s := range steps {
		if s.version <= from || s.version > to || !is(n, s.ops...) {
			continue
		}
		if err := s.change(u, n); err != nil {
			return nil, &fault.Error{Tensor: n.Label(), Op: "opset", Err: err}
		}
	}
	return append(append(u.front, n), u.back...), nil
}

// Upgrader writes single nodes as another operator set wants them: those of a file's functions, which have operator
// sets of their own.
type Upgrader struct{ names *names }

// NewUpgrader makes an upgrader, which gives no name twice.
func NewUpgrader() *Upgrader { return &Upgrader{newNames(&graph.Graph{})} }

// ErrOlder is the reason when a node means something else in an older operator set, which cannot say it.
var ErrOlder = errors.New("an older operator set has no such form of it")

// Node is what becomes of a node, whose subgraphs stay as they are. known is false where pare does not know the
// changes between the two versions.
func (u *Upgrader) Node(n *graph.Node, from, to int) (nodes []*graph.Node, known bool, err error) {
	nodes = []*graph.Node{n}
	if known = min(from, to) >= 7 && max(from, to) <= Newest; from == to {
		return nodes, true, nil
	}
	if from > to {
		for _, s := range steps {
			if s.version > to && s.version <= from && is(n, s.ops...) {
				return nil, known, &fault.Error{Tensor: n.Label(), Op: "opset", Err: fmt.Errorf("%w: %d instead of %d", ErrOlder, to, from)}
			}
		}
		return nodes, known, nil
	}
	nodes, err = (&upgrade{names: u.names}).node(n, from, to)
	return nodes, known, err
}

// input puts a constant at input i, unless something is there.
func (u *upgrade) input(n *graph.Node, i int, name string, t *graph.Tensor) {
	for len(n.In) <= i {
		n.In = append(n.In, nil)
	}
	if n.In[i] == nil {
		n.In[i] = &graph.Value{Name: u.names.fresh(u.base(n) + "_" + name), Type: t.Type, Shape: graph.Fixed(t.Shape...), Const: t}
	}
}

// base is what names of new values begin with.
func (u *upgrade) base(n *graph.Node) string {
	if n.Name != "" {
		return n.Name
	}
	if v := n.Output(0); v != nil {
		return v.Name
	}
	return n.Op
}

// inputs makes inputs of attributes that are lists of integers, from input 1 on.
func (u *upgrade) inputs(n *graph.Node, names ...string) error {
	for i, name := range names {
		a, ok := n.Attrs[name]
		if !ok {
			continue
		}
		delete(n.Attrs, name)
		u.input(n, i+1, name, graph.From(graph.Int64, append([]int64(nil), a.Ints...), len(a.Ints)))
	}
	return nil
}

// one makes input 1, a list of one integer, of an attribute.
func (u *upgrade) one(n *graph.Node, name string) error {
	if a, ok := n.Attrs[name]; ok {
		delete(n.Attrs, name)
		u.input(n, 1, name, graph.From(graph.Int64, []int64{a.Int}, 1))
	}
	return nil
}

func scalar(v float32) *graph.Tensor { return graph.From(graph.Float32, []float32{v}) }

// clip: min and max became inputs, of the type of what is clipped.
func (u *upgrade) clip(n *graph.Node) error {
	lo, hi := n.Float("min", -math.MaxFloat32), n.Float("max", math.MaxFloat32)
	if n.In[0].Type != graph.Float32 && n.In[0].Type != graph.Undefined && (n.Has("min") || n.Has("max")) {
		return fmt.Errorf("a Clip of %s with bounds as attributes", n.In[0].Type)
	}
	if n.Has("min") {
		u.input(n, 1, "min", scalar(lo))
	}
	if n.Has("max") {
		u.input(n, 2, "max", scalar(hi))
	}
	delete(n.Attrs, "min")
	delete(n.Attrs, "max")
	return nil
}

// pad: pads and value became inputs.
func (u *upgrade) pad(n *graph.Node) error {
	value := n.Float("value", 0)
	if err := u.inputs(n, "pads"); err != nil {
		return err
	}
	if delete(n.Attrs, "value"); value != 0 {
		u.input(n, 2, "value", scalar(value))
	}
	return nil
}

// dropout: ratio became an input; without it, and without training, input is handed on.
func (u *upgrade) dropout(n *graph.Node) error {
	delete(n.Attrs, "ratio")
	return nil
}

// batchNorm: the attribute spatial went away; only its default is left.
func (u *upgrade) batchNorm(n *graph.Node) error {
	if n.Int("spatial", 1) != 1 {
		return fmt.Errorf("statistics per element (spatial 0) have no form from operator set 9 on")
	}
	delete(n.Attrs, "spatial")
	return nil
}

// upsample became Resize; scales were an attribute until 8.
func (u *upgrade) upsample(n *graph.Node) error {
	if a, ok := n.Attrs["scales"]; ok {
		delete(n.Attrs, "scales")
		u.input(n, 1, "scales", graph.From(graph.Float32, append([]float32(nil), a.Floats...), len(a.Floats)))
	}
	n.Op = "Resize"
	return nil
}

// resize: from 11 on a region of interest comes before the scales, and how coordinates map is an attribute
// whose default is another: the old form takes x/scale, and for "nearest" the one below.
func (u *upgrade) resize(n *graph.Node) error {
	if len(n.In) != 2 {
		return fmt.Errorf("%d inputs", len(n.In))
	}
	roi := graph.New(graph.Float32, 0)
	n.In = []*graph.Value{n.In[0], {Name: u.names.fresh(u.base(n) + "_roi"), Type: graph.Float32, Shape: graph.Fixed(0), Const: roi}, n.In[1]}
	if n.Attrs == nil {
		n.Attrs = map[string]graph.Attr{}
	}
	n.Attrs["coordinate_transformation_mode"] = graph.Attr{Kind: graph.AttrString, String: "asymmetric"}
	if n.Str("mode", "nearest") == "nearest" {
		n.Attrs["nearest_mode"] = graph.Attr{Kind: graph.AttrString, String: "floor"}
	}
	return nil
}

// softmax: until 12 all axes from the given one on are one; from 13 on the given axis alone counts. The
// same for the last axis; others are flattened around it.
func (u *upgrade) softmax(n *graph.Node) error {
	axis, r := n.Int("axis", 1), rank(n.In[0])
	if n.Attrs == nil {
		n.Attrs = map[string]graph.Attr{}
	}
	if axis == -1 || r >= 0 && axis == r-1 {
		n.Attrs["axis"] = graph.Attr{Kind: graph.AttrInt, Int: -1}
		return nil
	}
	// Flatten to two dimensions, and back to the shape that it had.
	in, out := n.In[0], n.Out[0]
	value := func(name string, t graph.DType) *graph.Value {
		return &graph.Value{Name: u.names.fresh(u.base(n) + "_" + name), Type: t}
	}
	dims, flat, soft := value("shape", graph.Int64), value("flat", in.Type), value("rows", in.Type)
	u.front = append(u.front,
		&graph.Node{Name: u.names.fresh(u.base(n) + "_shape_of"), Op: "Shape", In: []*graph.Value{in}, Out: []*graph.Value{dims}},
		&graph.Node{
			Name: u.names.fresh(u.base(n) + "_flatten"), Op: "Flatten", In: []*graph.Value{in}, Out: []*graph.Value{flat},
			Attrs: map[string]graph.Attr{"axis": {Kind: graph.AttrInt, Int: int64(axis)}},
		})
	u.back = append(u.back, &graph.Node{Name: u.names.fresh(u.base(n) + "_restore"), Op: "Reshape", In: []*graph.Value{soft, dims}, Out: []*graph.Value{out}})
	n.In[0], n.Out[0] = flat, soft
	n.Attrs["axis"] = graph.Attr{Kind: graph.AttrInt, Int: -1}
	return nil
}

// split: without sizes, from 18 on the number of outputs is said.
func (u *upgrade) split(n *graph.Node) error {
	if n.Input(1) != nil || n.Has("num_outputs") {
		return nil
	}
	if n.Attrs == nil {
		n.Attrs = map[string]graph.Attr{}
	}
	n.Attrs["num_outputs"] = graph.Attr{Kind: graph.AttrInt, Int: int64(len(n.Out))}
	return nil
}

// groupNorm: scale and bias are per channel from 21 on, and were per group.
func (u *upgrade) groupNorm(n *graph.Node) error {
	dims := n.In[0].Shape
	groups := n.Int("num_groups", 0)
	if dims == nil || len(*dims) < 2 || (*dims)[1].Size <= 0 || groups <= 0 || (*dims)[1].Size%groups != 0 {
		return fmt.Errorf("the number of channels is not known, and gains of groups become gains of channels")
	}
	channels := (*dims)[1].Size
	for i := 1; i <= 2; i++ {
		v := n.Input(i)
		if v == nil || v.Const == nil || v.Const.Type != graph.Float32 || v.Const.Elems() != groups {
			return fmt.Errorf("gains of groups that are no constants")
		}
		src, dst := graph.Of[float32](v.Const), make([]float32, channels)
		for c := range dst {
			dst[c] = src[c/(channels/groups)]
		}
		n.In[i] = &graph.Value{Name: u.names.fresh(v.Name), Type: graph.Float32, Shape: graph.Fixed(channels), Const: graph.From(graph.Float32, dst, channels)}
	}
	return nil
}
