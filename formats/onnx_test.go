package formats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
)

const onnxFiles = "testdata/onnx/"

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(onnxFiles + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Elements of every type, in raw_data and in the field for the type, sparse ones and those in a file of
// external data are what the onnx package reads.
func TestONNXData(t *testing.T) {
	for _, name := range []string{"types", "external"} {
		m := open(t, onnxFiles+name+".onnx")
		if got, want := graphText(m.Graph), text(t, name+".txt"); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
		back, err := rewritten(t.Context(), m)
		if err != nil || graphText(back.Graph) != graphText(m.Graph) {
			t.Errorf("%s: written and read again it differs: %v", name, err)
		}
	}
	m := open(t, onnxFiles+"external.onnx")
	if x := m.Find("w"); x == nil || !slices.Equal(x.Shape, []int{7, 300}) || x.Type != storage.F32 || m.FileBytes != 279+12400 {
		t.Errorf("catalogue: %v, %d bytes of files", x, m.FileBytes)
	}
}

// numbered replaces names by places in the order of appearance.
func numbered(s string) string {
	ids := map[string]string{}
	number := func(word string) string {
		if word == "-" || strings.Contains(word, ":") || strings.HasPrefix(word, "[") {
			return word
		}
		if ids[word] == "" {
			ids[word] = fmt.Sprintf("v%d", len(ids))
		}
		return ids[word]
	}
	var out []string
	for _, line := range strings.Split(s, "\n") {
		words := strings.Split(line, " ")
		switch words[0] {
		case "input", "output":
			if len(words) > 2 {
				words[1] = number(words[1])
			}
		case "node": // node OP DOMAIN: ins -> outs
			for i := 3; i < len(words); i++ {
				if words[i] != "->" && words[i] != "" {
					words[i] = number(words[i])
				}
			}
		}
		out = append(out, strings.Join(words, " "))
	}
	return strings.Join(out, "\n")
}

// Calls of functions become what is in them, as the inliner of the onnx package has it. An unchanged file keeps
// its functions, a changed one is written without.
func TestONNXFunctions(t *testing.T) {
	m := open(t, onnxFiles+"functions.onnx")
	if got, want := numbered(graphText(m.Graph)), text(t, "functions.txt"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	same, err := rewritten(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(same.Graph.Extra.(*onnxExtra).file.Model.Functions); n != 2 {
		t.Errorf("%d functions after a copy, want 2", n)
	}
	m.Graph.Nodes[0].Attrs["alpha"] = graph.Attr{Kind: graph.AttrFloat, Float: 0.25 + 1e-3}
	w, err := layONNX(m, WriteOptions{}, "")
	if err != nil || len(w.notes) != 1 || !strings.Contains(w.notes[0], "2 functions") {
		t.Errorf("notes %v, %v", w.notes, err)
	}
	changed, err := rewritten(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(changed.Graph.Extra.(*onnxExtra).file.Model.Functions); n != 0 {
		t.Errorf("%d functions after a change", n)
	}
	if got := changed.Graph.Nodes[0].Float("alpha", 0); got != 0.25+1e-3 {
		t.Errorf("alpha %v", got)
	}
}

// small is a model by hand: y = If(c, x*w, x+w), with w outside the branches.
func small() *onnx.ModelProto {
	value := func(name string, typ onnx.TensorProto_DataType, dims ...int64) *onnx.ValueInfoProto {
		shape := &onnx.TensorShapeProto{}
		for _, d := range dims {
			shape.Dim = append(shape.Dim, &onnx.TensorShapeProto_Dimension{Value: &onnx.TensorShapeProto_Dimension_DimValue{DimValue: d}})
		}
		return &onnx.ValueInfoProto{Name: proto.String(name), Type: &onnx.TypeProto{Value: &onnx.TypeProto_TensorType{
			TensorType: &onnx.TypeProto_Tensor{ElemType: proto.Int32(int32(typ)), Shape: shape},
		}}}
	}
	branch := func(name, op string) *onnx.AttributeProto {
		return &onnx.AttributeProto{Name: proto.String(name), Type: onnx.AttributeProto_GRAPH.Enum(), G: &onnx.GraphProto{
			Name: proto.String(name), Output: []*onnx.ValueInfoProto{value(op, onnx.TensorProto_FLOAT)},
			Node: []*onnx.NodeProto{{OpType: proto.String(op), Input: []string{"x", "w"}, Output: []string{op}}},
		}}
	}
	w := make([]float32, 100)
	for i := range w {
		w[i] = float32(i)
	}
	return &onnx.ModelProto{
		IrVersion: proto.Int64(8), ProducerName: proto.String("hand"),
		OpsetImport: []*onnx.OperatorSetIdProto{{Domain: proto.String(""), Version: proto.Int64(17)}},
		Graph: &onnx.GraphProto{
			Name:  proto.String("g"),
			Input: []*onnx.ValueInfoProto{value("x", onnx.TensorProto_FLOAT, 100), value("c", onnx.TensorProto_BOOL)}, Output: []*onnx.ValueInfoProto{value("y", onnx.TensorProto_FLOAT, 100)},
			Initializer: []*onnx.TensorProto{{Name: proto.String("w"), DataType: proto.Int32(1), Dims: []int64{100}, FloatData: w}},
			Node: []*onnx.NodeProto{{
				OpType: proto.String("If"), Input: []string{"c"}, Output: []string{"y"},
				Attribute: []*onnx.AttributeProto{branch("then_branch", "Mul"), branch("else_branch", "Add")},
			}},
		},
	}
}

func save(t testing.TB, p *onnx.ModelProto) string {
	t.Helper()
	b, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func node(op, in, out string) *onnx.NodeProto {
	return &onnx.NodeProto{OpType: proto.String(op), Input: []string{in}, Output: []string{out}}
}

// What is wrong with a graph is found when it is read, and said with the name of what is wrong.
func TestONNXRefused(t *testing.T) {
	g := func(p *onnx.ModelProto) *onnx.GraphProto { return p.Graph }
	function := func(name string, nodes ...*onnx.NodeProto) *onnx.FunctionProto {
		return &onnx.FunctionProto{Name: proto.String(name), Domain: proto.String("f"), Input: []string{"a"}, Output: []string{"b"}, Node: nodes}
	}
	call := func(name, in, out string) *onnx.NodeProto {
		n := node(name, in, out)
		n.Domain = proto.String("f")
		return n
	}
	for name, c := range map[string]struct {
		spoil func(p *onnx.ModelProto)
		want  error
		says  string
	}{
		"an input that nobody makes":  {func(p *onnx.ModelProto) { g(p).Node[0].Input[0] = "z" }, errNobody, "z"},
		"an output that nobody makes": {func(p *onnx.ModelProto) { g(p).Output[0].Name = proto.String("z") }, errNobody, "z"},
		"a branch reads nothing":      {func(p *onnx.ModelProto) { g(p).Node[0].Attribute[0].G.Node[0].Input[1] = "z" }, errNobody, "z"},
		"a value of another branch": {func(p *onnx.ModelProto) {
			g(p).Node[0].Attribute[0].G.Node[0].Input[1] = "Add"
		}, errNobody, "Add"},
		"made twice":               {func(p *onnx.ModelProto) { g(p).Node = append(g(p).Node, node("Neg", "x", "y")) }, graph.ErrTwice, "y"},
		"an input twice":           {func(p *onnx.ModelProto) { g(p).Input = append(g(p).Input, g(p).Input[0]) }, graph.ErrTwice, "x"},
		"a constant twice":         {func(p *onnx.ModelProto) { g(p).Initializer = append(g(p).Initializer, g(p).Initializer[0]) }, ir.ErrDuplicate, "w"},
		"a constant made":          {func(p *onnx.ModelProto) { g(p).Node = append(g(p).Node, node("Neg", "x", "w")) }, graph.ErrTwice, "w"},
		"a cycle":                  {func(p *onnx.ModelProto) { g(p).Node = append(g(p).Node, node("Neg", "b", "a"), node("Neg", "a", "b")) }, graph.ErrCycle, "Neg"},
		"a node of itself":         {func(p *onnx.ModelProto) { g(p).Node = append(g(p).Node, node("Neg", "a", "a")) }, graph.ErrCycle, "Neg"},
		"an attribute twice":       {func(p *onnx.ModelProto) { a := g(p).Node[0].Attribute; g(p).Node[0].Attribute = append(a, a[0]) }, errAttribute, "then_branch"},
		"no graph in an attribute": {func(p *onnx.ModelProto) { g(p).Node[0].Attribute[0].G = nil }, errAttribute, "then_branch"},
		"a reference outside a function": {func(p *onnx.ModelProto) {
			g(p).Node[0].Attribute[0].RefAttrName = proto.String("q")
		}, errAttribute, "outside"},
		"an empty constant": {func(p *onnx.ModelProto) {
			g(p).Node = append(g(p).Node, &onnx.NodeProto{OpType: proto.String("Constant"), Output: []string{"k"}})
		}, errAttribute, "without"},
		"a function of itself": {func(p *onnx.ModelProto) {
			p.Functions = []*onnx.FunctionProto{function("r", call("r", "a", "b"))}
			g(p).Node = append(g(p).Node, call("r", "x", "q"))
		}, errFunctions, "itself"},
		"functions in a ring": {func(p *onnx.ModelProto) {
			p.Functions = []*onnx.FunctionProto{function("r", call("s", "a", "b")), function("s", call("r", "a", "b"))}
			g(p).Node = append(g(p).Node, call("r", "x", "q"))
		}, errFunctions, "itself"},
		"functions that explode": {func(p *onnx.ModelProto) { // 2 to the power of 40 nodes
			for i := range 40 {
				inner := fmt.Sprintf("f%d", i+1)
				p.Functions = append(p.Functions, function(fmt.Sprintf("f%d", i), call(inner, "a", "m"), call(inner, "m", "b")))
			}
			p.Functions = append(p.Functions, function("f40", node("Neg", "a", "b")))
			g(p).Node = append(g(p).Node, call("f0", "x", "q"))
		}, errFunctions, "more than"},
		"a function without its output": {func(p *onnx.ModelProto) {
			p.Functions = []*onnx.FunctionProto{function("r", node("Neg", "a", "c"))}
			g(p).Node = append(g(p).Node, call("r", "x", "q"))
		}, errFunctions, `"b"`},
		"too many inputs of a function": {func(p *onnx.ModelProto) {
			p.Functions = []*onnx.FunctionProto{function("r", node("Neg", "a", "b"))}
			n := call("r", "x", "q")
			n.Input = append(n.Input, "x")
			g(p).Node = append(g(p).Node, n)
		}, errFunctions, "takes 1"},
		"a sparse tensor larger than memory": {func(p *onnx.ModelProto) {
			one := &onnx.TensorProto{Name: proto.String("s"), DataType: proto.Int32(1), Dims: []int64{1}, FloatData: []float32{1}}
			at := &onnx.TensorProto{DataType: proto.Int32(7), Dims: []int64{1}, Int64Data: []int64{0}}
			g(p).SparseInitializer = []*onnx.SparseTensorProto{{Values: one, Indices: at, Dims: []int64{1 << 40}}}
		}, errUnfolds, "sparse"},
		"sparse tensors larger than memory together": {func(p *onnx.ModelProto) {
			for i := range 8 {
				one := &onnx.TensorProto{Name: proto.String(fmt.Sprint("s", i)), DataType: proto.Int32(1), Dims: []int64{1}, FloatData: []float32{1}}
				at := &onnx.TensorProto{DataType: proto.Int32(7), Dims: []int64{1}, Int64Data: []int64{0}}
				g(p).SparseInitializer = append(g(p).SparseInitializer, &onnx.SparseTensorProto{Values: one, Indices: at, Dims: []int64{10 << 20}})
			}
		}, errUnfolds, `"s6"`},
		"functions that unfold to more than memory": {func(p *onnx.ModelProto) { // 1024 calls, 64 KiB of numbers each
			many := node("Neg", "a", "b")
			many.Attribute = []*onnx.AttributeProto{{Name: proto.String("k"), Type: onnx.AttributeProto_INTS.Enum(), Ints: make([]int64, 1<<16)}}
			p.Functions = append(p.Functions, function("f10", many))
			for i := range 10 {
				inner := fmt.Sprintf("f%d", i+1)
				p.Functions = append(p.Functions, function(fmt.Sprintf("f%d", i), call(inner, "a", "m"), call(inner, "m", "b")))
			}
			g(p).Node = append(g(p).Node, call("f0", "x", "q"))
		}, errUnfolds, "f10"},
		"an attribute that a function repeats": {func(p *onnx.ModelProto) {
			var nodes []*onnx.NodeProto
			for i := range 1000 {
				n := node("Neg", "a", fmt.Sprint("m", i))
				n.Attribute = []*onnx.AttributeProto{{Name: proto.String("k"), Type: onnx.AttributeProto_INTS.Enum(), RefAttrName: proto.String("k")}}
				nodes = append(nodes, n)
			}
			f := function("f", append(nodes, node("Neg", "a", "b"))...)
			f.Attribute = []string{"k"}
			p.Functions = append(p.Functions, f)
			n := call("f", "x", "q")
			n.Attribute = []*onnx.AttributeProto{{Name: proto.String("k"), Type: onnx.AttributeProto_INTS.Enum(), Ints: make([]int64, 1<<16)}}
			g(p).Node = append(g(p).Node, n)
		}, errUnfolds, "m"},
		"a function of an impossible operator set": {func(p *onnx.ModelProto) {
			f := function("r", node("Neg", "a", "b"))
			f.OpsetImport = []*onnx.OperatorSetIdProto{{Version: proto.Int64(1<<32 + 17)}}
			p.Functions = append(p.Functions, f)
			g(p).Node = append(g(p).Node, call("r", "x", "q"))
		}, onnx.ErrWire, "4294967313"},
		"a function of a newer operator set that means something else": {func(p *onnx.ModelProto) {
			f := function("r", node("Softmax", "a", "b"))
			f.OpsetImport = []*onnx.OperatorSetIdProto{{Version: proto.Int64(13)}}
			p.Functions, p.OpsetImport[0].Version = append(p.Functions, f), proto.Int64(12)
			g(p).Node = append(g(p).Node, call("r", "x", "q"))
		}, rewrite.ErrOlder, "version 13"},
		"a sparse index outside": {func(p *onnx.ModelProto) {
			one := &onnx.TensorProto{Name: proto.String("s"), DataType: proto.Int32(1), Dims: []int64{1}, FloatData: []float32{1}}
			at := &onnx.TensorProto{DataType: proto.Int32(7), Dims: []int64{1}, Int64Data: []int64{4}}
			g(p).SparseInitializer = []*onnx.SparseTensorProto{{Values: one, Indices: at, Dims: []int64{4}}}
		}, onnx.ErrData, "index 4"},
		"a sparse tensor of nothing": {func(p *onnx.ModelProto) { g(p).SparseInitializer = []*onnx.SparseTensorProto{{Dims: []int64{4}}} }, onnx.ErrType, ""},
		"a negative opset":           {func(p *onnx.ModelProto) { p.OpsetImport[0].Version = proto.Int64(-1) }, onnx.ErrWire, "-1"},
		"no opset":                   {func(p *onnx.ModelProto) { p.OpsetImport = nil }, onnx.ErrOpset, ""},
		"no graph":                   {func(p *onnx.ModelProto) { p.Graph = nil }, onnx.ErrNoGraph, ""},
		"a shape without data":       {func(p *onnx.ModelProto) { g(p).Initializer[0].Dims = []int64{1 << 40} }, onnx.ErrData, `"w"`},
	} {
		p := small()
		c.spoil(p)
		path := save(t, p)
		m, err := Open(t.Context(), path)
		if m != nil {
			m.Close()
		}
		var fe *fault.Error
		if !errors.Is(err, c.want) || !errors.As(err, &fe) || fe.File != path || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v and %q", name, err, c.want, c.says)
		}
	}
}

// Nodes that are not in order are put in order; the others stay where they are.
func TestONNXOrder(t *testing.T) {
	p := small()
	n := func(in, out string) *onnx.NodeProto {
		return &onnx.NodeProto{OpType: proto.String("Neg"), Input: []string{in}, Output: []string{out}}
	}
	p.Graph.Node = append([]*onnx.NodeProto{n("y", "z"), n("b", "c"), n("a", "b"), n("x", "a")}, p.Graph.Node...)
	p.Graph.Node[4].Input[0] = "d" // the condition
	p.Graph.Node[4].Attribute[0].G.Node[0].Input[0] = "c"
	p.Graph.Input[1].Name = proto.String("d")
	m := open(t, save(t, p))
	var made []string
	for _, n := range m.Graph.Nodes {
		made = append(made, n.Out[0].Name)
	}
	if want := []string{"a", "b", "c", "y", "z"}; !slices.Equal(made, want) {
		t.Errorf("made in the order %v, want %v", made, want)
	}
}

// What a pass makes of a weight is written in the type that the graph computes with; the graph stays.
func TestONNXChangedWeight(t *testing.T) {
	m := open(t, save(t, small()))
	w := m.Find("w")
	if err := m.Replace(w.With(storage.F16, nil, &doubled{w})); err != nil {
		t.Fatal(err)
	}
	back, err := rewritten(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	got := graph.Of[float32](back.Graph.Constants()[0].Const)
	for i, v := range got {
		if v != 2*float32(i) {
			t.Fatalf("element %d is %v", i, v)
		}
	}
	if len(got) != 100 || back.Graph.Nodes[0].Op != "If" || back.Meta["producer_name"] != "hand" {
		t.Errorf("%d elements, %v", len(got), back.Meta)
	}
	if err := m.Replace(w.With(storage.Q4_0, nil, &doubled{w})); err != nil {
		t.Fatal(err)
	}
	if _, err := layONNX(m, WriteOptions{}, ""); !errors.Is(err, ErrInexact) || !errors.Is(err, fault.ErrRefused) || !strings.Contains(err.Error(), `"w"`) {
		t.Errorf("a block type: %v", err)
	}
}

// doubled is a tensor times two.
type doubled struct{ t *ir.Tensor }

func (d *doubled) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	err := d.t.Data.ReadRows(ctx, dst, lo, hi)
	for i := range dst {
		dst[i] *= 2
	}
	return err
}

func (d *doubled) ReadRaw(ctx context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	x := make([]float32, len(dst)/2)
	if err := d.ReadRows(ctx, x, lo, hi); err != nil {
		return err
	}
	return storage.MustLookup(storage.F16).Encode(dst, x, nil)
}

// Large tensors go to a file beside the model when they are asked to, and when the model would be too large for
// other readers. The files appear together, and nothing is replaced without leave.
func TestONNXExternal(t *testing.T) {
	m := open(t, onnxFiles+"external.onnx")
	out := filepath.Join(t.TempDir(), "out.onnx")
	if err := Write(t.Context(), "onnx", m, out, WriteOptions{External: true}); err != nil {
		t.Fatal(err)
	}
	back := open(t, out)
	if got, want := graphText(back.Graph), text(t, "external.txt"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	data, err := os.ReadFile(out + ".data")
	if err != nil || len(data) != 12288+4000 { // w from 0 on, b from the next multiple of 4096 on
		t.Errorf("%d bytes of external data, %v", len(data), err)
	}
	if b := graph.Of[byte](m.Graph.Constants()[2].Const); !bytes.Equal(data[12288:], b) {
		t.Error("the second tensor does not begin at a multiple of 4096")
	}
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), "onnx", m, out, WriteOptions{External: true}); !errors.Is(err, ErrExists) {
		t.Errorf("the data file was replaced: %v", err)
	}
	if err := Write(t.Context(), "onnx", m, out, WriteOptions{External: true, Force: true}); err != nil {
		t.Error(err)
	}

	m = open(t, save(t, small()))
	w := m.Graph.Constants()[0]
	w.Const = &graph.Tensor{Type: graph.Float32, Shape: []int{1 << 29}, Fill: func(context.Context, []byte, int64) error { return errors.ErrUnsupported }}
	l, err := layONNX(m, WriteOptions{}, "model.onnx.data")
	if err != nil || l.layout.External != 1<<31 || l.layout.Size > 4096 {
		t.Errorf("2 GiB: %+v, %v", l.layout, err)
	}
	w.Const.Shape = []int{1<<29 - 1<<20}
	if l, err = layONNX(m, WriteOptions{}, "model.onnx.data"); err != nil || l.layout.External != 0 {
		t.Errorf("less than 2 GiB: %+v, %v", l.layout, err)
	}
}

// A tensor that is made while it is written comes out as its Fill gives it, in whatever pieces.
func TestONNXFill(t *testing.T) {
	m := open(t, save(t, small()))
	const n = 2*pieceBytes + 12
	want := make([]byte, n)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	m.Graph.Constants()[0].Const = &graph.Tensor{Type: graph.Uint8, Shape: []int{n}, Fill: func(_ context.Context, dst []byte, off int64) error {
		copy(dst, want[off:])
		return nil
	}}
	back, err := rewritten(t.Context(), m)
	if err != nil || !bytes.Equal(back.Graph.Constants()[0].Const.Data, want) {
		t.Errorf("bytes differ, %v", err)
	}
}

// Values that are constants where nodes are expected, and names that several values have, survive a rewrite.
func TestONNXRebuilt(t *testing.T) {
	k := &graph.Value{Name: "k", Const: graph.From(graph.Float32, []float32{3}, 1)}
	x := &graph.Value{Name: "x", Type: graph.Float32, Shape: graph.Fixed(1)}
	c := &graph.Value{Name: "c", Type: graph.Bool, Shape: graph.Fixed()}
	y := &graph.Value{Name: "y", Type: graph.Float32}
	sub := func(out *graph.Value, nodes ...*graph.Node) graph.Attr {
		return graph.Attr{Kind: graph.AttrGraph, Graph: &graph.Graph{Nodes: nodes, Outputs: []*graph.Value{out}}}
	}
	other := &graph.Value{Name: "x"} // the name of the input, in a branch
	m := &ir.Model{Graph: &graph.Graph{
		Inputs: []*graph.Value{x, c}, Outputs: []*graph.Value{y, k, x}, Opset: map[string]int{"": 21},
		Nodes: []*graph.Node{
			{Op: "If", In: []*graph.Value{c}, Out: []*graph.Value{y}, Attrs: map[string]graph.Attr{
				"then_branch": sub(other, &graph.Node{Op: "Add", In: []*graph.Value{x, k}, Out: []*graph.Value{other}}),
				"else_branch": sub(k),
			}},
			{Op: "If", In: []*graph.Value{c}, Out: []*graph.Value{{Name: "y"}}, Attrs: map[string]graph.Attr{
				"then_branch": sub(x), "else_branch": sub(y),
			}},
		},
	}}
	back, err := rewritten(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	got := graphText(back.Graph)
	p := back.Graph.Extra.(*onnxExtra).file.Model
	if p.GetIrVersion() != 10 || p.GetProducerName() != "pare" {
		t.Errorf("IR version %d by %s", p.GetIrVersion(), p.GetProducerName())
	}
	three := textOfTensor(k.Const)
	want := strings.NewReplacer("THREE", three).Replace(`opset  21
input x 1[1]
input c 9[]
node If : c -> y
attr else_branch 5
output THREE
attr then_branch 5
node Add : x THREE -> x_2
output x_2 0?
node If : c -> y_2
attr else_branch 5
node Identity : y -> y_3
output y_3 1?
attr then_branch 5
node Identity : x -> x_3
output x_3 1[1]
output y 1?
output THREE
output x 1[1]
`)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Protocol buffers have no magic number: what is taken for a model, and what is not.
func TestLooksONNX(t *testing.T) {
	b, err := os.ReadFile(onnxFiles + "functions.onnx")
	if err != nil {
		t.Fatal(err)
	}
	for n := len(b); n > 4; n-- {
		if !looksONNX(b[:min(n, 512)]) {
			t.Errorf("%d of %d bytes are not recognised", n, len(b))
		}
	}
	for name, head := range map[string]string{
		"nothing": "", "text": "\nhello world", "json": `{"a": 1}`, "safetensors": "\x08\x01\x00\x00\x00\x00\x00\x00{\"a\":{}}", "gguf": "GGUF\x03\x00\x00\x00",
		"zip": "PK\x03\x04", "pickle": "\x80\x02}q\x00", "tflite": "\x1c\x00\x00\x00TFL3", "a bare number": "\x08\x08", "core ml": "\x08\x04\x12\x30\x0a\x0b\x0a\x01x",
	} {
		if looksONNX([]byte(head)) {
			t.Errorf("%s is taken for ONNX", name)
		}
	}
}

// Many values of one name, as branches may have, are read and written in a moment.
func TestONNXOfOneName(t *testing.T) {
	p := small()
	const branches = 3000
	yes := &onnx.TensorProto{Name: proto.String("yes"), DataType: proto.Int32(9), Dims: []int64{}, RawData: []byte{1}}
	p.Graph.Initializer = append(p.Graph.Initializer, yes)
	for i := range branches {
		w := &onnx.TensorProto{Name: proto.String("same"), DataType: proto.Int32(1), Dims: []int64{2}, FloatData: []float32{1, float32(i)}}
		sub := &onnx.GraphProto{
			Name: proto.String("b"), Initializer: []*onnx.TensorProto{w}, Node: []*onnx.NodeProto{node("Neg", "same", "out")},
			Output: []*onnx.ValueInfoProto{{Name: proto.String("out")}},
		}
		n := node("If", "yes", fmt.Sprint("if", i))
		for _, name := range []string{"then_branch", "else_branch"} {
			n.Attribute = append(n.Attribute, &onnx.AttributeProto{Name: proto.String(name), Type: onnx.AttributeProto_GRAPH.Enum(), G: sub})
		}
		p.Graph.Node = append(p.Graph.Node, n)
	}
	m, err := Open(t.Context(), save(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	seen := map[string]bool{}
	for _, x := range m.Tensors() {
		if seen[x.Name] {
			t.Fatalf("two weights are called %s", x.Name)
		}
		seen[x.Name] = true
	}
	if !seen[fmt.Sprintf("same#%d", 2*branches)] {
		t.Errorf("%d weights, none called same#%d", len(seen), 2*branches)
	}
	m.Graph.Extra = nil
	w, err := layONNX(m, WriteOptions{}, "")
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	for _, n := range w.next {
		tries += n
	}
	if tries > 8*branches {
		t.Errorf("%d names were tried for %d values", tries, len(w.names))
	}
}
