package lower

import (
	"fmt"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// builder puts a graph together.
type builder struct {
	m      *ir.Model
	e      *ir.Encoder
	g      *graph.Graph
	opset  int
	scope  string // before the names of nodes
	shared map[string]*graph.Value
}

// attrs are attributes as Go has them: int, string, []int64, float32.
type attrs map[string]any

func (a attrs) of() map[string]graph.Attr {
	out := map[string]graph.Attr{}
	for name, v := range a {
		switch v := v.(type) {
		case int:
			out[name] = graph.Attr{Kind: graph.AttrInt, Int: int64(v)}
		case string:
			out[name] = graph.Attr{Kind: graph.AttrString, String: v}
		case []int64:
			out[name] = graph.Attr{Kind: graph.AttrInts, Ints: v}
		case float32:
			out[name] = graph.Attr{Kind: graph.AttrFloat, Float: v}
		default:
			panic(fmt.Sprintf("lower: attribute %s is a %T", name, v))
		}
	}
	return out
}

// input declares an input of token ids, or of what belongs to them.
func (b *builder) input(name string) *graph.Value {
	v := &graph.Value{Name: name, Type: graph.Int64, Shape: &graph.Shape{{Size: -1, Name: "batch"}, {Size: -1, Name: "sequence"}}}
	b.g.Inputs = append(b.g.Inputs, v)
	return v
}

// output gives a value, which no node has named yet, the name of an output.
func (b *builder) output(v *graph.Value, name string, dims ...graph.Dim) {
	shape := graph.Shape(dims)
	v.Name, v.Type, v.Shape = name, graph.Float32, &shape
	b.g.Outputs = append(b.g.Outputs, v)
}

// node appends an operator of one output.
func (b *builder) node(name, op string, a attrs, in ...*graph.Value) *graph.Value {
	name = b.scope + "." + name
	out := &graph.Value{Name: name}
	b.g.Nodes = append(b.g.Nodes, &graph.Node{Name: name, Op: op, In: in, Out: []*graph.Value{out}, Attrs: a.of()})
	return out
}

// constant is a small constant that nodes share by its name.
func (b *builder) constant(name string, t *graph.Tensor) *graph.Value {
	if v := b.shared[name]; v != nil {
		return v
	}
	v := &graph.Value{Name: name, Type: t.Type, Shape: graph.Fixed(t.Shape...), Const: t}
	b.shared[name] = v
	return v
}

func (b *builder) ints(name string, list ...int64) *graph.Value {
	return b.constant(name, graph.From(graph.Int64, list, len(list)))
}

func (b *builder) number(name string, x float32) *graph.Value {
	return b.constant(name, graph.From(graph.Float32, []float32{x})) // a scalar
}

// rows is a vector, or rows lo and following of a table.
func (b *builder) rows(r ir.Role, lo int) *graph.Value { return b.weight(r, -1, lo, false) }

// weight is the constant of a role; Check has found that there is one.
func (b *builder) weight(r ir.Role, block, lo int, turn bool) *graph.Value {
	t := b.m.Role(r, block)
	if turn {
		return b.constant(t.Name, turned(t))
	}
	return b.constant(t.Name, weight(t, lo))
}

// dense is x w^T + bias.
func (b *builder) dense(name string, x *graph.Value, l int, w, bias ir.Role) *graph.Value {
	y := b.node(name+".product", "MatMul", nil, x, b.weight(w, l, 0, true))
	return b.node(name, "Add", nil, y, b.weight(bias, l, 0, false))
}

// norm normalises the last dimension.
func (b *builder) norm(name string, x *graph.Value, l int, gain, bias ir.Role) *graph.Value {
	return b.node(name, "LayerNormalization", attrs{"axis": -1, "epsilon": b.e.NormEps}, x, b.weight(gain, l, 0, false), b.weight(bias, l, 0, false))
}

// reduce folds an axis, which is an attribute before a version of the operator set and an input since.
func (b *builder) reduce(name, op string, since int, x *graph.Value, axis int64, keep bool) *graph.Value {
	a := attrs{"keepdims": 0}
	if keep {
		a["keepdims"] = 1
	}
	if b.opset < since {
		a["axes"] = []int64{axis}
		return b.node(name, op, a, x)
	}
	return b.node(name, op, a, x, b.ints(fmt.Sprintf("axis_%d", axis), axis))
}
