package onnx

// Tensors visits every tensor of a model: initializers and those of attributes, in subgraphs, functions and
// training graphs too, in an order that depends on nothing else.
func Tensors(m *ModelProto, fn func(*TensorProto)) { walkModel(m, visitor{fn, fn}) }

// AttributeTensors visits the tensors of one attribute.
func AttributeTensors(a *AttributeProto, fn func(*TensorProto)) {
	visitor{fn, fn}.attributes([]*AttributeProto{a})
}

// initializers visits only the dense initializers of all graphs: what other readers expect to be external.
func initializers(m *ModelProto, fn func(*TensorProto)) {
	walkModel(m, visitor{fn, func(*TensorProto) {}})
}

type visitor struct{ initializer, attribute func(*TensorProto) }

func walkModel(m *ModelProto, v visitor) {
	v.graph(m.Graph)
	for _, t := range m.TrainingInfo {
		v.graph(t.Initialization)
		v.graph(t.Algorithm)
	}
	for _, f := range m.Functions {
		v.attributes(f.AttributeProto)
		v.nodes(f.Node)
	}
}

func (v visitor) graph(g *GraphProto) {
	if g == nil {
		return
	}
	for _, t := range g.Initializer {
		v.initializer(t)
	}
	for _, s := range g.SparseInitializer {
		v.sparse(s, v.attribute)
	}
	v.nodes(g.Node)
}

func (v visitor) nodes(nodes []*NodeProto) {
	for _, n := range nodes {
		v.attributes(n.Attribute)
	}
}

func (v visitor) attributes(attrs []*AttributeProto) {
	for _, a := range attrs {
		if a.T != nil {
			v.attribute(a.T)
		}
		for _, t := range a.Tensors {
			v.attribute(t)
		}
		v.sparse(a.SparseTensor, v.attribute)
		for _, s := range a.SparseTensors {
			v.sparse(s, v.attribute)
		}
		v.graph(a.G)
		for _, g := range a.Graphs {
			v.graph(g)
		}
	}
}

func (v visitor) sparse(s *SparseTensorProto, fn func(*TensorProto)) {
	if s == nil {
		return
	}
	for _, t := range []*TensorProto{s.Values, s.Indices} {
		if t != nil {
			fn(t)
		}
	}
}
