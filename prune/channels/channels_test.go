package channels

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
)

// builder makes small networks by hand.
type builder struct {
	g   graph.Graph
	rng *rand.Rand
	net eval.Network
}

func newBuilder(opset int) *builder {
	b := &builder{rng: rand.New(rand.NewPCG(1, 2))}
	b.g.Name, b.g.Opset = "test", map[string]int{"": opset}
	return b
}

func (b *builder) input(shape ...int) *graph.Value {
	v := &graph.Value{Name: fmt.Sprintf("in%d", len(b.g.Inputs)), Type: graph.Float32, Shape: graph.Fixed(shape...)}
	b.g.Inputs = append(b.g.Inputs, v)
	return v
}

// node adds an operator with one output.
func (b *builder) node(op string, attrs map[string]graph.Attr, in ...*graph.Value) *graph.Value {
	return b.nodes(op, 1, attrs, in...)[0]
}

func (b *builder) nodes(op string, outs int, attrs map[string]graph.Attr, in ...*graph.Value) []*graph.Value {
	n := &graph.Node{Name: fmt.Sprintf("%s%d", strings.ToLower(op), len(b.g.Nodes)), Op: op, In: in, Attrs: map[string]graph.Attr{}}
	for k, a := range attrs {
		n.Attrs[k] = a
	}
	for i := range outs {
		n.Out = append(n.Out, &graph.Value{Name: fmt.Sprintf("%s_%d", n.Name, i)})
	}
	b.g.Nodes = append(b.g.Nodes, n)
	return n.Out
}

func (b *builder) random(shape ...int) *graph.Value {
	t := graph.New(graph.Float32, shape...)
	for i := range graph.Of[float32](t) {
		graph.Of[float32](t)[i] = float32(b.rng.NormFloat64())
	}
	return b.constant(t)
}

func (b *builder) constant(t *graph.Tensor) *graph.Value {
	return &graph.Value{Name: fmt.Sprintf("c%d_%d", len(b.g.Nodes), b.rng.IntN(1<<30)), Type: t.Type, Shape: graph.Fixed(t.Shape...), Const: t}
}

func (b *builder) ints(list ...int64) *graph.Value {
	return b.constant(graph.From(graph.Int64, list, len(list)))
}

// kill makes outputs of a layer zero for ever: rows of axis 0 of the weights, and of the bias.
func kill(v *graph.Value, axis int, dead ...int) *graph.Value {
	t, x := v.Const, graph.Of[float32](v.Const)
	inner := graph.Elems(t.Shape[axis+1:])
	for i := range x {
		if slices.Contains(dead, i/inner%t.Shape[axis]) {
			x[i] = 0
		}
	}
	return v
}

// conv is a convolution of 3x3 with a bias, some of whose outputs are dead.
func (b *builder) conv(x *graph.Value, in, out, group int, dead ...int) *graph.Value {
	return b.node("Conv", map[string]graph.Attr{"group": number(group), "pads": list(1, 1, 1, 1)}, x,
		kill(b.random(out, in/group, 3, 3), 0, dead...), kill(b.random(out), 0, dead...))
}

func (b *builder) relu(x *graph.Value) *graph.Value { return b.node("Relu", nil, x) }

func number(i int) graph.Attr            { return graph.Attr{Kind: graph.AttrInt, Int: int64(i)} }
func list(l ...int64) graph.Attr         { return graph.Attr{Kind: graph.AttrInts, Ints: l} }
func word(s string) graph.Attr           { return graph.Attr{Kind: graph.AttrString, String: s} }
func real(f float32) graph.Attr          { return graph.Attr{Kind: graph.AttrFloat, Float: f} }
func (b *builder) out(v ...*graph.Value) { b.g.Outputs = append(b.g.Outputs, v...) }

// sample gives every input random numbers.
func (b *builder) samples(n int) (list ir.SampleList) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range n {
		s := ir.Sample{}
		for _, v := range b.g.Inputs {
			shape, _ := v.Shape.Known()
			t := graph.New(graph.Float32, shape...)
			for i := range graph.Of[float32](t) {
				graph.Of[float32](t)[i] = float32(rng.NormFloat64())
			}
			s[v.Name] = t
		}
		list = append(list, s)
	}
	return list
}

func run(t *testing.T, g *graph.Graph, s ir.Sample) [][]float32 {
	t.Helper()
	r, err := (&eval.Network{}).Open(t.Context(), g, g.Outputs)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, err := r.Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	var list [][]float32
	for _, o := range out {
		list = append(list, slices.Clone(graph.Of[float32](o)))
	}
	return list
}

// Each network has eight channels of which the odd four are dead, wherever they go: half of the channels may go
// without a trace.
var kinds = map[string]func(b *builder, x *graph.Value){
	"chain": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		b.out(b.conv(y, 8, 2, 1))
	},
	"residual": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		z := b.node("Add", nil, y, b.conv(y, 8, 8, 1, 1, 3, 5, 7))
		z = b.node("Add", nil, z, b.relu(b.conv(z, 8, 8, 1, 1, 3, 5, 7)))
		b.out(b.conv(z, 8, 2, 1))
	},
	"concat": func(b *builder, x *graph.Value) {
		y, z := b.conv(x, 3, 8, 1, 1, 3, 5, 7), b.relu(b.conv(x, 3, 8, 1, 0, 1, 2, 3))
		c := b.node("Concat", map[string]graph.Attr{"axis": number(-3)}, y, x, z)
		b.out(b.conv(c, 19, 2, 1), b.conv(z, 8, 2, 1))
	},
	"depthwise": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		y = b.relu(b.conv(y, 8, 8, 8, 1, 3, 5, 7))
		b.out(b.conv(y, 8, 2, 1))
	},
	"depthwise that multiplies": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		y = b.relu(b.conv(y, 8, 16, 8, 2, 3, 6, 7, 10, 11, 14, 15))
		b.out(b.conv(y, 16, 2, 1))
	},
	"groups": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		y = b.relu(b.conv(y, 8, 8, 2, 0, 1, 4, 5))
		b.out(b.conv(y, 8, 2, 1))
	},
	"flatten": func(b *builder, x *graph.Value) {
		y := b.node("MaxPool", map[string]graph.Attr{"kernel_shape": list(2, 2), "strides": list(2, 2)}, b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7)))
		y = b.node("Flatten", nil, y)
		y = b.relu(b.node("Gemm", nil, y, kill(b.random(8*9, 8), 1, 0, 2, 4, 6), kill(b.random(8), 0, 0, 2, 4, 6)))
		b.out(b.node("Gemm", map[string]graph.Attr{"transB": number(1)}, y, b.random(5, 8), b.random(5)))
	},
	"reshape": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		y = b.node("Reshape", nil, y, b.ints(1, 288))
		b.out(b.node("MatMul", nil, y, b.random(288, 5)))
	},
	"last axis": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		y = b.node("Transpose", map[string]graph.Attr{"perm": {Kind: graph.AttrInts, Ints: []int64{0, 2, 3, 1}}}, y)
		y = b.node("Reshape", nil, y, b.ints(0, -1, 8))
		b.out(b.node("MatMul", nil, y, b.random(8, 5)))
	},
	"split": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		p := b.nodes("Split", 2, map[string]graph.Attr{"axis": number(1)}, y, b.ints(5, 3))
		b.out(b.conv(p[0], 5, 2, 1), b.conv(p[1], 3, 2, 1))
	},
	"slice": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		first := b.node("Slice", nil, y, b.ints(0), b.ints(3), b.ints(1))
		last := b.node("Slice", nil, y, b.ints(-5), b.ints(1<<40), b.ints(1), b.ints(1))
		b.out(b.conv(first, 3, 2, 1), b.conv(last, 5, 2, 1))
	},
	"gather": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		b.out(b.conv(b.node("Gather", map[string]graph.Attr{"axis": number(1)}, y, b.ints(7, 0, 6, 1, 5, -6, 4, 3)), 8, 2, 1))
	},
	"scales and slopes": func(b *builder, x *graph.Value) {
		y := b.conv(x, 3, 8, 1, 1, 3, 5, 7)
		y = b.node("PRelu", nil, y, b.random(8, 1, 1))
		y = b.node("Mul", nil, b.random(1, 8, 1, 1), b.relu(y))
		b.out(b.conv(b.node("Mul", nil, y, b.random(1)), 8, 2, 1))
	},
	"norm": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		y = b.node("InstanceNormalization", nil, y, b.random(8), kill(b.random(8), 0, 1, 3, 5, 7))
		b.out(b.conv(y, 8, 2, 1))
	},
	"attention of channels": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		s := b.node("GlobalAveragePool", nil, y)
		s = b.relu(b.node("Conv", nil, s, kill(b.random(4, 8, 1, 1), 0, 1, 2), kill(b.random(4), 0, 1, 2)))
		s = b.node("Sigmoid", nil, b.node("Conv", nil, s, kill(b.random(8, 4, 1, 1), 0, 1, 3, 5, 7)))
		b.out(b.conv(b.node("Mul", nil, y, s), 8, 2, 1))
	},
	"transposed": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		y = b.relu(b.node("ConvTranspose", map[string]graph.Attr{"strides": list(2, 2)}, y, kill(b.random(8, 8, 2, 2), 1, 0, 2, 4, 6), kill(b.random(8), 0, 0, 2, 4, 6)))
		y = b.relu(b.node("ConvTranspose", map[string]graph.Attr{"group": number(8)}, y, kill(b.random(8, 1, 2, 2), 0, 0, 2, 4, 6), kill(b.random(8), 0, 0, 2, 4, 6)))
		b.out(b.conv(y, 8, 2, 1))
	},
	"around": func(b *builder, x *graph.Value) {
		y := b.relu(b.conv(x, 3, 8, 1, 1, 3, 5, 7))
		y = b.node("Pad", nil, y, b.ints(0, 0, 1, 1, 0, 0, 1, 1))
		y = b.node("Resize", map[string]graph.Attr{"mode": word("nearest")}, y, nil, nil, b.ints(1, 8, 16, 16))
		y = b.node("LeakyRelu", map[string]graph.Attr{"alpha": real(0.1)}, y)
		y = b.node("ReduceMean", map[string]graph.Attr{"axes": list(2), "keepdims": number(0)}, y)
		b.out(b.node("Conv", nil, y, b.random(2, 8, 3)))
	},
}

func TestDeadChannels(t *testing.T) {
	for name, make := range kinds {
		t.Run(name, func(t *testing.T) {
			b := newBuilder(17)
			make(b, b.input(1, 3, 6, 6))
			g, rep, err := Prune(t.Context(), &b.g, &b.net, nil, Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1})
			if err != nil {
				t.Fatal(err)
			}
			free, gone := 0, 0
			for _, x := range rep.Groups {
				free += x.Channels - x.Pinned
				gone += x.Channels - x.Kept
			}
			if gone == 0 || gone != free/2 {
				t.Errorf("%d of %d channels are gone: %+v", gone, free, rep.Groups)
			}
			if rep.After.FLOPs >= rep.Before.FLOPs || rep.After.Parameters >= rep.Before.Parameters {
				t.Errorf("%+v became %+v", rep.Before, rep.After)
			}
			s := b.samples(1)[0]
			want, got := run(t, &b.g, s), run(t, g, s)
			for i := range want {
				if len(want[i]) != len(got[i]) {
					t.Fatalf("output %d has %d numbers, not %d", i, len(got[i]), len(want[i]))
				}
				for j, v := range want[i] {
					if math.Abs(float64(v-got[i][j])) > 1e-4*(1+math.Abs(float64(v))) {
						t.Fatalf("output %d is %g at %d, not %g", i, got[i][j], j, v)
					}
				}
			}
			// What the weights count is what the file has.
			var weights int64
			for _, n := range g.Nodes {
				if slices.Contains([]string{"Conv", "ConvTranspose", "Gemm", "MatMul"}, n.Op) {
					for _, v := range n.In[1:] {
						weights += int64(v.Const.Elems())
					}
				}
			}
			if weights != rep.After.Parameters {
				t.Errorf("%d weights, the report says %d", weights, rep.After.Parameters)
			}
		})
	}
}

// Nothing of what is given back may have changed: the graph that was read is still the caller's.
func TestOriginalStays(t *testing.T) {
	b := newBuilder(17)
	kinds["residual"](b, b.input(1, 3, 6, 6))
	s := b.samples(1)[0]
	before := run(t, &b.g, s)
	if _, _, err := Prune(t.Context(), &b.g, &b.net, b.samples(4), Config{Budget: Budget{Keep: 0.5}, Multiple: 1}); err != nil {
		t.Fatal(err)
	}
	if after := run(t, &b.g, s); !slices.EqualFunc(before, after, slices.Equal[[]float32]) {
		t.Error("the original computes something else now")
	}
}

func TestPinned(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		make         func(b *builder, x *graph.Value)
	}{
		{"output", "an output of the graph", func(b *builder, x *graph.Value) { b.out(b.relu(b.conv(x, 3, 8, 1))) }},
		{"residual to the input", "cannot be cut", func(b *builder, x *graph.Value) {
			b.out(b.conv(b.node("Add", nil, x, b.conv(x, 3, 3, 1)), 3, 2, 1))
		}},
		{"softmax", "mixes the channels", func(b *builder, x *graph.Value) {
			b.out(b.conv(b.node("Softmax", map[string]graph.Attr{"axis": number(1)}, b.conv(x, 3, 8, 1)), 8, 2, 1))
		}},
		{"unknown operator", "is not followed", func(b *builder, x *graph.Value) {
			b.out(b.conv(b.node("LRN", map[string]graph.Attr{"size": number(3)}, b.conv(x, 3, 8, 1)), 8, 2, 1))
		}},
		{"product of two activations", "computed matrices", func(b *builder, x *graph.Value) {
			y := b.conv(x, 3, 8, 1)
			b.out(b.conv(b.node("MatMul", nil, y, y), 8, 2, 1))
		}},
		{"channels in rows", "another axis", func(b *builder, x *graph.Value) {
			y := b.node("Reshape", nil, b.conv(x, 3, 8, 1), b.ints(24, 12))
			b.out(b.node("MatMul", nil, y, b.random(12, 2)))
		}},
		{"left alone", "left alone as asked", func(b *builder, x *graph.Value) {
			b.g.Name = "skip"
			b.out(b.conv(b.relu(b.conv(x, 3, 8, 1)), 8, 2, 1))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(17)
			c.make(b, b.input(1, 3, 6, 6))
			cfg := Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1}
			if b.g.Name == "skip" {
				cfg.Skip = []string{"conv0"}
			}
			_, _, err := Prune(t.Context(), &b.g, &b.net, nil, cfg)
			if err == nil {
				t.Fatal("something was pruned")
			}
			p := pruning{cfg: cfg, net: &b.net}
			if _, err := p.prepare(t.Context(), &b.g); err != nil {
				t.Fatal(err)
			}
			first := trace(p.g, nil, cfg.Skip).grouped()[0]
			if len(first.free) > 0 || !strings.Contains(first.why, c.reason) {
				t.Errorf("%d channels are free, the others because %q", len(first.free), first.why)
			}
		})
	}
}

// A channel that is twice another one is no loss: the layer that reads both takes its weights over. Without the fit,
// half of the sum is missing.
func TestFit(t *testing.T) {
	for _, score := range []string{"", Activation, L1} {
		b := newBuilder(17)
		w, bias := b.random(8, 3, 3, 3), b.random(8)
		for i, x := 0, graph.Of[float32](w.Const); i < 4*27; i++ {
			x[4*27+i] = 2 * x[i]
		}
		for i, x := 0, graph.Of[float32](bias.Const); i < 4; i++ {
			x[4+i] = 2 * x[i]
		}
		y := b.node("Conv", map[string]graph.Attr{"pads": list(1, 1, 1, 1)}, b.input(1, 3, 6, 6), w, bias)
		y = b.relu(b.conv(b.relu(y), 8, 8, 8))
		b.out(b.conv(y, 8, 4, 1))
		cfg := Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1, Score: score}
		_, rep, err := Prune(t.Context(), &b.g, &b.net, b.samples(40), cfg)
		if err != nil {
			t.Fatal(err)
		}
		last := rep.Fits[len(rep.Fits)-1]
		if score == "" && (last.After < 12 || rep.Outputs[0].SQNR < 12) || last.After < last.Before {
			t.Errorf("%q: %+v %+v", score, last, rep.Outputs)
		}
		t.Logf("%q: %+v %+v", score, last, rep.Outputs)
	}
	// The same without the depthwise layer between: then nothing at all is lost.
	b := newBuilder(17)
	w := b.random(8, 3, 1, 1)
	for i, x := 0, graph.Of[float32](w.Const); i < 4*3; i++ {
		x[4*3+i] = 2 * x[i]
	}
	b.out(b.conv(b.relu(b.node("Conv", nil, b.input(1, 3, 6, 6), w)), 8, 4, 1))
	for _, no := range []bool{false, true} {
		_, rep, err := Prune(t.Context(), &b.g, &b.net, b.samples(40), Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1, NoRefit: no})
		if err != nil {
			t.Fatal(err)
		}
		if no && rep.Fits != nil || !no && rep.Outputs[0].SQNR < 60 {
			t.Errorf("without a fit %v: %+v %+v", no, rep.Fits, rep.Outputs)
		}
	}
}

func TestThreads(t *testing.T) {
	var first []byte
	for _, threads := range []int{1, 4} {
		b := newBuilder(17)
		kinds["residual"](b, b.input(1, 3, 6, 6))
		g, _, err := Prune(t.Context(), &b.g, &b.net, b.samples(9), Config{Budget: Budget{Keep: 0.4}, Multiple: 1, Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		var all []byte
		for _, v := range g.Constants() {
			all = append(append(all, v.Name...), v.Const.Data...)
		}
		if first == nil {
			first = all
		}
		if !bytes.Equal(first, all) {
			t.Error("other bytes with more threads")
		}
	}
}

// Budgets hold, whatever counts; all of a network cannot go.
func TestBudgets(t *testing.T) {
	for _, m := range []Measure{FLOPs, Parameters, Bytes} {
		for _, keep := range []float64{0.8, 0.5, 0.3} {
			b := newBuilder(17)
			kinds["residual"](b, b.input(1, 3, 6, 6))
			_, rep, err := Prune(t.Context(), &b.g, &b.net, nil, Config{Budget: Budget{m, keep}, Multiple: 1})
			if err != nil {
				t.Fatal(err)
			}
			after, before := rep.After.Parameters, rep.Before.Parameters
			if m == FLOPs {
				after, before = rep.After.FLOPs, rep.Before.FLOPs
			}
			if share := float64(after) / float64(before); share > keep || share < keep-0.25 {
				t.Errorf("%v of %g: %g stays", m, keep, share)
			}
		}
	}
	b := newBuilder(17)
	kinds["residual"](b, b.input(1, 3, 6, 6))
	if _, _, err := Prune(t.Context(), &b.g, &b.net, nil, Config{Budget: Budget{Keep: 0.5}, Score: ByFit}); err == nil || !strings.Contains(err.Error(), "samples") {
		t.Errorf("obs without samples: %v", err)
	}
	if _, _, err := Prune(t.Context(), &b.g, &b.net, nil, Config{Budget: Budget{Keep: 0.01}}); err == nil || !strings.Contains(err.Error(), "least") {
		t.Errorf("nearly nothing may stay: %v", err)
	}
}

// The cost of a removal by ByFit is that of the best that least squares can do: compared with the solution of the
// normal equations, on random data.
func TestLossIsThatOfLeastSquares(t *testing.T) {
	const n, rows, outs = 6, 500, 3
	rng := rand.New(rand.NewPCG(5, 6))
	x, w := make([]float64, rows*n), make([]float64, outs*n)
	mix := make([]float64, n*n)
	for i := range mix {
		if mix[i] = rng.NormFloat64(); i%(n+1) == 0 {
			mix[i] += 4 // far from singular, so that damping hardly counts
		}
	}
	for r := range rows {
		for i := range n {
			e := rng.NormFloat64()
			for j := range n {
				x[r*n+j] += e * mix[i*n+j]
			}
		}
	}
	weight := graph.New(graph.Float32, outs, n, 1, 1)
	for i := range w {
		w[i] = rng.NormFloat64()
		graph.Of[float32](weight)[i] = float32(w[i])
	}
	cov := make([]float64, n*n)
	for r := range rows {
		for i := range n {
			for j := range n {
				cov[i*n+j] += x[r*n+i] * x[r*n+j] / rows
			}
		}
	}
	var u units
	ids := u.fresh(n)
	l := &layer{n: &graph.Node{Op: "Conv", In: []*graph.Value{nil, {Const: weight}}}, in: ids, out: u.fresh(outs), groups: 1, outAxis: 0, inAxis: 1}
	p := pruning{kern: kernels.For(cpu.Portable)}
	r, err := newReader(t.Context(), p.kern, l, &u, cov, true)
	if err != nil {
		t.Fatal(err)
	}
	r.remove(ids[1])
	r.remove(ids[4])
	// Least squares on what is left: gradient of |X(W - V)|^2 to zero by many steps of coordinate descent.
	v := slices.Clone(w)
	var lost, whole float64
	for o := range outs {
		row, old := v[o*n:][:n], w[o*n:][:n]
		row[1], row[4] = 0, 0
		for range 20000 {
			for _, i := range []int{0, 2, 3, 5} {
				var g float64
				for j := range n {
					g += cov[i*n+j] * (row[j] - old[j])
				}
				row[i] -= g / cov[i*n+i]
			}
		}
		for i := range n {
			for j := range n {
				lost += (row[i] - old[i]) * cov[i*n+j] * (row[j] - old[j])
				whole += old[i] * cov[i*n+j] * old[j]
			}
		}
	}
	if got, want := r.lost, lost/whole; math.Abs(got-want) > 0.02*want {
		t.Errorf("a share of %g is lost, least squares loses %g", got, want)
	}
}
