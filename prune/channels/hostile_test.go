package channels

import (
	"testing"

	"github.com/pare-dev/pare/ir/graph"
)

// FuzzTrace follows graphs whose nodes, attributes and shapes nobody checked, and cuts what it finds. Whatever they
// are, it must not panic, and constants must be cut to what their shapes say.
func FuzzTrace(f *testing.F) {
	f.Add([]byte("a chain of convolutions, as it were, with a residual"), byte(13))
	f.Add([]byte{1, 0, 0, 8, 3, 3, 3, 0, 2, 1, 1, 1, 0, 255, 9, 17, 33, 65, 129}, byte(8))
	ops := make([]string, 0, len(rules)+1)
	for _, op := range []string{
		"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Concat", "Split", "Slice", "Gather", "Reshape", "Flatten",
		"Transpose", "Pad", "Resize", "ReduceMean", "Softmax", "Shape", "MaxPool", "BatchNormalization", "Relu", "PRelu", "LRN",
	} {
		if rules[op] == nil && op != "LRN" {
			f.Fatalf("nobody follows %s", op)
		}
		ops = append(ops, op)
	}
	f.Fuzz(func(t *testing.T, data []byte, opset byte) {
		next := func() int {
			if len(data) == 0 {
				return 0
			}
			v := int(data[0])
			data = data[1:]
			return v
		}
		shape := func() *graph.Shape {
			k := next() % 7
			if k == 6 {
				return nil
			}
			s := make(graph.Shape, k)
			for i := range s {
				s[i].Size = next()%12 - 1
			}
			return &s
		}
		values := []*graph.Value{{Name: "in", Type: graph.Float32, Shape: shape()}}
		g := &graph.Graph{Opset: map[string]int{"": int(opset)}, Inputs: values[:1:1]}
		for len(data) > 0 && len(g.Nodes) < 12 {
			n := &graph.Node{Op: ops[next()%len(ops)], Attrs: map[string]graph.Attr{}}
			for range next() % 5 {
				switch k := next(); {
				case k%8 == 0:
					n.In = append(n.In, nil)
				case k%2 == 0:
					n.In = append(n.In, values[k%len(values)])
				default:
					known := []int{}
					for range k / 2 % 5 {
						known = append(known, next()%5)
					}
					typ := []graph.DType{graph.Float32, graph.Int64, graph.Int32, graph.Int4}[next()%4]
					c := graph.New(typ, known...)
					for i := range c.Data {
						c.Data[i] = byte(next())
					}
					n.In = append(n.In, &graph.Value{Name: "c", Type: typ, Shape: graph.Fixed(known...), Const: c})
				}
			}
			for _, name := range []string{"axis", "group", "transB", "axes", "perm", "starts", "ends", "pads", "split", "shape", "keepdims"} {
				switch k := next(); k % 5 {
				case 0:
					n.Attrs[name] = graph.Attr{Kind: graph.AttrInt, Int: int64(k/5) - 5}
				case 1:
					a := graph.Attr{Kind: graph.AttrInts}
					for range k / 5 % 5 {
						a.Ints = append(a.Ints, int64(next())-3)
					}
					n.Attrs[name] = a
				}
			}
			for range next()%3 + 1 {
				v := &graph.Value{Name: "v", Type: graph.Float32, Shape: shape()}
				n.Out = append(n.Out, v)
				values = append(values, v)
			}
			g.Nodes = append(g.Nodes, n)
		}
		tr := trace(g, nil, []string{"?[", "Gemm"})
		gone := map[int]bool{}
		for _, gr := range tr.grouped() {
			tr.bySize(gr, L1, nil)
			gr.steps(next()%9+1, 0.1)
			gr.reach(&tr.u, tr.layers)
			for _, u := range gr.order[:len(gr.units)-gr.kept[len(gr.kept)-1]] {
				gone[u] = true
			}
		}
		tr.apply(gone)
		for _, v := range g.Constants() {
			if len(v.Const.Data) != v.Const.Type.Bytes(v.Const.Elems()) {
				t.Fatalf("%s of %v has %d bytes", v.Const.Type, v.Const.Shape, len(v.Const.Data))
			}
		}
	})
}
