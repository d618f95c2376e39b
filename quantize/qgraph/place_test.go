package qgraph

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
)

// network reads lines "out = Op in in | name=ints name=..."; names in capitals are random constants with the
// shape behind them: W[4,2,3,3].
func network(t testing.TB, inputs map[string][]int, outs string, lines ...string) *graph.Graph {
	t.Helper()
	rng := rand.New(rand.NewPCG(11, 13))
	g := &graph.Graph{Opset: map[string]int{"": 13}}
	values := map[string]*graph.Value{}
	for _, name := range sortedNames(inputs) {
		v := &graph.Value{Name: name, Type: graph.Float32, Shape: graph.Fixed(inputs[name]...)}
		g.Inputs, values[name] = append(g.Inputs, v), v
	}
	ints := func(text string) (out []int64) {
		for w := range strings.SplitSeq(text, ",") {
			var n int64
			if _, err := fmt.Sscan(w, &n); err != nil {
				t.Fatal(text, err)
			}
			out = append(out, n)
		}
		return out
	}
	for _, line := range lines {
		text, attrs, _ := strings.Cut(line, " | ")
		f := strings.Fields(text)
		n := &graph.Node{Name: "n_" + f[0], Op: f[2], Attrs: map[string]graph.Attr{}}
		for _, in := range f[3:] {
			name, dims, constant := strings.Cut(strings.TrimSuffix(in, "]"), "[")
			if !constant {
				n.In = append(n.In, values[name])
				continue
			}
			if name == "I" {
				list := ints(dims)
				n.In = append(n.In, &graph.Value{Name: f[0] + "_i", Type: graph.Int64, Const: graph.From(graph.Int64, list, len(list))})
				continue
			}
			var shape []int
			for _, d := range ints(dims) {
				shape = append(shape, int(d))
			}
			c := graph.New(graph.Float32, shape...)
			for i := range graph.Of[float32](c) {
				graph.Of[float32](c)[i] = float32(rng.NormFloat64())
			}
			n.In = append(n.In, &graph.Value{Name: f[0] + "_" + name, Type: graph.Float32, Shape: graph.Fixed(shape...), Const: c})
		}
		for a := range strings.FieldsSeq(attrs) {
			name, text, _ := strings.Cut(a, "=")
			switch list := strings.Contains(text, ",") || strings.HasSuffix(name, "s") && name != "axis"; {
			case text[0] >= 'A' && text[0] <= 'z':
				n.Attrs[name] = graph.Attr{Kind: graph.AttrString, String: text}
			case list:
				n.Attrs[name] = graph.Attr{Kind: graph.AttrInts, Ints: ints(text)}
			default:
				n.Attrs[name] = graph.Attr{Kind: graph.AttrInt, Int: ints(text)[0]}
			}
		}
		v := &graph.Value{Name: f[0]}
		n.Out, values[f[0]] = []*graph.Value{v}, v
		g.Nodes = append(g.Nodes, n)
	}
	for name := range strings.FieldsSeq(outs) {
		g.Outputs = append(g.Outputs, values[name])
	}
	if err := new(eval.Network).Infer(context.Background(), g); err != nil {
		t.Fatal(err)
	}
	return g
}

func sortedNames(m map[string][]int) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Which values carry codes, and which of them share a scale: "a b=a c" says that b has the scale of a.
func TestPlace(t *testing.T) {
	image := map[string][]int{"x": {1, 4, 8, 8}}
	for name, c := range map[string]struct {
		cfg   Config
		in    map[string][]int
		outs  string
		lines []string
		want  string
	}{
		"no codes between a convolution and its ReLU, nor at the output": {Config{}, image, "z", []string{
			"y = Conv x W[4,4,3,3]", "r = Relu y", "z = Conv r W[4,4,1,1]",
		}, "x r"},
		"an NPU wants the output, too": {Config{Everything: true}, image, "z", []string{
			"y = Conv x W[4,4,3,3]", "r = Relu y", "z = Conv r W[4,4,1,1]",
		}, "x r z"},
		"codes before a ReLU that is not the only reader": {Config{}, image, "z", []string{
			"y = Conv x W[4,4,1,1]", "r = Relu y", "s = Add r y", "z = Conv s W[4,4,1,1]",
		}, "x y r s"},
		"a ReLU keeps its own range when zero is in the middle of the codes": {Config{SymmetricActivations: true, Everything: true}, image, "z", []string{
			"y = Conv x W[4,4,3,3]", "r = Relu y", "z = Conv r W[4,4,1,1]",
		}, "x y r z"},
		"what only moves codes shares their scale": {Config{}, image, "z", []string{
			"y = Conv x W[4,4,1,1]", "p = MaxPool y | kernel_shape=2,2 strides=2,2", "t = Transpose p | perm=0,2,3,1", "f = Flatten t", "z = Gemm f W[64,3]",
		}, "x y p=y t=y f=y"},
		"a residual adds two scales": {Config{}, image, "z", []string{
			"a = Conv x W[4,4,1,1]", "b = Conv x W[4,4,1,1]", "s = Add a b", "z = Conv s W[4,4,1,1]",
		}, "x a b s"},
		"a shared Concat": {Config{ShareConcat: true}, image, "z", []string{
			"a = Conv x W[4,4,1,1]", "b = Conv x W[4,4,1,1]", "s = Concat a b | axis=1", "z = Conv s W[4,8,1,1]",
		}, "x a=s b=s s"},
		"what only leads to the output stays float": {Config{}, image, "z", []string{
			"y = Conv x W[4,4,1,1]", "f = Flatten y", "z = Softmax f",
		}, "x y"},
		"an MLP hands floats to its activation": {Config{}, map[string][]int{"x": {2, 3, 8}}, "z", []string{
			"y = MatMul x W[8,8]", "g = Erf y", "z = MatMul g W[8,8]",
		}, "x g"},
		"a gate, but no other arithmetic": {Config{}, image, "z", []string{
			"y = Conv x W[4,4,1,1]", "g = Sigmoid y", "s = Mul y g", "c = Conv s W[4,4,1,1]", "m = Mul c c", "z = Conv m W[4,4,1,1]",
		}, "x y g s c m"},
		"no codes for a sum with what is float": {Config{}, image, "z", []string{
			"y = Conv x W[4,4,1,1]", "e = Exp x", "s = Add y e", "t = Conv s W[4,4,1,1]", "z = Relu t",
		}, "x y s"},
		"attention stays float": {Config{}, map[string][]int{"x": {2, 3, 8}, "k": {2, 8, 3}}, "z", []string{
			"y = MatMul x W[8,8]", "s = MatMul y k", "z = MatMul s W[3,3]",
		}, "x s"},
		"a bias is no sum of its own": {Config{}, map[string][]int{"x": {2, 3, 8}}, "z", []string{
			"y = MatMul x W[8,8]", "b = Add y W[8]", "z = MatMul b W[8,8]",
		}, "x b"},
		"both operands of a product": {Config{Everything: true}, map[string][]int{"x": {2, 3, 8}, "k": {2, 8, 3}}, "z", []string{
			"z = MatMul x k",
		}, "k x z"},
		"kept by name": {Config{Keep: []string{"n_y"}}, image, "z", []string{
			"y = Conv x W[4,4,3,3]", "r = Relu y", "z = Conv r W[4,4,1,1]",
		}, "r"},
	} {
		g := network(t, c.in, c.outs, c.lines...)
		p := place(g, c.cfg, nil)
		var got []string
		for _, v := range p.coded {
			if h := p.head(v); h != v {
				got = append(got, v.Name+"="+h.Name)
			} else {
				got = append(got, v.Name)
			}
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %s, want %s", name, text, c.want)
		}
	}
}

// Operators with a known range get the scale that hardware wants.
func TestFixedScales(t *testing.T) {
	g := network(t, map[string][]int{"x": {1, 4}}, "s h", "y = Gemm x W[4,4]", "s = Sigmoid y", "h = Tanh y")
	for typ, want := range map[graph.DType][2]calib.Affine{
		graph.Uint8:  {{Scale: 1.0 / 256}, {Scale: 1.0 / 128, Zero: 128}},
		graph.Int8:   {{Scale: 1.0 / 256, Zero: -128}, {Scale: 1.0 / 128}},
		graph.Uint16: {{Scale: 1.0 / 65536}, {Scale: 1.0 / 32768, Zero: 32768}},
	} {
		p := place(g, Config{Activations: typ, Everything: true}, nil)
		for i, v := range g.Outputs {
			if got := p.fixed[p.head(v)]; got != want[i] {
				t.Errorf("%s %s: %v, want %v", typ, v.Name, got, want[i])
			}
		}
	}
}

// Without its Q and DQ nodes, the quantized network is the float one: the same operators, each reading what
// it read.
func TestStripped(t *testing.T) {
	g := network(t, map[string][]int{"x": {1, 4, 8, 8}}, "z y",
		"y = Conv x W[4,4,1,1] B[4]", "r = Relu y", "a = AveragePool r | kernel_shape=2,2 strides=2,2", "c = Concat a a | axis=1",
		"m = Mul c W[8,1,1]", "d = Conv m W[8,1,3,3] | group=8", "f = Flatten d", "g = Gemm f W[5,32] | transB=1", "z = Sigmoid g")
	s, err := New(context.Background(), g, &eval.Network{}, samplesOf(g, 4), Config{NoEqualize: true, Everything: true})
	if err != nil {
		t.Fatal(err)
	}
	q, _, err := s.Build(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := func(g *graph.Graph) string {
		made := map[*graph.Value]*graph.Node{}
		for _, n := range g.Nodes {
			made[n.Out[0]] = n
		}
		real := func(v *graph.Value) string {
			for made[v] != nil && (made[v].Op == "DequantizeLinear" || made[v].Op == "QuantizeLinear") {
				v = made[v].In[0]
			}
			switch {
			case v.Const != nil:
				return fmt.Sprint("const", v.Const.Shape)
			case made[v] != nil:
				return made[v].Name
			}
			return v.Name
		}
		var b strings.Builder
		for _, n := range g.Nodes {
			if n.Op == "DequantizeLinear" || n.Op == "QuantizeLinear" {
				continue
			}
			fmt.Fprintf(&b, "%s %s %v:", n.Name, n.Op, n.Attrs)
			for i, v := range n.In {
				if i < 2 { // layers may gain a bias
					b.WriteString(" " + real(v))
				}
			}
			b.WriteString("\n")
		}
		for _, v := range g.Outputs {
			b.WriteString(v.Name + " " + real(v) + "\n")
		}
		return b.String()
	}
	if a, b := text(s.Graph()), text(q); a != b {
		t.Errorf("stripped:\n%s\nfloat:\n%s", b, a)
	}
}

// samplesOf are random inputs.
func samplesOf(g *graph.Graph, n int) ir.SampleList {
	rng := rand.New(rand.NewPCG(17, 19))
	var list ir.SampleList
	for range n {
		s := ir.Sample{}
		for _, v := range g.Inputs {
			dims, _ := v.Shape.Known()
			x := graph.New(graph.Float32, dims...)
			for i := range graph.Of[float32](x) {
				graph.Of[float32](x)[i] = float32(rng.NormFloat64())
			}
			s[v.Name] = x
		}
		list = append(list, s)
	}
	return list
}

func snrOf(a, b *graph.Tensor) float64 { return SNR(graph.Of[float32](a), graph.Of[float32](b)) }

// What a layer's rows and patches give is what its operator computes.
func TestPatches(t *testing.T) {
	image := map[string][]int{"x": {2, 4, 7, 6}}
	for _, c := range []struct {
		in   map[string][]int
		line string
	}{
		{image, "y = Conv x W[6,4,3,3] B[6]"},
		{image, "y = Conv x W[6,2,3,2] B[6] | group=2 pads=1,0,2,1 strides=2,1 dilations=1,2"},
		{image, "y = Conv x W[4,1,3,3] | group=4 auto_pad=SAME_UPPER strides=2,2"},
		{image, "y = Conv x W[4,4,2,2] | auto_pad=SAME_LOWER"},
		{image, "y = ConvTranspose x W[4,3,3,3] B[3] | strides=2,2 pads=1,0,1,0"},
		{image, "y = ConvTranspose x W[4,3,2,3] | group=2 dilations=1,2 output_padding=0,0"},
		{map[string][]int{"x": {3, 2, 9}}, "y = Conv x W[5,2,4] | strides=3"},
		{map[string][]int{"x": {5, 7}}, "y = Gemm x W[7,4] B[1,4]"},
		{map[string][]int{"x": {5, 7}}, "y = Gemm x W[4,7] B[4] | transB=1"},
		{map[string][]int{"x": {2, 3, 7}}, "y = MatMul x W[7,4]"},
	} {
		g := network(t, c.in, "y", c.line)
		l := newLayer(g.Nodes[0])
		if l == nil {
			t.Fatalf("%s is no layer", c.line)
		}
		x := samplesOf(g, 1)[0]
		run, err := (&eval.Network{}).Open(context.Background(), g, g.Outputs)
		if err != nil {
			t.Fatal(err)
		}
		out, err := run.Run(context.Background(), x)
		if err != nil {
			t.Fatal(err)
		}
		p, ok := l.open(x["x"])
		if !ok {
			t.Fatalf("%s: not understood", c.line)
		}
		y := graph.Of[float32](out[0])
		if p.positions*l.outs != len(y) {
			t.Fatalf("%s: %d positions of %d outputs, the operator makes %v", c.line, p.positions, l.outs, out[0].Shape)
		}
		inner := 1
		if p.in != nil {
			inner = graph.Elems(p.out)
		}
		w, patch := make([]float32, l.cols), make([]float32, l.cols)
		for o := range l.outs {
			l.row(w, o)
			for at := range p.positions {
				group := o / (l.outs / l.groups)
				p.places([]int{at}).columns(patch, p.x, group*l.inputs()/l.groups, (group+1)*l.inputs()/l.groups)
				sum := float64(l.bias[o])
				for i, v := range w {
					sum += float64(v) * float64(patch[i])
				}
				got := y[(at/inner*l.outs+o)*inner+at%inner]
				if math.Abs(sum-float64(got)) > 1e-4 {
					t.Fatalf("%s: output %d at %d: %v, the operator gives %v", c.line, o, at, sum, got)
				}
			}
		}
	}
}
