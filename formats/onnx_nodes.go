package formats

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/ir/graph"
)

func entryList(m map[string]string) []*onnx.StringStringEntryProto {
	var out []*onnx.StringStringEntryProto
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, &onnx.StringStringEntryProto{Key: proto.String(k), Value: proto.String(m[k])})
	}
	return out
}

// optional is a string that is left out when it is empty.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (w *onnxWriter) node(n *graph.Node) *onnx.NodeProto {
	p := &onnx.NodeProto{
		Name: optional(n.Name), OpType: proto.String(n.Op), Domain: optional(n.Domain), DocString: optional(n.Doc),
		MetadataProps: entryList(n.Meta),
	}
	for _, v := range n.In {
		p.Input = append(p.Input, w.names[v]) // "" for nil
	}
	for _, v := range n.Out {
		p.Output = append(p.Output, w.names[v])
	}
	for _, name := range slices.Sorted(maps.Keys(n.Attrs)) {
		p.Attribute = append(p.Attribute, w.attr(name, n.Attrs[name]))
	}
	return p
}

func (w *onnxWriter) attr(name string, a graph.Attr) *onnx.AttributeProto {
	if raw, ok := a.Raw.(*onnx.AttributeProto); ok {
		c := proto.Clone(raw).(*onnx.AttributeProto)
		c.Name, c.RefAttrName = proto.String(name), nil
		if w.file != nil {
			onnx.AttributeTensors(c, func(t *onnx.TensorProto) { w.attachFrom(w.file, t) })
		}
		return c
	}
	p := &onnx.AttributeProto{Name: proto.String(name), Type: onnx.AttributeProto_AttributeType(a.Kind).Enum()}
	switch a.Kind {
	case graph.AttrFloat:
		p.F = proto.Float32(a.Float)
	case graph.AttrInt:
		p.I = proto.Int64(a.Int)
	case graph.AttrString:
		p.S = []byte(a.String)
	case graph.AttrTensor:
		p.T = w.tensor(a.Tensor)
	case graph.AttrGraph:
		p.G = w.graph(a.Graph, false)
	case graph.AttrFloats:
		p.Floats = slices.Clone(a.Floats)
	case graph.AttrInts:
		p.Ints = slices.Clone(a.Ints)
	case graph.AttrStrings:
		for _, s := range a.Strings {
			p.Strings = append(p.Strings, []byte(s))
		}
	case graph.AttrTensors:
		for _, t := range a.Tensors {
			p.Tensors = append(p.Tensors, w.tensor(t))
		}
	case graph.AttrGraphs:
		for _, g := range a.Graphs {
			p.Graphs = append(p.Graphs, w.graph(g, false))
		}
	}
	return p
}

// valueInfo describes a value under a name.
func (w *onnxWriter) valueInfo(v *graph.Value, name string) *onnx.ValueInfoProto {
	return &onnx.ValueInfoProto{Name: proto.String(name), DocString: optional(v.Doc), Type: typeMessage(v)}
}

// typeMessage is the type of a value, nil when nothing is known.
func typeMessage(v *graph.Value) *onnx.TypeProto {
	if raw, ok := v.Raw.(*onnx.TypeProto); ok && v.Kind == graph.KindOther {
		return raw
	}
	if v.Type == graph.Undefined {
		return nil
	}
	tensor := &onnx.TypeProto_Tensor{ElemType: proto.Int32(int32(v.Type)), Shape: shapeMessage(v.Shape)}
	p := &onnx.TypeProto{Value: &onnx.TypeProto_TensorType{TensorType: tensor}}
	if v.Kind == graph.KindSequence || v.Kind == graph.KindOptionalSequence {
		p = &onnx.TypeProto{Value: &onnx.TypeProto_SequenceType{SequenceType: &onnx.TypeProto_Sequence{ElemType: p}}}
	}
	if v.Kind == graph.KindOptional || v.Kind == graph.KindOptionalSequence {
		p = &onnx.TypeProto{Value: &onnx.TypeProto_OptionalType{OptionalType: &onnx.TypeProto_Optional{ElemType: p}}}
	}
	return p
}

func shapeMessage(s *graph.Shape) *onnx.TensorShapeProto {
	if s == nil {
		return nil
	}
	p := &onnx.TensorShapeProto{}
	for _, d := range *s {
		dim := &onnx.TensorShapeProto_Dimension{}
		switch {
		case d.Size >= 0:
			dim.Value = &onnx.TensorShapeProto_Dimension_DimValue{DimValue: int64(d.Size)}
		case d.Name != "":
			dim.Value = &onnx.TensorShapeProto_Dimension_DimParam{DimParam: d.Name}
		}
		p.Dim = append(p.Dim, dim)
	}
	return p
}
