package eval

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// partsVersion is the operator set of ai.onnx to which the parts of an operator belong.
const partsVersion = 23

// ownDomain has operators that only parts are made of: no file can name them.
const ownDomain = "pare"

// parts is what a node means in terms of other operators. It is taken apart when a graph is compiled, so that its
// parts are planned, joined and laid out as if the file had them.
type parts struct {
	*graph.Node
	list []onePart
}

type onePart struct {
	*graph.Node
	version int
}

// settings are attributes of a part: integers, floats, strings, lists of integers.
type settings map[string]any

func (a settings) list() map[string]graph.Attr {
	out := map[string]graph.Attr{}
	for name, v := range a {
		switch v := v.(type) {
		case int:
			out[name] = graph.Attr{Kind: graph.AttrInt, Int: int64(v)}
		case float32:
			out[name] = graph.Attr{Kind: graph.AttrFloat, Float: v}
		case string:
			out[name] = graph.Attr{Kind: graph.AttrString, String: v}
		case []int:
			list := make([]int64, len(v))
			for i, n := range v {
				list[i] = int64(n)
			}
			out[name] = graph.Attr{Kind: graph.AttrInts, Ints: list}
		default:
			panic(fmt.Sprintf("eval: attribute %s of type %T", name, v))
		}
	}
	return out
}

// passed are attributes of the node itself, for a part that has the same.
func (p *parts) passed(names ...string) map[string]graph.Attr {
	out := map[string]graph.Attr{}
	for _, name := range names {
		if a, ok := p.Attrs[name]; ok {
			out[name] = a
		}
	}
	return out
}

// needs fails when one of the inputs is left out.
func (p *parts) needs(inputs ...int) error {
	for _, i := range inputs {
		if p.Input(i) == nil {
			return fmt.Errorf("input %d is missing", i)
		}
	}
	return nil
}

// made adds a part with so many outputs.
func (p *parts) made(dom, op string, version, outs int, a map[string]graph.Attr, in ...*graph.Value) []*graph.Value {
	n := &graph.Node{Name: p.Name, Domain: dom, Op: op, Attrs: a, In: in}
	for len(n.In) > 0 && n.In[len(n.In)-1] == nil {
		n.In = n.In[:len(n.In)-1]
	}
	for i := range outs {
		n.Out = append(n.Out, &graph.Value{Name: fmt.Sprintf("%s.%d.%d", p.Label(), len(p.list), i)})
	}
	p.list = append(p.list, onePart{n, version})
	return n.Out
}

// op adds a part of ai.onnx with one output.
func (p *parts) op(name string, a settings, in ...*graph.Value) *graph.Value {
	return p.made("", name, partsVersion, 1, a.list(), in...)[0]
}

// own adds a part that no file has.
func (p *parts) own(name string, a settings, in ...*graph.Value) *graph.Value {
	return p.made(ownDomain, name, 1, 1, a.list(), in...)[0]
}

// result makes a value an output of the node. It costs nothing when it runs.
func (p *parts) result(i int, v *graph.Value) {
	if to := p.Output(i); to != nil {
		n := &graph.Node{Name: p.Name, Op: "Identity", In: []*graph.Value{v}, Out: []*graph.Value{to}}
		p.list = append(p.list, onePart{n, partsVersion})
	}
}

// constInts is a constant list.
func constInts(list ...int64) *graph.Value {
	return &graph.Value{Const: graph.From(graph.Int64, list, len(list))}
}

// constFloat is a constant.
func constFloat(v float32) *graph.Value {
	return &graph.Value{Const: graph.From(graph.Float32, []float32{v})}
}

func init() {
	register(Op{Domain: ownDomain, Name: "Turn", Unpack: true, Plan: planTurn})
	register(Op{Domain: ownDomain, Name: "Scale", Narrow: true, Plan: byFloat(planScale[float32], planScale[float64])})
}

// planTurn is a Transpose that knows by itself how many dimensions there are: "rows" and columns change places, or
// channels become "first" or "last".
func planTurn(c *Call) (Step, error) {
	rank := len(c.Shape(0))
	perm := make([]int64, rank)
	for i := range perm {
		perm[i] = int64(i)
	}
	how := c.Node.Str("how", "")
	switch {
	case rank < 2:
		return Step{}, c.Fault("shape %v has no %s to turn", c.Shape(0), how)
	case how == "rows":
		perm[rank-2], perm[rank-1] = perm[rank-1], perm[rank-2]
	case how == "first":
		perm = slices.Insert(perm[:rank-1], 1, int64(rank-1))
	default:
		perm = append(slices.Delete(perm, 1, 2), 1)
	}
	inner := *c
	inner.Node = &graph.Node{Name: c.Node.Name, Op: c.Node.Op, In: c.Node.In, Out: c.Node.Out, Attrs: map[string]graph.Attr{"perm": {Kind: graph.AttrInts, Ints: perm}}}
	return planTranspose(&inner)
}

// planScale multiplies with a number that is an attribute, whatever the type of the elements.
func planScale[T float](c *Call) (Step, error) {
	by := T(c.Node.Float("by", 1))
	return Step{Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, InPlace: []int{0}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		x, y := elems[T](in[0]), elems[T](out[0])
		w.Range(len(x), 1, func(lo, hi int) {
			for i, v := range x[lo:hi] {
				y[lo+i] = v * by
			}
		})
		return nil
	}}, nil
}
