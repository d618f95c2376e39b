package rewrite_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
	"github.com/pare-dev/pare/runner/eval"
)

// net is a network under construction.
type net struct {
	g   *graph.Graph
	rng *rand.Rand
	k   int
}

func newNet(opset int, shapes ...[]int) *net {
	b := &net{g: &graph.Graph{Opset: map[string]int{"": opset}}, rng: rand.New(rand.NewPCG(7, 9))}
	for i, s := range shapes {
		b.g.Inputs = append(b.g.Inputs, &graph.Value{Name: fmt.Sprintf("x%d", i), Type: graph.Float32, Shape: graph.Fixed(s...)})
	}
	return b
}

func (b *net) name(kind string) string { b.k++; return fmt.Sprintf("%s%d", kind, b.k) }

// op adds a node; attributes are name, value, name, value.
func (b *net) op(op string, in []*graph.Value, attrs ...any) *graph.Value {
	n := &graph.Node{Name: b.name(op), Op: op, In: in, Out: []*graph.Value{{Name: b.name("v")}}, Attrs: map[string]graph.Attr{}}
	for i := 0; i < len(attrs); i += 2 {
		a := graph.Attr{}
		switch v := attrs[i+1].(type) {
		case int:
			a = graph.Attr{Kind: graph.AttrInt, Int: int64(v)}
		case float64:
			a = graph.Attr{Kind: graph.AttrFloat, Float: float32(v)}
		case string:
			a = graph.Attr{Kind: graph.AttrString, String: v}
		case []int64:
			a = graph.Attr{Kind: graph.AttrInts, Ints: v}
		case []float32:
			a = graph.Attr{Kind: graph.AttrFloats, Floats: v}
		case *graph.Graph:
			a = graph.Attr{Kind: graph.AttrGraph, Graph: v}
		}
		n.Attrs[attrs[i].(string)] = a
	}
	b.g.Nodes = append(b.g.Nodes, n)
	return n.Out[0]
}

func vals(v ...*graph.Value) []*graph.Value { return v }

// weights are random constants; positive ones for variances.
func (b *net) weights(shape ...int) *graph.Value {
	t := graph.New(graph.Float32, shape...)
	x := graph.Of[float32](t)
	for i := range x {
		x[i] = float32(b.rng.NormFloat64())
	}
	return &graph.Value{Name: b.name("w"), Type: graph.Float32, Const: t}
}

func (b *net) positive(n int) *graph.Value {
	v := b.weights(n)
	for i, x := range graph.Of[float32](v.Const) {
		graph.Of[float32](v.Const)[i] = 0.5 + x*x
	}
	return v
}

func (b *net) floats(shape []int, v ...float32) *graph.Value {
	return &graph.Value{Name: b.name("c"), Type: graph.Float32, Const: graph.From(graph.Float32, v, shape...)}
}

func (b *net) ints(v ...int64) *graph.Value {
	return &graph.Value{Name: b.name("i"), Type: graph.Int64, Const: graph.From(graph.Int64, v, len(v))}
}

func (b *net) batchNorm(x *graph.Value, channels int) *graph.Value {
	return b.op("BatchNormalization", vals(x, b.weights(channels), b.weights(channels), b.weights(channels), b.positive(channels)), "epsilon", 1e-3)
}

func (b *net) out(v ...*graph.Value) *graph.Graph { b.g.Outputs = v; return b.g }

// ops counts the nodes by operator.
func ops(g *graph.Graph) map[string]int {
	m := map[string]int{}
	for _, n := range g.Nodes {
		m[n.Op]++
	}
	return m
}

// inputs are random values for the inputs of a graph.
func inputs(g *graph.Graph) ir.Sample {
	rng := rand.New(rand.NewPCG(3, 5))
	s := ir.Sample{}
	for _, v := range g.Inputs {
		dims, _ := v.Shape.Known()
		t := graph.New(graph.Float32, dims...)
		for i := range graph.Of[float32](t) {
			graph.Of[float32](t)[i] = float32(rng.NormFloat64())
		}
		s[v.Name] = t
	}
	return s
}

// outputs of a graph, by name.
func outputs(t *testing.T, g *graph.Graph, in ir.Sample) map[string]*graph.Tensor {
	t.Helper()
	p, err := eval.Compile(g, eval.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.RunMap(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// same fails when two graphs compute different outputs: 1e-5 of the largest value, which rounding of
// constants made ahead explains.
func same(t *testing.T, before, after *graph.Graph) {
	t.Helper()
	in := inputs(before)
	want, got := outputs(t, before, in), outputs(t, after, in)
	if len(want) != len(got) || len(want) == 0 {
		t.Fatalf("%d outputs, before %d", len(got), len(want))
	}
	for name, w := range want {
		g := got[name]
		if g == nil || !slices.Equal(g.Shape, w.Shape) || g.Type != w.Type {
			t.Fatalf("output %s: %+v, before %v", name, g, w.Shape)
		}
		if w.Type != graph.Float32 {
			if !slices.Equal(g.Data, w.Data) {
				t.Errorf("output %s differs", name)
			}
			continue
		}
		var top, diff float64
		for i, v := range graph.Of[float32](w) {
			top = max(top, math.Abs(float64(v)))
			diff = max(diff, math.Abs(float64(v)-float64(graph.Of[float32](g)[i])))
		}
		if !(diff <= 1e-5*top) || top == 0 {
			t.Errorf("output %s: difference %v of %v", name, diff, top)
		}
	}
}

// prepared infers shapes, as the caller of Simplify does.
func prepared(t *testing.T, g *graph.Graph) {
	t.Helper()
	if err := new(eval.Network).Infer(context.Background(), g); err != nil {
		t.Fatal(err)
	}
}

// Each rule, on a network made for it: the outputs stay, and the nodes that should be gone are.
func TestSimplify(t *testing.T) {
	image := []int{2, 4, 6, 6}
	for name, c := range map[string]struct {
		build func() *graph.Graph
		want  map[string]int // operators that are left
	}{
		"batch normalization and gains into a convolution": {func() *graph.Graph {
			b := newNet(13, image)
			y := b.op("Conv", vals(b.g.Inputs[0], b.weights(8, 2, 3, 3)), "group", 2)
			y = b.batchNorm(y, 8)
			y = b.op("Mul", vals(y, b.weights(8, 1, 1)))
			y = b.op("Add", vals(b.weights(1, 8, 1, 1), y))
			y = b.op("Div", vals(y, b.floats(nil, 1.5)))
			return b.out(b.op("Sub", vals(b.weights(8, 1, 1), y)))
		}, map[string]int{"Conv": 1}},
		"into a transposed convolution with groups": {func() *graph.Graph {
			b := newNet(13, image)
			y := b.op("ConvTranspose", vals(b.g.Inputs[0], b.weights(4, 3, 2, 2), b.weights(6)), "group", 2, "strides", []int64{2, 2})
			return b.out(b.op("Relu", vals(b.batchNorm(y, 6))))
		}, map[string]int{"ConvTranspose": 1, "Relu": 1}},
		"into Gemm, with its factors": {func() *graph.Graph {
			b := newNet(13, []int{3, 5})
			y := b.op("Gemm", vals(b.g.Inputs[0], b.weights(7, 5), b.weights(1, 7)), "transB", 1, "alpha", 0.5, "beta", 2.0)
			y = b.batchNorm(y, 7)
			y = b.op("Gemm", vals(y, b.weights(7, 2)), "alpha", 3.0)
			return b.out(b.op("Add", vals(y, b.weights(2))))
		}, map[string]int{"Gemm": 2}},
		"product and bias become Gemm": {func() *graph.Graph {
			b := newNet(13, []int{3, 5})
			return b.out(b.op("Add", vals(b.op("MatMul", vals(b.g.Inputs[0], b.weights(5, 4))), b.weights(1, 4))))
		}, map[string]int{"Gemm": 1}},
		"a product of stacks takes gains, not biases": {func() *graph.Graph {
			b := newNet(13, []int{2, 3, 5})
			y := b.op("Mul", vals(b.op("MatMul", vals(b.g.Inputs[0], b.weights(5, 4))), b.weights(4)))
			return b.out(b.op("Add", vals(y, b.weights(4))))
		}, map[string]int{"MatMul": 1, "Add": 1}},
		"what is per column is no bias of a convolution": {func() *graph.Graph {
			b := newNet(13, []int{1, 4, 4, 4})
			y := b.op("Conv", vals(b.g.Inputs[0], b.weights(4, 4, 1, 1)))
			return b.out(b.op("Add", vals(y, b.weights(4))))
		}, map[string]int{"Conv": 1, "Add": 1}},
		"a result that is read twice is not folded": {func() *graph.Graph {
			b := newNet(13, image)
			y := b.op("Conv", vals(b.g.Inputs[0], b.weights(4, 4, 1, 1)))
			return b.out(b.batchNorm(y, 4), b.op("Relu", vals(y)))
		}, map[string]int{"Conv": 1, "BatchNormalization": 1, "Relu": 1}},
		"constants and shapes": {func() *graph.Graph {
			b := newNet(13, image)
			k := b.op("Transpose", vals(b.weights(3, 3, 4, 4)), "perm", []int64{3, 2, 0, 1})
			y := b.op("Conv", vals(b.g.Inputs[0], b.op("Mul", vals(k, b.floats(nil, 2)))))
			n := b.op("Gather", vals(b.op("Shape", vals(b.g.Inputs[0])), b.ints(0)))
			return b.out(b.op("Reshape", vals(y, b.op("Concat", vals(n, b.ints(-1)), "axis", 0))))
		}, map[string]int{"Conv": 1, "Reshape": 1}},
		"identities": {func() *graph.Graph {
			b := newNet(13, image)
			y := b.op("Dropout", vals(b.op("Identity", vals(b.g.Inputs[0])), b.floats(nil, 0.5)))
			y = b.op("Cast", vals(y), "to", int(graph.Float32))
			y = b.op("Add", vals(b.op("Mul", vals(y, b.floats([]int{1, 1}, 1))), b.floats(nil, 0)))
			y = b.op("Transpose", vals(b.op("Transpose", vals(y), "perm", []int64{0, 2, 3, 1})), "perm", []int64{0, 3, 1, 2})
			y = b.op("Pad", vals(b.op("Concat", vals(y), "axis", 1), b.ints(0, 0, 0, 0, 0, 0, 0, 0)))
			y = b.op("Slice", vals(y, b.ints(0), b.ints(1<<40), b.ints(2)))
			return b.out(b.op("Identity", vals(b.op("Relu", vals(y)))))
		}, map[string]int{"Relu": 1}},
		"a slice that turns around stays": {func() *graph.Graph {
			b := newNet(13, image)
			return b.out(b.op("Slice", vals(b.g.Inputs[0], b.ints(-1), b.ints(-1<<40), b.ints(2), b.ints(-1))))
		}, map[string]int{"Slice": 1}},
		"chains of shapes": {func() *graph.Graph {
			b := newNet(13, image)
			y := b.op("Reshape", vals(b.op("Flatten", vals(b.g.Inputs[0])), b.ints(2, 2, -1)))
			y = b.op("Reshape", vals(b.op("Unsqueeze", vals(y, b.ints(0))), b.ints(8, -1)))
			return b.out(b.op("Transpose", vals(b.op("Transpose", vals(y), "perm", []int64{1, 0})), "perm", []int64{0, 1}))
		}, map[string]int{"Reshape": 1, "Transpose": 1}},
		"a shape that copies a dimension is not moved": {func() *graph.Graph {
			b := newNet(13, image)
			y := b.op("Reshape", vals(b.g.Inputs[0], b.ints(4, 2, 36)))
			return b.out(b.op("Reshape", vals(y, b.ints(0, -1))))
		}, map[string]int{"Reshape": 2}},
		"duplicates": {func() *graph.Graph {
			b := newNet(13, image)
			x := b.g.Inputs[0]
			k := b.weights(4, 1, 1)
			l := b.op("Sigmoid", vals(b.op("Mul", vals(x, k))))
			r := b.op("Sigmoid", vals(b.op("Mul", vals(x, b.floats([]int{4, 1, 1}, graph.Of[float32](k.Const)...)))))
			return b.out(b.op("Sub", vals(b.op("Exp", vals(l)), r)))
		}, map[string]int{"Mul": 1, "Sigmoid": 1, "Exp": 1, "Sub": 1}},
		"pads": {func() *graph.Graph {
			b := newNet(13, image)
			y := b.op("Conv", vals(b.op("Pad", vals(b.g.Inputs[0], b.ints(0, 0, 1, 2, 0, 0, 0, 1))), b.weights(4, 4, 3, 3)), "pads", []int64{1, 0, 0, 0})
			y = b.op("MaxPool", vals(b.op("Pad", vals(b.op("Relu", vals(y)), b.ints(0, 0, 1, 1, 0, 0, 0, 0)))), "kernel_shape", []int64{2, 2})
			y = b.op("AveragePool", vals(b.op("Pad", vals(y, b.ints(0, 0, 1, 1, 0, 0, 1, 1)))), "kernel_shape", []int64{3, 3}, "count_include_pad", 1)
			return b.out(y)
		}, map[string]int{"Conv": 1, "Relu": 1, "MaxPool": 1, "AveragePool": 1}},
		"pads that a pool would not see as zeros stay": {func() *graph.Graph {
			b := newNet(13, image)
			y := b.op("MaxPool", vals(b.op("Pad", vals(b.g.Inputs[0], b.ints(0, 0, 1, 1, 0, 0, 0, 0)))), "kernel_shape", []int64{2, 2})
			return b.out(b.op("AveragePool", vals(b.op("Pad", vals(y, b.ints(0, 0, 1, 1, 0, 0, 1, 1)))), "kernel_shape", []int64{3, 3}))
		}, map[string]int{"MaxPool": 1, "AveragePool": 1, "Pad": 2}},
		"dead nodes and a known branch": {func() *graph.Graph {
			b := newNet(13, image)
			x := b.g.Inputs[0]
			b.op("Exp", vals(b.op("Sin", vals(x))))
			branch := func(op string) *graph.Graph {
				out := &graph.Value{Name: "in_" + op}
				return &graph.Graph{Nodes: []*graph.Node{{Op: op, In: vals(x), Out: vals(out)}}, Outputs: vals(out)}
			}
			yes := &graph.Value{Name: "yes", Type: graph.Bool, Const: graph.From(graph.Bool, []bool{true})}
			return b.out(b.op("If", vals(yes), "then_branch", branch("Relu"), "else_branch", branch("Neg")))
		}, map[string]int{"Relu": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.build()
			after, _ := before.Clone()
			prepared(t, after)
			net := new(eval.Network)
			changes, err := rewrite.Simplify(context.Background(), after, rewrite.Options{Evaluate: net.Evaluate})
			if err != nil {
				t.Fatal(err)
			}
			if got := ops(after); !maps.Equal(got, c.want) {
				t.Errorf("left %v, want %v (%v)", got, c.want, changes)
			}
			same(t, before, after)
		})
	}
}

// Every operator that changed between operator sets computes the same in the newer one.
func TestUpgrade(t *testing.T) {
	image := []int{2, 4, 6, 6}
	x := func(b *net) *graph.Value { return b.g.Inputs[0] }
	for name, c := range map[string]struct {
		opset int
		build func(b *net) *graph.Value
	}{
		"Clip":          {7, func(b *net) *graph.Value { return b.op("Clip", vals(x(b)), "min", -0.5, "max", 0.7) }},
		"Clip, one end": {10, func(b *net) *graph.Value { return b.op("Clip", vals(x(b)), "max", 0.7) }},
		"Pad": {10, func(b *net) *graph.Value {
			return b.op("Pad", vals(x(b)), "pads", []int64{0, 0, 1, 2, 0, 0, 0, 1}, "value", 0.3)
		}},
		"Slice": {9, func(b *net) *graph.Value {
			return b.op("Slice", vals(x(b)), "starts", []int64{1, 0}, "ends", []int64{5, 3}, "axes", []int64{2, 3})
		}},
		"TopK":    {9, func(b *net) *graph.Value { return b.op("TopK", vals(x(b)), "k", 3, "axis", 1) }},
		"Dropout": {7, func(b *net) *graph.Value { return b.op("Dropout", vals(x(b)), "ratio", 0.4) }},
		"Squeeze": {11, func(b *net) *graph.Value {
			return b.op("Squeeze", vals(b.op("Unsqueeze", vals(x(b)), "axes", []int64{0, 3})), "axes", []int64{0})
		}},
		"ReduceSum":                 {11, func(b *net) *graph.Value { return b.op("ReduceSum", vals(x(b)), "axes", []int64{1, 3}, "keepdims", 0) }},
		"ReduceMean":                {13, func(b *net) *graph.Value { return b.op("ReduceMean", vals(x(b)), "axes", []int64{-1}) }},
		"Softmax over several axes": {11, func(b *net) *graph.Value { return b.op("Softmax", vals(x(b))) }},
		"Softmax over the last":     {11, func(b *net) *graph.Value { return b.op("LogSoftmax", vals(x(b)), "axis", 3) }},
		"Upsample": {8, func(b *net) *graph.Value {
			return b.op("Upsample", vals(x(b)), "scales", []float32{1, 1, 2, 1.5}, "mode", "nearest")
		}},
		"Resize": {10, func(b *net) *graph.Value {
			return b.op("Resize", vals(x(b), b.floats([]int{4}, 1, 1, 2, 2)), "mode", "linear")
		}},
		"nearest":       {10, func(b *net) *graph.Value { return b.op("Resize", vals(x(b), b.floats([]int{4}, 1, 1, 0.5, 1.7))) }},
		"BatchNorm":     {7, func(b *net) *graph.Value { return b.batchNorm(x(b), 4) }},
		"Split, even":   {13, func(b *net) *graph.Value { return b.split(x(b)) }},
		"Split, listed": {11, func(b *net) *graph.Value { return b.split(x(b), "split", []int64{1, 3}) }},
	} {
		for _, to := range []int{13, 17, 21} {
			if to <= c.opset {
				continue
			}
			t.Run(fmt.Sprintf("%s, %d to %d", name, c.opset, to), func(t *testing.T) {
				b := newNet(c.opset, image)
				before := b.out(b.op("Abs", vals(c.build(b))))
				after, _ := before.Clone()
				prepared(t, after)
				if err := rewrite.Upgrade(after, to); err != nil {
					t.Fatal(err)
				}
				if after.Opset[""] != to || before.Opset[""] != c.opset {
					t.Errorf("opsets %v and %v", before.Opset, after.Opset)
				}
				same(t, before, after)
			})
		}
	}
}

func (b *net) split(x *graph.Value, attrs ...any) *graph.Value {
	b.op("Split", vals(x), append(attrs, "axis", 1)...)
	n := b.g.Nodes[len(b.g.Nodes)-1]
	n.Out = append(n.Out, &graph.Value{Name: b.name("v")})
	return b.op("Concat", vals(n.Out[1], n.Out[0]), "axis", 1)
}

// What has no form in the newer set is an error that names the node.
func TestUpgradeRefuses(t *testing.T) {
	for name, build := range map[string]func() *graph.Graph{
		"statistics per element": func() *graph.Graph {
			b := newNet(8, []int{2, 4, 6, 6})
			b.op("BatchNormalization", vals(b.g.Inputs[0], b.weights(4), b.weights(4), b.weights(4), b.positive(4)), "spatial", 0)
			return b.g
		},
		"too old": func() *graph.Graph { return newNet(5).g },
		"a Scan of opset 8": func() *graph.Graph {
			b := newNet(8, []int{2, 4})
			b.op("Scan", vals(b.g.Inputs[0]), "body", &graph.Graph{})
			return b.g
		},
	} {
		var f *fault.Error
		if err := rewrite.Upgrade(build(), 13); !errors.As(err, &f) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := rewrite.Upgrade(newNet(13).g, rewrite.Newest+1); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("beyond what is known: %v", err)
	}
}

// Fix gives named dimensions one size everywhere; Bind and Freeze turn inputs into constants.
func TestInputs(t *testing.T) {
	b := newNet(13, nil, nil)
	b.g.Inputs[0].Shape = &graph.Shape{{Size: -1, Name: "n"}, {Size: 3}}
	b.g.Inputs[1].Shape = &graph.Shape{{Size: -1, Name: "n"}, {Size: -1}}
	y := b.op("Add", vals(b.g.Inputs[0], b.g.Inputs[1]))
	y.Shape = &graph.Shape{{Size: -1, Name: "n"}, {Size: 3}}
	b.out(y)
	for _, bad := range [][]int{{2}, {2, 4}, {-1, 3}} {
		if err := rewrite.Fix(b.g, "x0", bad); !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if err := rewrite.Fix(b.g, "x9", []int{2, 3}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("no such input: %v", err)
	}
	if err := rewrite.Fix(b.g, "x0", []int{2, 3}); err != nil {
		t.Fatal(err)
	}
	if got := b.g.Inputs[1].Shape.Text() + " " + y.Shape.Text(); got != "2x? 2x3" {
		t.Errorf("shapes %s", got)
	}
	bound := graph.From(graph.Float32, []float32{1, 2, 3}, 1, 3)
	if err := rewrite.Bind(b.g, "x1", graph.From(graph.Int64, []int64{1}, 1, 1)); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("another type: %v", err)
	}
	if err := rewrite.Bind(b.g, "x1", bound); err != nil || len(b.g.Inputs) != 1 {
		t.Fatal(err)
	}
	out := outputs(t, b.g, ir.Sample{"x0": graph.From(graph.Float32, []float32{1, 1, 1, 0, 0, 0}, 2, 3)})
	if got := graph.Of[float32](out[y.Name]); !slices.Equal(got, []float32{2, 3, 4, 1, 2, 3}) {
		t.Errorf("outputs %v", got)
	}
	b.g.Inputs = append(b.g.Inputs, &graph.Value{Name: "default", Const: bound})
	if rewrite.Freeze(b.g) != 1 || len(b.g.Inputs) != 1 {
		t.Error("a default was not frozen")
	}
}
