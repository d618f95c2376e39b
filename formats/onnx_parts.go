package formats

import (
	"fmt"
	"slices"
	"unsafe"

	"google.golang.org/protobuf/proto"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/ir/graph"
)

// smallTensor is up to what size a tensor that lies in the file aligned for nothing is copied, so that its
// elements can be read where they are. Larger ones are rearranged by whoever computes with them.
const smallTensor = 64 << 10

// tensor reads a tensor, once for each message.
func (r *onnxReader) tensor(p *onnx.TensorProto) (*graph.Tensor, *onnx.Data, error) {
	if t, ok := r.tensors[p]; ok { // of a function that was called before
		return t.t, t.d, nil
	}
	d, err := r.f.Data(p)
	if err != nil {
		return nil, nil, err
	}
	t := graphTensor(d)
	r.tensors[p] = readTensor{t, d}
	return t, d, nil
}

// readTensor is a tensor with the place of its data.
type readTensor struct {
	t *graph.Tensor
	d *onnx.Data
}

// graphTensor is a tensor of the data, which may lie in a mapped file.
func graphTensor(d *onnx.Data) *graph.Tensor {
	t := &graph.Tensor{Type: graph.DType(d.Type), Shape: d.Shape, Data: d.Bytes, Strings: d.Strings}
	size := max(t.Type.Bits()/8, 1)
	start := uintptr(unsafe.Pointer(unsafe.SliceData(t.Data)))
	switch {
	case len(t.Data) > 0 && len(t.Data) <= smallTensor && (d.File != nil || start%uintptr(min(size, 8)) != 0):
		t.Data = graph.Aligned(len(d.Bytes))
		copy(t.Data, d.Bytes)
	case d.File != nil:
		file, off, n := d.File, d.Offset, int64(len(d.Bytes))
		t.Drop = func() { file.Drop(off, n) }
	}
	return t
}

// sparse expands a tensor of coordinates: values [n], indices [n] into the flat tensor or [n, rank].
func (r *onnxReader) sparse(p *onnx.SparseTensorProto) (*graph.Tensor, error) {
	if t := r.dense[p]; t != nil { // of a function that was called before
		return t, nil
	}
	t, err := r.expand(p)
	r.dense[p] = t
	return t, err
}

func (r *onnxReader) expand(p *onnx.SparseTensorProto) (*graph.Tensor, error) {
	values, _, err := r.tensor(p.GetValues())
	if err != nil {
		return nil, err
	}
	indices, _, err := r.tensor(p.GetIndices())
	if err != nil {
		return nil, err
	}
	at, err := indices.Ints()
	if err != nil || len(values.Shape) != 1 || values.Type.Bits() < 8 {
		return nil, fmt.Errorf("%w: a sparse tensor of values %s %v and indices %s %v", onnx.ErrData, values.Type, values.Shape, indices.Type, indices.Shape)
	}
	out := &graph.Tensor{Type: values.Type, Shape: make([]int, len(p.GetDims()))}
	for i, d := range p.GetDims() {
		out.Shape[i] = int(min(d, graph.MaxElems+1))
	}
	if err := graph.CheckShape(out.Shape); err != nil {
		return nil, fmt.Errorf("%w: %w", onnx.ErrShape, err)
	}
	size, n := values.Type.Bits()/8, values.Shape[0]
	if err := r.unfold(int64(out.Elems()) * int64(size)); err != nil {
		return nil, fmt.Errorf("a sparse tensor of %d elements of %d bytes: %w", out.Elems(), size, err)
	}
	out.Data = graph.Aligned(out.Elems() * size)
	rank := len(out.Shape)
	flat := slices.Equal(indices.Shape, []int{n})
	if !flat && !slices.Equal(indices.Shape, []int{n, rank}) {
		return nil, fmt.Errorf("%w: %d sparse values with indices %v", onnx.ErrData, n, indices.Shape)
	}
	for i := range n {
		k := 0
		if flat {
			if at[i] < 0 || at[i] >= int64(out.Elems()) {
				return nil, fmt.Errorf("%w: sparse index %d of %d", onnx.ErrData, at[i], out.Elems())
			}
			k = int(at[i])
		} else {
			for j, d := range out.Shape {
				x := at[i*rank+j]
				if x < 0 || x >= int64(d) {
					return nil, fmt.Errorf("%w: sparse index %v of %v", onnx.ErrData, at[i*rank:(i+1)*rank], out.Shape)
				}
				k = k*d + int(x)
			}
		}
		copy(out.Data[k*size:(k+1)*size], values.Data[i*size:])
	}
	return out, nil
}

// kindOf is what an attribute holds. Files of the first IR versions do not say.
func kindOf(p *onnx.AttributeProto) onnx.AttributeProto_AttributeType {
	switch {
	case p.GetType() != onnx.AttributeProto_UNDEFINED:
		return p.GetType()
	case p.F != nil:
		return onnx.AttributeProto_FLOAT
	case p.I != nil:
		return onnx.AttributeProto_INT
	case p.S != nil:
		return onnx.AttributeProto_STRING
	case p.T != nil:
		return onnx.AttributeProto_TENSOR
	case p.G != nil:
		return onnx.AttributeProto_GRAPH
	case len(p.Floats) > 0:
		return onnx.AttributeProto_FLOATS
	case len(p.Ints) > 0:
		return onnx.AttributeProto_INTS
	case len(p.Strings) > 0:
		return onnx.AttributeProto_STRINGS
	case len(p.Tensors) > 0:
		return onnx.AttributeProto_TENSORS
	case len(p.Graphs) > 0:
		return onnx.AttributeProto_GRAPHS
	}
	return onnx.AttributeProto_UNDEFINED
}

// attr reads an attribute; false for one that refers to what the caller of a function left out.
func (r *onnxReader) attr(p *onnx.AttributeProto, s *scope) (a graph.Attr, ok bool, err error) {
	if ref := p.GetRefAttrName(); ref != "" {
		if s.attrs == nil {
			return a, false, fmt.Errorf("%w %q: it refers to %q outside a function", errAttribute, p.GetName(), ref)
		}
		given, found := s.attrs[ref]
		if !found {
			return a, false, nil
		}
		p, s = given.attr, given.scope
		if err := r.unfold(expansion * int64(proto.Size(p))); err != nil {
			return a, false, fmt.Errorf("%w: %w", errFunctions, err)
		}
	}
	switch kind := kindOf(p); kind {
	case onnx.AttributeProto_FLOAT:
		a.Float = p.GetF()
	case onnx.AttributeProto_INT:
		a.Int = p.GetI()
	case onnx.AttributeProto_STRING:
		a.String = string(p.GetS())
	case onnx.AttributeProto_FLOATS:
		a.Floats = slices.Clone(p.Floats)
	case onnx.AttributeProto_INTS:
		a.Ints = slices.Clone(p.Ints)
	case onnx.AttributeProto_STRINGS:
		for _, b := range p.Strings {
			a.Strings = append(a.Strings, string(b))
		}
	case onnx.AttributeProto_TENSOR:
		if p.T == nil {
			return a, false, fmt.Errorf("%w %q: no tensor", errAttribute, p.GetName())
		}
		a.Tensor, _, err = r.tensor(p.T)
	case onnx.AttributeProto_TENSORS:
		for _, t := range p.Tensors {
			x, _, err := r.tensor(t)
			if err != nil {
				return a, false, fmt.Errorf("%w %q: %w", errAttribute, p.GetName(), err)
			}
			a.Tensors = append(a.Tensors, x)
		}
	case onnx.AttributeProto_GRAPH:
		if p.G == nil {
			return a, false, fmt.Errorf("%w %q: no graph", errAttribute, p.GetName())
		}
		a.Graph, err = r.graph(p.G, s)
	case onnx.AttributeProto_GRAPHS:
		for _, g := range p.Graphs {
			x, err := r.graph(g, s)
			if err != nil {
				return a, false, err
			}
			a.Graphs = append(a.Graphs, x)
		}
	default:
		a.Raw = p
		return a, true, nil
	}
	a.Kind = graph.AttrKind(kindOf(p))
	return a, true, err
}

// constantNode makes v the constant that a Constant node gives.
func (r *onnxReader) constantNode(p *onnx.NodeProto, v *graph.Value, s *scope) error {
	for _, raw := range p.Attribute {
		a, ok, err := r.attr(raw, s)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		var t *graph.Tensor
		var d *onnx.Data
		switch raw.GetName() {
		case "value":
			if t = a.Tensor; t != nil && raw.T != nil {
				d = r.tensors[raw.T].d
			}
		case "sparse_value":
			if p, ok := a.Raw.(*onnx.AttributeProto); ok && p.SparseTensor != nil {
				if t, err = r.sparse(p.SparseTensor); err != nil {
					return err
				}
			}
		case "value_float":
			t = graph.From(graph.Float32, []float32{a.Float})
		case "value_floats":
			t = graph.From(graph.Float32, a.Floats, len(a.Floats))
		case "value_int":
			t = graph.From(graph.Int64, []int64{a.Int})
		case "value_ints":
			t = graph.From(graph.Int64, a.Ints, len(a.Ints))
		case "value_string":
			t = &graph.Tensor{Type: graph.String, Shape: []int{}, Strings: []string{a.String}}
		case "value_strings":
			t = &graph.Tensor{Type: graph.String, Shape: []int{len(a.Strings)}, Strings: a.Strings}
		}
		if t == nil {
			return fmt.Errorf("%w %q of a constant", errAttribute, raw.GetName())
		}
		constant(v, t)
		if t.Type.Float() && t.Elems() > 1 { // a weight; single numbers and shapes are parts of operators
			if d == nil {
				d = &onnx.Data{}
			}
			r.weights = append(r.weights, onnxWeight{v, d})
		}
		return nil
	}
	return fmt.Errorf("%w: a constant without a value", errAttribute)
}

// describe gives a value the type that the file states.
func describe(v *graph.Value, p *onnx.ValueInfoProto) {
	v.Doc = p.GetDocString()
	if v.Const != nil || p.Type == nil {
		return
	}
	v.Kind, v.Type, v.Shape, v.Raw = typeOf(p.Type)
}

func typeOf(p *onnx.TypeProto) (kind graph.Kind, typ graph.DType, shape *graph.Shape, raw any) {
	if t := p.GetTensorType(); t != nil {
		return graph.KindTensor, graph.DType(t.GetElemType()), shapeOf(t.Shape), nil
	}
	if t := p.GetSequenceType(); t != nil {
		if kind, typ, shape, _ := typeOf(t.GetElemType()); kind == graph.KindTensor {
			return graph.KindSequence, typ, shape, nil
		}
	}
	if t := p.GetOptionalType(); t != nil {
		switch kind, typ, shape, _ := typeOf(t.GetElemType()); kind {
		case graph.KindTensor:
			return graph.KindOptional, typ, shape, nil
		case graph.KindSequence:
			return graph.KindOptionalSequence, typ, shape, nil
		}
	}
	if p.GetValue() == nil {
		return graph.KindTensor, graph.Undefined, nil, nil
	}
	return graph.KindOther, graph.Undefined, nil, p
}

func shapeOf(p *onnx.TensorShapeProto) *graph.Shape {
	if p == nil {
		return nil
	}
	s := make(graph.Shape, len(p.Dim))
	for i, d := range p.Dim {
		s[i] = graph.Dim{Size: -1, Name: d.GetDimParam()}
		if x, ok := d.GetValue().(*onnx.TensorShapeProto_Dimension_DimValue); ok && x.DimValue >= 0 && x.DimValue <= graph.MaxElems {
			s[i].Size = int(x.DimValue)
		}
	}
	return &s
}
