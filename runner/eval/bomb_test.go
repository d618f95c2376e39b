package eval

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// A few bytes that ask for more than the machine has are refused, when they are run and when constants are
// computed ahead, without a limit that anybody gave.
func TestBombs(t *testing.T) {
	number := func(x ...int64) *graph.Tensor { return graph.From(graph.Int64, x, len(x)) }
	scalar := func(x int64) *graph.Tensor { return graph.From(graph.Int64, []int64{x}) }
	for name, c := range map[string]struct {
		op string
		in []*graph.Tensor
	}{
		"ConstantOfShape": {"ConstantOfShape", []*graph.Tensor{number(1<<20, 1<<20)}},
		"Range":           {"Range", []*graph.Tensor{scalar(0), scalar(1 << 40), scalar(1)}},
		"Tile":            {"Tile", []*graph.Tensor{number(1, 2), number(1 << 40)}},
		"Expand":          {"Expand", []*graph.Tensor{number(7), number(1 << 40)}},
		"Pad":             {"Pad", []*graph.Tensor{number(7), number(0, 1<<40)}},
	} {
		n := &graph.Node{Op: c.op, Out: []*graph.Value{{Name: "y"}}}
		opset := map[string]int{"": 17}
		if _, err := (&Network{}).Evaluate(n, opset, c.in); !errors.Is(err, fault.ErrBudget) {
			t.Errorf("%s ahead: %v", name, err)
		}
		for i, x := range c.in {
			n.In = append(n.In, &graph.Value{Name: string(rune('a' + i)), Type: x.Type, Shape: graph.Fixed(x.Shape...), Const: x})
		}
		p, err := Compile(&graph.Graph{Nodes: []*graph.Node{n}, Outputs: n.Out, Opset: opset}, Options{Threads: 1})
		if err == nil {
			_, err = p.Run(t.Context())
		}
		if !errors.Is(err, fault.ErrBudget) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// whole is a constant of whole numbers.
func whole(name string, x ...int64) *graph.Value {
	t := graph.From(graph.Int64, x, len(x))
	return &graph.Value{Name: name, Type: t.Type, Shape: graph.Fixed(t.Shape...), Const: t}
}

// alone is a constant without dimensions.
func alone(name string, t *graph.Tensor) *graph.Value {
	t.Shape = []int{}
	return &graph.Value{Name: name, Type: t.Type, Shape: graph.Fixed(), Const: t}
}

func nodeOf(op string, out *graph.Value, in ...*graph.Value) *graph.Node {
	return &graph.Node{Op: op, In: in, Out: []*graph.Value{out}, Attrs: map[string]graph.Attr{}}
}

// turns is a Loop whose body makes, by body, what is carried on and what is kept, of a megabyte that is carried.
func turns(trips int64, body func(carried *graph.Value) (nodes []*graph.Node, next, kept *graph.Value)) *graph.Graph {
	float := func(name string) *graph.Value {
		return &graph.Value{Name: name, Type: graph.Float32, Shape: graph.Fixed(1 << 18)}
	}
	i := &graph.Value{Name: "i", Type: graph.Int64, Shape: graph.Fixed()}
	cond, go1 := &graph.Value{Name: "c", Type: graph.Bool, Shape: graph.Fixed()}, &graph.Value{Name: "go"}
	carried := float("v")
	nodes, next, kept := body(carried)
	sub := &graph.Graph{Inputs: []*graph.Value{i, cond, carried}, Nodes: append(nodes, nodeOf("Identity", go1, cond)), Outputs: []*graph.Value{go1, next}}
	x, last := float("x"), &graph.Value{Name: "last"}
	loop := nodeOf("Loop", last, alone("n", graph.From(graph.Int64, []int64{trips}, 1)), nil, x)
	loop.Attrs["body"] = graph.Attr{Kind: graph.AttrGraph, Graph: sub}
	g := &graph.Graph{Inputs: []*graph.Value{x}, Nodes: []*graph.Node{loop}, Outputs: []*graph.Value{last}, Opset: map[string]int{"": 17}}
	if kept != nil {
		sub.Outputs = append(sub.Outputs, kept)
		all := &graph.Value{Name: "all"}
		loop.Out, g.Outputs = append(loop.Out, all), append(g.Outputs, all)
	}
	return g
}

// Values that fit each are refused where all of them together do not, whoever makes them; what is only made and
// forgotten again costs nothing.
func TestMemoryOfMany(t *testing.T) {
	const limit = 16 << 20
	many := func(g *graph.Graph, n int, node func(i int, out *graph.Value) *graph.Node) *graph.Graph {
		g.Opset = map[string]int{"": 17}
		for i := range n {
			v := &graph.Value{Name: "y" + string(rune('A'+i))}
			g.Nodes, g.Outputs = append(g.Nodes, node(i, v)), append(g.Outputs, v)
		}
		return g
	}
	shape := &graph.Value{Name: "shape", Type: graph.Int64, Shape: graph.Fixed(1)}
	neg := func(v *graph.Value) ([]*graph.Node, *graph.Value, *graph.Value) {
		next := &graph.Value{Name: "next"}
		return []*graph.Node{nodeOf("Neg", next, v)}, next, nil
	}
	xs := []*graph.Tensor{graph.New(graph.Float32, 1<<18)}
	for name, c := range map[string]struct {
		g    *graph.Graph
		in   []*graph.Tensor
		fits bool
	}{
		"constants computed ahead": {g: many(&graph.Graph{}, 40, func(i int, out *graph.Value) *graph.Node {
			return nodeOf("ConstantOfShape", out, whole("s", 1<<18))
		})},
		"constants of texts": {g: many(&graph.Graph{Inputs: []*graph.Value{{Name: "t", Type: graph.String, Shape: graph.Fixed(1)}}}, 40, func(i int, out *graph.Value) *graph.Node {
			return nodeOf("Expand", out, &graph.Value{Name: "t"}, whole("s", 1<<16))
		}), in: []*graph.Tensor{{Type: graph.String, Shape: []int{1}, Strings: []string{"a"}}}},
		"what a run makes": {g: many(&graph.Graph{Inputs: []*graph.Value{shape}}, 40, func(i int, out *graph.Value) *graph.Node {
			return nodeOf("ConstantOfShape", out, shape)
		}), in: []*graph.Tensor{graph.From(graph.Int64, []int64{1 << 18}, 1)}},
		"what a loop keeps": {g: turns(40, func(v *graph.Value) ([]*graph.Node, *graph.Value, *graph.Value) {
			nodes, next, _ := neg(v)
			return nodes, next, next
		}), in: xs},
		"a value that a loop doubles": {g: turns(40, func(v *graph.Value) ([]*graph.Node, *graph.Value, *graph.Value) {
			next := &graph.Value{Name: "next"}
			n := nodeOf("Concat", next, v, v)
			n.Attrs["axis"] = graph.Attr{Kind: graph.AttrInt}
			return []*graph.Node{n}, next, nil
		}), in: xs},
		"a loop that forgets": {g: turns(400, neg), in: xs, fits: true},
		"a scan": {g: func() *graph.Graph {
			e, twice, made := &graph.Value{Name: "e", Type: graph.Float32, Shape: graph.Fixed(4)}, &graph.Value{Name: "twice"}, &graph.Value{Name: "made"}
			n := nodeOf("Scan", made, &graph.Value{Name: "rows", Type: graph.Float32, Shape: graph.Fixed(1<<10, 4)})
			n.Attrs["num_scan_inputs"] = graph.Attr{Kind: graph.AttrInt, Int: 1}
			n.Attrs["body"] = graph.Attr{Kind: graph.AttrGraph, Graph: &graph.Graph{
				Inputs: []*graph.Value{e}, Outputs: []*graph.Value{twice}, Nodes: []*graph.Node{nodeOf("Tile", twice, e, whole("k", 1<<13))},
			}}
			return &graph.Graph{Inputs: n.In, Nodes: []*graph.Node{n}, Outputs: n.Out, Opset: map[string]int{"": 17}}
		}(), in: []*graph.Tensor{graph.New(graph.Float32, 1<<10, 4)}},
	} {
		if name == "constants of texts" { // one input, read by all
			for _, n := range c.g.Nodes {
				n.In[0] = c.g.Inputs[0]
			}
		}
		p, err := Compile(c.g, Options{Threads: 1, Memory: limit})
		for i := 0; err == nil && i < 3; i++ { // a second run begins with nothing
			var in []Value
			for _, x := range c.in {
				in = append(in, Of(x))
			}
			_, err = p.Run(t.Context(), in...)
		}
		if c.fits && err != nil || !c.fits && !errors.Is(err, fault.ErrBudget) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Plans for many shapes, of which old ones are forgotten, do not add up.
func TestMemoryOfPlans(t *testing.T) {
	x, y := &graph.Value{Name: "x", Type: graph.Float32, Shape: &graph.Shape{{Size: -1}}}, &graph.Value{Name: "y"}
	s, k := &graph.Value{Name: "s"}, &graph.Value{Name: "k"}
	g := &graph.Graph{
		Inputs: []*graph.Value{x}, Outputs: []*graph.Value{y}, Opset: map[string]int{"": 17},
		Nodes: []*graph.Node{nodeOf("Shape", s, x), nodeOf("ConstantOfShape", k, s), nodeOf("Add", y, x, k)},
	}
	p, err := Compile(g, Options{Threads: 1, Memory: 24 << 20})
	for i := 0; err == nil && i < 100; i++ {
		_, err = p.Run(t.Context(), Of(graph.New(graph.Float32, 1<<18+i)))
	}
	if err != nil {
		t.Error(err)
	}
}

// A loop whose body does nothing ends when its context does.
func TestLoopOfNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	g := turns(1<<62, func(v *graph.Value) ([]*graph.Node, *graph.Value, *graph.Value) { return nil, v, nil })
	sub := g.Nodes[0].Attrs["body"].Graph
	sub.Nodes, sub.Outputs[0] = nil, sub.Inputs[1]
	p, err := Compile(g, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(ctx, Of(graph.New(graph.Float32, 1<<18))); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
