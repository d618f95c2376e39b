package eval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir/graph"
)

// node adds a node to a graph and returns its first output.
func addNode(g *graph.Graph, op string, attrs map[string]graph.Attr, outs int, in ...*graph.Value) []*graph.Value {
	n := &graph.Node{Op: op, In: in, Attrs: attrs, Name: fmt.Sprintf("n%d", len(g.Nodes))}
	for i := range outs {
		n.Out = append(n.Out, &graph.Value{Name: fmt.Sprintf("%s.%d", n.Name, i)})
	}
	g.Nodes = append(g.Nodes, n)
	return n.Out
}

func newGraph(inputs ...*graph.Value) *graph.Graph {
	return &graph.Graph{Inputs: inputs, Opset: map[string]int{"": 21}}
}

func input(name string, typ graph.DType, shape ...int) *graph.Value {
	return &graph.Value{Name: name, Type: typ, Shape: graph.Fixed(shape...)}
}

func constant(t *graph.Tensor) *graph.Value { return &graph.Value{Name: "c", Const: t} }

func intAttr(v int64) graph.Attr { return graph.Attr{Kind: graph.AttrInt, Int: v} }

// Random graphs of elementwise operators, views and reversals give what the same functions give on plain slices:
// no value is overwritten before its last reader, whatever shares memory with it.
func TestArena(t *testing.T) {
	const n = 48
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 60 {
		x := input("x", graph.Float32, n)
		g := newGraph(x)
		type held struct {
			v    *graph.Value
			want []float32
		}
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(random.IntN(17) - 8)
		}
		all := []held{{x, data}}
		for range 3 + random.IntN(30) {
			a, b := all[random.IntN(len(all))], all[random.IntN(len(all))]
			want := make([]float32, n)
			var v *graph.Value
			switch random.IntN(6) {
			case 0:
				v = addNode(g, "Add", nil, 1, a.v, b.v)[0]
				for i := range want {
					want[i] = a.want[i] + b.want[i]
				}
			case 1:
				v = addNode(g, "Sub", nil, 1, a.v, b.v)[0]
				for i := range want {
					want[i] = a.want[i] - b.want[i]
				}
			case 2:
				v = addNode(g, "Relu", nil, 1, a.v)[0]
				for i := range want {
					want[i] = max(a.want[i], 0)
				}
			case 3: // two views of one value
				r := addNode(g, "Reshape", nil, 1, a.v, constant(graph.From(graph.Int64, []int64{6, 8}, 2)))[0]
				v = addNode(g, "Flatten", map[string]graph.Attr{"axis": intAttr(0)}, 1, r)[0]
				v = addNode(g, "Squeeze", nil, 1, v)[0]
				copy(want, a.want)
			case 4:
				list := func(v int64) *graph.Value { return constant(graph.From(graph.Int64, []int64{v}, 1)) }
				v = addNode(g, "Slice", nil, 1, a.v, list(-1), list(math.MinInt64), list(0), list(-1))[0]
				for i := range want {
					want[i] = a.want[n-1-i]
				}
			case 5:
				parts := addNode(g, "Split", nil, 2, a.v)
				v = addNode(g, "Concat", map[string]graph.Attr{"axis": intAttr(0)}, 1, parts[1], parts[0])[0]
				copy(want, a.want[n/2:])
				copy(want[n/2:], a.want[:n/2])
			}
			all = append(all, held{v, want})
		}
		outs := []held{all[len(all)-1], all[random.IntN(len(all))], all[random.IntN(len(all))]}
		for _, o := range outs {
			g.Outputs = append(g.Outputs, o.v)
		}
		p, err := Compile(g, Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		for run := range 2 {
			got, err := p.Run(context.Background(), Of(graph.From(graph.Float32, slices.Clone(data), n)))
			if err != nil {
				t.Fatal(err)
			}
			for i, o := range outs {
				if !slices.Equal(graph.Of[float32](got[i].Tensor), o.want) {
					t.Fatalf("graph %d, run %d, output %d: %v, want %v", round, run, i, graph.Of[float32](got[i].Tensor), o.want)
				}
			}
		}
		if most := (len(g.Nodes) + 1) * 256; p.Arena() > most {
			t.Errorf("graph %d: an arena of %d for values of %d", round, p.Arena(), most)
		}
	}
}

// A chain needs the memory of one value, however long it is, and twice that where every step reads and writes
// different places.
func TestArenaOfChains(t *testing.T) {
	for _, c := range []struct {
		op   string
		want int
	}{{"Relu", 4096}, {"Transpose", 2 * 4096}} {
		g := newGraph(input("x", graph.Float32, 16, 64))
		v := g.Inputs[0]
		for range 10 {
			v = addNode(g, c.op, nil, 1, v)[0]
		}
		g.Outputs = []*graph.Value{v}
		p, err := Compile(g, Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Prepare(nil); err != nil {
			t.Fatal(err)
		}
		if p.Arena() != c.want {
			t.Errorf("ten times %s of 4096 bytes: an arena of %d, want %d", c.op, p.Arena(), c.want)
		}
	}
}

// No two buffers that live at the same time overlap.
func TestPlace(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		var list []*buffer
		for range 1 + random.IntN(40) {
			first := random.IntN(50)
			list = append(list, &buffer{size: 64 * (1 + random.IntN(9)), first: first, last: first + random.IntN(20)})
		}
		total := place(list)
		sum := 0
		for i, a := range list {
			sum += a.size
			if a.offset < 0 || a.offset+a.size > total {
				t.Fatalf("%+v of %d", *a, total)
			}
			for _, b := range list[:i] {
				if a.first <= b.last && b.first <= a.last && a.offset < b.offset+b.size && b.offset < a.offset+a.size {
					t.Fatalf("%+v and %+v", *a, *b)
				}
			}
		}
		if total > sum {
			t.Fatalf("%d bytes for %d", total, sum)
		}
	}
}

// network is a small one with everything that is hot in real ones.
func network() *graph.Graph {
	random := rand.New(rand.NewPCG(7, 8))
	weights := func(shape ...int) *graph.Value {
		w := graph.New(graph.Float32, shape...)
		for i := range graph.Of[float32](w) {
			graph.Of[float32](w)[i] = float32(random.NormFloat64()) / 8
		}
		return constant(w)
	}
	x := &graph.Value{Name: "x", Type: graph.Float32, Shape: &graph.Shape{{Size: -1, Name: "n"}, {Size: 3}, {Size: 24}, {Size: 24}}}
	g := newGraph(x)
	pads := map[string]graph.Attr{"pads": {Kind: graph.AttrInts, Ints: []int64{1, 1, 1, 1}}}
	v := addNode(g, "Conv", pads, 1, x, weights(16, 3, 3, 3), weights(16))[0]
	v = addNode(g, "Relu", nil, 1, v)[0]
	w := addNode(g, "Conv", pads, 1, v, weights(16, 16, 3, 3), weights(16))[0]
	v = addNode(g, "Add", nil, 1, v, w)[0]
	v = addNode(g, "MaxPool", map[string]graph.Attr{
		"kernel_shape": {Kind: graph.AttrInts, Ints: []int64{2, 2}}, "strides": {Kind: graph.AttrInts, Ints: []int64{2, 2}},
	}, 1, v)[0]
	shape := addNode(g, "Shape", map[string]graph.Attr{"start": intAttr(0), "end": intAttr(1)}, 1, v)[0]
	all := addNode(g, "Concat", map[string]graph.Attr{"axis": intAttr(0)}, 1, shape, constant(graph.From(graph.Int64, []int64{-1}, 1)))[0]
	v = addNode(g, "Reshape", nil, 1, v, all)[0]
	v = addNode(g, "Gemm", nil, 1, v, weights(16*12*12, 10), weights(10))[0]
	v = addNode(g, "Softmax", nil, 1, v)[0]
	g.Outputs = []*graph.Value{v}
	return g
}

func image(n int) *graph.Tensor {
	t := graph.New(graph.Float32, n, 3, 24, 24)
	for i := range graph.Of[float32](t) {
		graph.Of[float32](t)[i] = float32(i%19)/19 - 0.5
	}
	return t
}

// A run of a program whose shapes are known allocates nothing, unless an operator of it does.
func TestNoAllocations(t *testing.T) {
	g := newGraph(input("x", graph.Float32, 1, 3, 24, 24))
	v := addNode(g, "Add", nil, 1, g.Inputs[0], g.Inputs[0])[0]
	v = addNode(g, "Sigmoid", nil, 1, v)[0]
	v = addNode(g, "Transpose", nil, 1, v)[0]
	v = addNode(g, "Reshape", nil, 1, v, constant(graph.From(graph.Int64, []int64{3, -1}, 2)))[0]
	shape := addNode(g, "Shape", nil, 1, v)[0]
	v = addNode(g, "Cast", map[string]graph.Attr{"to": intAttr(int64(graph.Float16))}, 1, v)[0]
	v = addNode(g, "Relu", nil, 1, v)[0]
	v = addNode(g, "Expand", nil, 1, v, shape)[0]
	g.Outputs = addNode(g, "Softmax", nil, 1, v)
	p, err := Compile(g, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, in := context.Background(), Of(image(1))
	run := func() {
		if _, err := p.Run(ctx, in); err != nil {
			t.Fatal(err)
		}
	}
	run()
	if n := testing.AllocsPerRun(10, run); n > 0 {
		t.Errorf("%v allocations a run", n)
	}
}

// The same bytes come out at any number of threads, with goroutines and with a pool, alone and beside others.
func TestThreads(t *testing.T) {
	pool := par.NewPool(2)
	defer pool.Close()
	var want []byte
	for _, opt := range []Options{{Threads: 1}, {Threads: 2}, {Pool: pool}} {
		p, err := Compile(network(), opt)
		if err != nil {
			t.Fatal(err)
		}
		for _, batch := range []int{4, 1, 4} {
			out, err := p.Run(context.Background(), Of(image(batch)))
			if err != nil {
				t.Fatal(err)
			}
			got := out[0].Tensor
			if !slices.Equal(got.Shape, []int{batch, 10}) {
				t.Fatalf("shape %v", got.Shape)
			}
			if want == nil {
				want = slices.Clone(got.Data)
			}
			if !bytes.Equal(got.Data, want[:len(got.Data)]) {
				t.Errorf("%+v, batch %d: other bytes", opt, batch)
			}
			for row := range batch {
				sum := 0.0
				for _, v := range graph.Of[float32](got)[row*10 : row*10+10] {
					sum += float64(v)
				}
				if math.Abs(sum-1) > 1e-5 {
					t.Errorf("probabilities that add up to %v", sum)
				}
			}
		}
	}
}

// Every level of kernels gives the same within rounding.
func TestLevels(t *testing.T) {
	var want []float32
	for _, level := range cpu.Available() {
		p, err := Compile(network(), Options{Threads: 1, ISA: level})
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.Run(context.Background(), Of(image(1)))
		if err != nil {
			t.Fatal(err)
		}
		got := graph.Of[float32](out[0].Tensor)
		if want == nil {
			want = slices.Clone(got)
		}
		for i := range want {
			if math.Abs(float64(got[i]-want[i])) > 1e-5 {
				t.Errorf("%s: %v at %d, portable has %v", level, got[i], i, want[i])
			}
		}
	}
}

// Shapes that follow from values are found anew in every run.
func TestValuesDecideShapes(t *testing.T) {
	x := input("x", graph.Float32, 6)
	g := newGraph(x)
	places := addNode(g, "NonZero", nil, 1, x)[0]
	flat := addNode(g, "Squeeze", nil, 1, places, constant(graph.From(graph.Int64, []int64{0}, 1)))[0]
	v := addNode(g, "Gather", nil, 1, x, flat)[0]
	g.Outputs = []*graph.Value{addNode(g, "Add", nil, 1, v, v)[0]}
	p, err := Compile(g, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ in, want []float32 }{
		{[]float32{0, 1, 0, 2, 0, 3}, []float32{2, 4, 6}},
		{[]float32{4, 0, 0, 5, 0, 6}, []float32{8, 10, 12}}, // the same shapes, other values
		{[]float32{0, 0, 0, 0, 0, 0}, nil},
		{[]float32{1, 1, 1, 1, 1, 1}, []float32{2, 2, 2, 2, 2, 2}},
	} {
		out, err := p.Run(context.Background(), Of(graph.From(graph.Float32, c.in, 6)))
		if err != nil {
			t.Fatal(err)
		}
		if got := graph.Of[float32](out[0].Tensor); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}

// What a loop carries survives its next iteration: Fibonacci numbers, in one swapped pair of values.
func TestLoopCarries(t *testing.T) {
	i, going := input("i", graph.Int64), input("going", graph.Bool)
	a, b := input("a", graph.Int64), input("b", graph.Int64)
	one := input("one", graph.Int64)
	body := newGraph(i, going, a, b)
	sum := addNode(body, "Add", nil, 1, a, b)[0]
	scaled := addNode(body, "Mul", nil, 1, sum, one)[0] // from outside
	body.Outputs = []*graph.Value{going, b, scaled, a}
	g := newGraph(one)
	zero, first := constant(graph.From(graph.Int64, []int64{0})), constant(graph.From(graph.Int64, []int64{1}))
	loop := addNode(g, "Loop", map[string]graph.Attr{"body": {Kind: graph.AttrGraph, Graph: body}}, 3,
		constant(graph.From(graph.Int64, []int64{10})), nil, zero, first)
	g.Outputs = loop
	p, err := Compile(g, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		out, err := p.Run(context.Background(), Of(graph.From(graph.Int64, []int64{1})))
		if err != nil {
			t.Fatal(err)
		}
		if last := graph.Of[int64](out[1].Tensor)[0]; last != 89 {
			t.Errorf("the eleventh is %d, want 89", last)
		}
		if list := graph.Of[int64](out[2].Tensor); !slices.Equal(list, []int64{0, 1, 1, 2, 3, 5, 8, 13, 21, 34}) {
			t.Errorf("%v", list)
		}
	}
}

// All operators that are missing are named, those of subgraphs, too.
func TestUnsupported(t *testing.T) {
	g := newGraph(input("x", graph.Float32, 1))
	v := addNode(g, "Frobnicate", nil, 1, g.Inputs[0])[0]
	v = addNode(g, "Frobnicate", nil, 1, v)[0]
	body := newGraph()
	body.Outputs = addNode(body, "Whirl", nil, 1, v)
	cond := constant(graph.From(graph.Bool, []bool{true}))
	branch := graph.Attr{Kind: graph.AttrGraph, Graph: body}
	other := newGraph()
	other.Outputs = []*graph.Value{v}
	g.Outputs = addNode(g, "If", map[string]graph.Attr{"then_branch": branch, "else_branch": {Kind: graph.AttrGraph, Graph: other}}, 1, cond)
	_, err := Compile(g, Options{})
	if !errors.Is(err, ErrOperator) || !errors.Is(err, fault.ErrMisuse) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"Frobnicate of version 21 (2 nodes", "Whirl of version 21 (node Whirl n0)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

// What a caller gives is compared with what the graph declares.
func TestInputs(t *testing.T) {
	p, err := Compile(network(), Options{Threads: 1, Memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		in   []Value
		want error
	}{
		{"nothing", nil, fault.ErrMisuse},
		{"two", []Value{Of(image(1)), Of(image(1))}, fault.ErrMisuse},
		{"another type", []Value{Of(graph.New(graph.Float64, 1, 3, 24, 24))}, fault.ErrMisuse},
		{"another size", []Value{Of(graph.New(graph.Float32, 1, 3, 24, 25))}, fault.ErrMisuse},
		{"another rank", []Value{Of(graph.New(graph.Float32, 3, 24, 24))}, fault.ErrMisuse},
		{"a sequence", []Value{SequenceOf(image(1))}, fault.ErrMisuse},
		{"too much memory", []Value{Of(image(64))}, fault.ErrBudget},
	} {
		if _, err := p.Run(context.Background(), c.in...); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Run(ctx, Of(image(1))); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run: %v", err)
	}
	if _, err := p.RunMap(context.Background(), map[string]*graph.Tensor{"x": image(1), "y": image(1)}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("an input that the graph does not have: %v", err)
	}
}

// Observers see every tensor once, in order, and shape inference tells the same shapes ahead.
func TestObserve(t *testing.T) {
	var names []string
	g := network()
	shapes := map[string][]int{}
	p, err := Compile(g, Options{Threads: 1, Observe: func(v *graph.Value, x *graph.Tensor) error {
		names = append(names, v.Name)
		shapes[v.Name] = slices.Clone(x.Shape)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	specs, err := p.Specs(map[string][]int{"x": {2, 3, 24, 24}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(context.Background(), Of(image(2))); err != nil {
		t.Fatal(err)
	}
	if want := []string{"n0.0", "n1.0", "n2.0", "n3.0", "n4.0", "n7.0", "n8.0", "n9.0"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want) // those of shapes are known before
	}
	for _, n := range g.Nodes {
		if v := n.Out[0]; shapes[v.Name] != nil && !slices.Equal(specs[v].Shape, shapes[v.Name]) {
			t.Errorf("%s: %v ahead, %v in the run", v.Name, specs[v].Shape, shapes[v.Name])
		}
	}
}
