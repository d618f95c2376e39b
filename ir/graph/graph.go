package graph

import (
	"errors"
	"fmt"
)

// Graph is a network, or a part of one that a node runs as its body.
type Graph struct {
	Name, Doc string
	Inputs    []*Value
	Outputs   []*Value
	Nodes     []*Node // every value is produced before it is read
	// Opset is the version of each operator domain; "" is ai.onnx. Subgraphs share that of the graph
	// they belong to.
	Opset map[string]int
	Meta  map[string]string // metadata_props of the file, kept
	// Extra is what the format's reader keeps for its writer (producer, IR version, training info).
	Extra any
}

// Kind says what flows along an edge.
type Kind int

// Kinds.
const (
	KindTensor Kind = iota
	KindSequence
	KindOptional // of a tensor
	KindOptionalSequence
	KindOther // maps, sparse tensors, sequences of sequences: see Value.Raw
)

// Value is one edge: an input, an output of a node, or a constant. A file's names are unique in a graph and
// the graphs around it.
type Value struct {
	Name string
	Doc  string
	Kind Kind
	Type DType // of the elements; Undefined when it is not known
	// Shape is nil when not even the rank is known.
	Shape *Shape
	// Const is the value itself when it does not depend on the inputs of the graph. For an input of the
	// graph it is a default that the caller may replace, so passes leave it alone.
	Const *Tensor
	// Raw is the type of a value of KindOther, as its file's reader has it.
	Raw any
}

// Shape is a list of dimensions, each a number or a name.
type Shape []Dim

// Dim is a dimension: Size when it is known (>= 0), otherwise -1 and perhaps a name, which means the same
// number wherever it is used.
type Dim struct {
	Size int
	Name string
}

// Node is one operator with its inputs and outputs.
type Node struct {
	Name   string
	Op     string // "Conv"
	Domain string // "" for ai.onnx, "com.microsoft"
	Doc    string
	In     []*Value // nil for optional inputs that are left out
	Out    []*Value // nil for optional outputs that are left out
	Attrs  map[string]Attr
	Meta   map[string]string
}

// Attr is an attribute: exactly one field is set, according to what the operator asks for.
type Attr struct {
	Kind    AttrKind
	Int     int64
	Float   float32
	String  string // bytes, UTF-8 as a rule
	Tensor  *Tensor
	Graph   *Graph
	Ints    []int64
	Floats  []float32
	Strings []string
	Tensors []*Tensor
	Graphs  []*Graph
	// Raw is an attribute that pare has no use for (types, sparse tensors), as its file's reader has it.
	Raw any
}

// AttrKind numbers the kinds of attributes as AttributeProto.AttributeType does.
type AttrKind int32

// Kinds of attributes.
const (
	AttrFloat   AttrKind = 1
	AttrInt     AttrKind = 2
	AttrString  AttrKind = 3
	AttrTensor  AttrKind = 4
	AttrGraph   AttrKind = 5
	AttrFloats  AttrKind = 6
	AttrInts    AttrKind = 7
	AttrStrings AttrKind = 8
	AttrTensors AttrKind = 9
	AttrGraphs  AttrKind = 10
	AttrOther   AttrKind = 0 // in Raw
)

// Int is an integer attribute, or the default when the node has none.
func (n *Node) Int(name string, def int) int {
	if a, ok := n.Attrs[name]; ok && a.Kind == AttrInt {
		return int(a.Int)
	}
	return def
}

// Float is a float attribute, or the default.
func (n *Node) Float(name string, def float32) float32 {
	if a, ok := n.Attrs[name]; ok && a.Kind == AttrFloat {
		return a.Float
	}
	return def
}

// Str is a string attribute, or the default.
func (n *Node) Str(name, def string) string {
	if a, ok := n.Attrs[name]; ok && a.Kind == AttrString {
		return a.String
	}
	return def
}

// Ints is a list attribute, or nil.
func (n *Node) Ints(name string) []int { // dimensions and axes, which fit an int
	a, ok := n.Attrs[name]
	if !ok || a.Kind != AttrInts {
		return nil
	}
	out := make([]int, len(a.Ints))
	for i, v := range a.Ints {
		out[i] = int(v)
	}
	return out
}

// Has reports whether the node has an attribute.
func (n *Node) Has(name string) bool { _, ok := n.Attrs[name]; return ok }

// Input is input i, or nil when it is left out.
func (n *Node) Input(i int) *Value {
	if i < len(n.In) {
		return n.In[i]
	}
	return nil
}

// Output is output i, or nil when nobody wants it.
func (n *Node) Output(i int) *Value {
	if i < len(n.Out) {
		return n.Out[i]
	}
	return nil
}

// Graphs are the subgraphs of the node, by attribute name in sorted order.
func (n *Node) Graphs() []*Graph {
	var out []*Graph
	for _, name := range sortedKeys(n.Attrs) {
		a := n.Attrs[name]
		if a.Graph != nil {
			out = append(out, a.Graph)
		}
		out = append(out, a.Graphs...)
	}
	return out
}

// Known is the shape without names when every dimension is known.
func (s *Shape) Known() ([]int, bool) {
	if s == nil {
		return nil, false
	}
	out := make([]int, len(*s))
	for i, d := range *s {
		if d.Size < 0 {
			return nil, false
		}
		out[i] = d.Size
	}
	return out, true
}

// Fixed is the shape of known dimensions.
func Fixed(dims ...int) *Shape {
	s := make(Shape, len(dims))
	for i, d := range dims {
		s[i] = Dim{Size: d}
	}
	return &s
}

// Reasons of Check.
var (
	ErrCycle  = errors.New("the graph has a cycle, or reads a value before it is produced")
	ErrTwice  = errors.New("two nodes produce one value")
	ErrNobody = errors.New("nobody produces the value")
)

// Check verifies what must hold between passes: values are produced once and before they are read.
func (g *Graph) Check() error { return g.check(map[*Value]bool{}) }

func (g *Graph) check(seen map[*Value]bool) error {
	own := make([]*Value, 0, len(g.Inputs))
	produce := func(v *Value) error {
		if seen[v] {
			return fmt.Errorf("%w: %s", ErrTwice, v.Name)
		}
		seen[v] = true
		own = append(own, v)
		return nil
	}
	for _, v := range g.Inputs {
		if err := produce(v); err != nil {
			return err
		}
	}
	for _, n := range g.Nodes {
		for _, v := range n.In {
			if v != nil && v.Const == nil && !seen[v] {
				return fmt.Errorf("%w: %s, input of %s", ErrCycle, v.Name, n.Label())
			}
		}
		for _, sub := range n.Graphs() {
			if err := sub.check(seen); err != nil {
				return fmt.Errorf("in %s: %w", n.Label(), err)
			}
		}
		for _, v := range n.Out {
			if v == nil {
				continue
			}
			if err := produce(v); err != nil {
				return err
			}
		}
	}
	for _, v := range g.Outputs {
		if v.Const == nil && !seen[v] {
			return fmt.Errorf("%w: %s, an output", ErrNobody, v.Name)
		}
	}
	for _, v := range own {
		delete(seen, v) // names of a subgraph are not seen outside
	}
	return nil
}

// Label is what people call the node: its operator, and its name where it has one.
func (n *Node) Label() string {
	switch {
	case n.Name != "":
		return n.Op + " " + n.Name
	case len(n.Out) > 0 && n.Out[0] != nil:
		return n.Op + " that makes " + n.Out[0].Name
	}
	return n.Op
}
