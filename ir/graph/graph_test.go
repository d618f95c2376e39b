package graph

import (
	"errors"
	"slices"
	"testing"
)

// chain is x -> Relu -> If(both branches read r and the constant k) -> y.
func chain() (g *Graph, x, r, k, y *Value) {
	x, r, y = &Value{Name: "x", Type: Float32, Shape: Fixed(2)}, &Value{Name: "r"}, &Value{Name: "y"}
	k = &Value{Name: "k", Const: From(Float32, []float32{1, 2}, 2)}
	branch := func(op string) *Graph {
		out := &Value{Name: op}
		return &Graph{Nodes: []*Node{{Op: op, In: []*Value{r, k}, Out: []*Value{out}}}, Outputs: []*Value{out}}
	}
	c := &Value{Name: "c", Const: From(Bool, []bool{true})}
	g = &Graph{
		Inputs: []*Value{x}, Outputs: []*Value{y}, Opset: map[string]int{"": 13},
		Nodes: []*Node{
			{Op: "Relu", In: []*Value{x}, Out: []*Value{r}},
			{Op: "If", In: []*Value{c}, Out: []*Value{y}, Attrs: map[string]Attr{
				"then_branch": {Kind: AttrGraph, Graph: branch("Add")}, "else_branch": {Kind: AttrGraph, Graph: branch("Sub")},
			}},
		},
	}
	return g, x, r, k, y
}

func TestCheck(t *testing.T) {
	g, _, _, _, _ := chain()
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(g *Graph, x, r *Value)
		want  error
	}{
		"read before it is made": {func(g *Graph, _, _ *Value) { slices.Reverse(g.Nodes) }, ErrCycle},
		"made twice":             {func(g *Graph, x, _ *Value) { g.Nodes[0].Out[0] = x }, ErrTwice},
		"output of nobody":       {func(g *Graph, _, _ *Value) { g.Outputs[0] = &Value{Name: "z"} }, ErrNobody},
		"a subgraph reads what nobody makes": {func(g *Graph, _, _ *Value) {
			g.Nodes[1].Attrs["then_branch"].Graph.Nodes[0].In[0] = &Value{Name: "z"}
		}, ErrCycle},
		"a branch reads the other's value": {func(g *Graph, _, _ *Value) {
			a, b := g.Nodes[1].Attrs["then_branch"].Graph, g.Nodes[1].Attrs["else_branch"].Graph
			a.Nodes[0].In[0] = b.Outputs[0]
			b.Nodes[0].In[0] = a.Outputs[0]
		}, ErrCycle},
	} {
		g, x, r, _, _ := chain()
		c.spoil(g, x, r)
		if err := g.Check(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestIndex(t *testing.T) {
	g, x, r, k, y := chain()
	i := NewIndex(g)
	if i.Producer[r] != g.Nodes[0] || i.Producer[y] != g.Nodes[1] || i.Producer[x] != nil {
		t.Error("producers")
	}
	if got := i.Readers[r]; len(got) != 2 || got[0] != g.Nodes[1] || got[1] != g.Nodes[1] {
		t.Errorf("r is read by %v, want twice by the If, whose branches do", got)
	}
	if i.Only(x) != g.Nodes[0] || i.Only(r) != nil || i.Only(y) != nil {
		t.Error("single readers")
	}
	if got := g.Constants(); len(got) != 2 || got[1] != k {
		t.Errorf("constants %v", got)
	}
	g.Replace(r, x)
	if i := NewIndex(g); len(i.Readers[x]) != 3 || len(i.Readers[r]) != 0 {
		t.Error("branches still read what was replaced")
	}
}

// A clone has the same structure and shares no node, value or shape with the original.
func TestClone(t *testing.T) {
	g, x, r, k, _ := chain()
	c, values := g.Clone()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	if c.Inputs[0] != values[x] || c.Inputs[0] == x || values[k].Const != k.Const || values[k] == k {
		t.Error("values")
	}
	sub := c.Nodes[1].Attrs["else_branch"].Graph
	if sub == g.Nodes[1].Attrs["else_branch"].Graph || sub.Nodes[0].In[0] != values[r] || sub.Nodes[0].In[1] != values[k] {
		t.Error("a branch of the clone reads values of the original")
	}
	c.Opset[""], (*c.Inputs[0].Shape)[0].Size = 21, 7
	c.Nodes[1].Attrs["x"] = Attr{}
	c.Replace(values[r], values[x])
	if g.Opset[""] != 13 || (*x.Shape)[0].Size != 2 || len(g.Nodes[1].Attrs) != 2 || g.Nodes[1].Attrs["then_branch"].Graph.Nodes[0].In[0] != r {
		t.Error("a change of the clone shows in the original")
	}
}

// Sizes of packed elements and the limits of shapes.
func TestTensor(t *testing.T) {
	for _, c := range []struct {
		typ  DType
		n    int
		want int
	}{{Float32, 3, 12}, {Int4, 3, 2}, {Uint4, 4, 2}, {Uint2, 5, 2}, {Int2, 4, 1}, {Bool, 3, 3}, {Complex128, 1, 16}, {String, 9, 0}, {F8E8M0, 2, 2}} {
		if got := c.typ.Bytes(c.n); got != c.want {
			t.Errorf("%d of %s: %d bytes, want %d", c.n, c.typ, got, c.want)
		}
	}
	for typ := Float32; typ <= Complex128; typ++ {
		if n := typ.Bytes(MaxElems); typ != String && n < MaxElems/4 {
			t.Errorf("%d of %s: %d bytes", MaxElems, typ, n)
		}
	}
	for _, s := range [][]int{{-1}, {1 << 40, 1 << 40}, {MaxElems, 2}, {2, -3, 0}} {
		if CheckShape(s) == nil {
			t.Errorf("shape %v was taken", s)
		}
	}
	for _, s := range [][]int{nil, {0}, {0, 1 << 62}, {3, 4}} {
		if err := CheckShape(s); err != nil {
			t.Error(err)
		}
	}
	b := append([]byte{0}, From(Int64, []int64{-5, 1 << 40}, 2).Data...)
	x := &Tensor{Type: Int64, Shape: []int{2}, Data: b[1:]} // aligned for nothing
	if got, err := x.Ints(); err != nil || !slices.Equal(got, []int64{-5, 1 << 40}) {
		t.Error(got, err)
	}
	if _, err := New(Float32, 2).Ints(); err == nil {
		t.Error("floats were taken for integers")
	}
	if !slices.Equal(Of[float32](New(Float32, 2, 2)), make([]float32, 4)) || len(New(String, 3).Strings) != 3 {
		t.Error("new tensors")
	}
}
