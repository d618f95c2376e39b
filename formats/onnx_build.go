package formats

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/ir/graph"
)

// rebuilt makes the messages of a graph that a pass has changed, or that no file was read for. Extra is the
// file it came from, nil for none.
func (w *onnxWriter) rebuilt(extra *onnxExtra) *onnx.ModelProto {
	g := w.m.Graph
	was := &onnx.ModelProto{Graph: &onnx.GraphProto{}}
	if extra != nil {
		was = extra.file.Model
		w.noteLost(was)
	}
	p := &onnx.ModelProto{
		IrVersion: proto.Int64(w.irVersion(was.GetIrVersion())), ProducerName: was.ProducerName, ProducerVersion: was.ProducerVersion,
		Domain: was.Domain, ModelVersion: was.ModelVersion, DocString: was.DocString, Configuration: was.Configuration,
		MetadataProps: entryList(g.Meta),
	}
	if extra == nil {
		p.ProducerName = proto.String("pare")
	}
	p.ProtoReflect().SetUnknown(was.ProtoReflect().GetUnknown())
	for _, d := range slices.Sorted(maps.Keys(g.Opset)) {
		p.OpsetImport = append(p.OpsetImport, &onnx.OperatorSetIdProto{Domain: proto.String(d), Version: proto.Int64(int64(g.Opset[d]))})
	}
	w.name(g)
	w.own(g)
	p.Graph = w.graph(g, true)
	p.Graph.MetadataProps = was.Graph.MetadataProps
	w.keepValues(p.Graph, was.Graph)
	for _, q := range was.Graph.QuantizationAnnotation {
		if w.taken[q.GetTensorName()] {
			p.Graph.QuantizationAnnotation = append(p.Graph.QuantizationAnnotation, q)
		}
	}
	return p
}

// noteLost tells what of a file does not survive a change of its graph.
func (w *onnxWriter) noteLost(was *onnx.ModelProto) {
	note := func(n int, format string) {
		if n > 0 {
			w.notes = append(w.notes, fmt.Sprintf(format, n))
		}
	}
	note(len(was.Functions), "%d functions of the file are written as the nodes in them")
	note(len(was.TrainingInfo), "%d training graphs of the file are left out: they belong to the graph before the change")
	devices := 0
	for _, n := range was.Graph.Node {
		devices += min(1, len(n.DeviceConfigurations))
	}
	note(devices, "the device configurations of %d nodes are left out")
}

// keepValues takes over what the file said of its inputs and outputs and the graph has no word for.
func (w *onnxWriter) keepValues(p, was *onnx.GraphProto) {
	old := map[string]*onnx.ValueInfoProto{}
	for _, v := range slices.Concat(was.Input, was.Output) {
		old[v.GetName()] = v
	}
	for _, v := range slices.Concat(p.Input, p.Output) {
		o := old[v.GetName()]
		if o == nil {
			continue
		}
		v.MetadataProps = o.MetadataProps
		if v.Type == nil || o.Type == nil {
			continue
		}
		v.Type.Denotation = o.Type.Denotation
		dims, before := v.Type.GetTensorType().GetShape().GetDim(), o.Type.GetTensorType().GetShape().GetDim()
		if len(dims) == len(before) {
			for i := range dims {
				dims[i].Denotation = before[i].Denotation
			}
		}
	}
}

// irVersion is that of the file, or the first that has what the graph needs. Before version 4 constants had to
// be inputs too, which no runtime asks for any more.
func (w *onnxWriter) irVersion(was int64) int64 {
	v := max(was, int64(onnx.Version_IR_VERSION_2019_1_22))
	opset := w.m.Graph.Opset[""]
	for _, first := range []struct {
		opset int
		ir    int64
	}{{10, 5}, {11, 6}, {12, 7}, {15, 8}, {19, 9}, {21, 10}, {23, 11}, {24, 12}, {25, 13}} { // onnx.helper's VERSION_TABLE
		if opset >= first.opset {
			v = max(v, first.ir)
		}
	}
	for _, c := range w.m.Graph.Constants() {
		switch c.Const.Type {
		case graph.F8E4M3FN, graph.F8E4M3FNUZ, graph.F8E5M2, graph.F8E5M2FNUZ:
			v = max(v, 9)
		case graph.Int4, graph.Uint4:
			v = max(v, 10)
		case graph.F4E2M1:
			v = max(v, 11)
		case graph.F8E8M0:
			v = max(v, 12)
		case graph.Int2, graph.Uint2:
			v = max(v, 13)
		}
	}
	if was > 0 && was != v {
		w.notes = append(w.notes, fmt.Sprintf("IR version %d instead of %d", v, was))
	}
	return v
}

// name gives every value a name of its own: inputs and outputs of the graph keep theirs, others do where nobody
// else has it.
func (w *onnxWriter) name(g *graph.Graph) {
	w.names, w.taken, w.next = map[*graph.Value]string{}, map[string]bool{"": true}, map[string]int{}
	for _, v := range slices.Concat(g.Inputs, g.Outputs) {
		w.unique(v)
	}
	w.nameNodes(g)
}

func (w *onnxWriter) nameNodes(g *graph.Graph) {
	for _, n := range g.Nodes {
		for _, v := range slices.Concat(n.In, n.Out) {
			w.unique(v)
		}
	}
	for _, n := range g.Nodes {
		for _, sub := range n.Graphs() {
			for _, v := range sub.Inputs {
				w.unique(v)
			}
			w.nameNodes(sub)
			for _, v := range sub.Outputs {
				w.unique(v)
			}
		}
	}
}

func (w *onnxWriter) unique(v *graph.Value) {
	if v == nil || w.names[v] != "" {
		return
	}
	w.names[v] = w.fresh(v.Name)
}

// fresh is a name that nobody has, like the one that is wanted.
func (w *onnxWriter) fresh(want string) string {
	name := want
	for w.taken[name] {
		w.next[want]++ // where the last search ended: many may want one name
		name = fmt.Sprintf("%s_%d", want, w.next[want]+1)
	}
	w.taken[name] = true
	return name
}

// own finds the graph in which each constant is declared: the innermost that holds all its readers.
func (w *onnxWriter) own(g *graph.Graph) {
	w.owner, w.around, w.owned = map[*graph.Value]*graph.Graph{}, map[*graph.Graph]*graph.Graph{}, map[*graph.Graph][]*graph.Value{}
	var order []*graph.Value
	var visit func(g *graph.Graph)
	read := func(v *graph.Value, by *graph.Graph) {
		if v == nil || v.Const == nil {
			return
		}
		have, known := w.owner[v]
		if !known {
			order = append(order, v)
			w.owner[v] = by
			return
		}
		inside := map[*graph.Graph]bool{}
		for x := have; x != nil; x = w.around[x] {
			inside[x] = true
		}
		for !inside[by] {
			by = w.around[by]
		}
		w.owner[v] = by
	}
	visit = func(g *graph.Graph) {
		for _, v := range g.Inputs {
			read(v, g)
		}
		for _, n := range g.Nodes {
			for _, v := range n.In {
				read(v, g)
			}
			for _, sub := range n.Graphs() {
				w.around[sub] = g
				visit(sub)
			}
		}
	}
	visit(g)
	for _, v := range order {
		w.owned[w.owner[v]] = append(w.owned[w.owner[v]], v)
	}
}

// graph makes the message of a graph; top is the outermost, whose names are its interface.
func (w *onnxWriter) graph(g *graph.Graph, top bool) *onnx.GraphProto {
	p := &onnx.GraphProto{Name: proto.String(g.Name)}
	if g.Name == "" {
		p.Name = proto.String("graph")
	}
	if g.Doc != "" {
		p.DocString = proto.String(g.Doc)
	}
	if !top {
		p.MetadataProps = entryList(g.Meta)
	}
	described := map[*graph.Value]bool{}
	for _, v := range g.Inputs {
		p.Input = append(p.Input, w.valueInfo(v, w.names[v]))
		described[v] = true
	}
	made := map[*graph.Value]bool{}
	for _, n := range g.Nodes {
		p.Node = append(p.Node, w.node(n))
		for _, v := range n.Out {
			made[v] = true
		}
	}
	constants := map[*graph.Value]bool{} // made by nodes
	for _, v := range g.Outputs {
		name := w.names[v]
		switch {
		case made[v] || v.Const == nil && (top || slices.Contains(g.Inputs, v)):
		case top:
			if !constants[v] && !slices.Contains(g.Inputs, v) { // an output has to have a node that makes it
				constants[v] = true
				p.Node = append([]*onnx.NodeProto{w.constant(v, name)}, p.Node...)
			}
		case v.Const != nil:
			name = w.fresh(name)
			p.Node = append(p.Node, w.constant(v, name))
		default: // a value of a graph around
			in := name
			name = w.fresh(name)
			p.Node = append(p.Node, &onnx.NodeProto{OpType: proto.String("Identity"), Input: []string{in}, Output: []string{name}})
		}
		p.Output = append(p.Output, w.valueInfo(v, name))
		described[v] = true
	}
	for _, v := range w.owned[g] {
		if !constants[v] {
			p.Initializer = append(p.Initializer, w.initializer(v))
		}
	}
	for _, n := range g.Nodes {
		for _, v := range n.Out {
			if v != nil && !described[v] && (v.Type != graph.Undefined || v.Kind != graph.KindTensor) {
				p.ValueInfo = append(p.ValueInfo, w.valueInfo(v, w.names[v]))
			}
		}
	}
	return p
}

// constant is a node that makes v.
func (w *onnxWriter) constant(v *graph.Value, name string) *onnx.NodeProto {
	t := w.initializer(v)
	t.Name = nil
	return &onnx.NodeProto{OpType: proto.String("Constant"), Output: []string{name}, Attribute: []*onnx.AttributeProto{
		{Name: proto.String("value"), Type: onnx.AttributeProto_TENSOR.Enum(), T: t},
	}}
}

// initializer is the tensor of a constant: what a pass made of its weight, or its own elements.
func (w *onnxWriter) initializer(v *graph.Value) *onnx.TensorProto {
	p := w.tensor(v.Const)
	p.Name = proto.String(w.names[v])
	t, err := w.m.Bound(v)
	if err != nil {
		w.errs = append(w.errs, err)
	}
	if t != nil {
		load, err := w.handlePayload(t, v.Const)
		if err != nil {
			w.errs = append(w.errs, inTensor(t.Name, err))
			return p
		}
		w.builder.Attach(p, load)
	}
	return p
}

// tensor is the message of a tensor; what is large is attached.
func (w *onnxWriter) tensor(t *graph.Tensor) *onnx.TensorProto {
	p := &onnx.TensorProto{DataType: proto.Int32(int32(t.Type)), Dims: make([]int64, len(t.Shape))}
	for i, d := range t.Shape {
		p.Dims[i] = int64(d)
	}
	switch {
	case t.Type == graph.String:
		for _, s := range t.Strings {
			p.StringData = append(p.StringData, []byte(s))
		}
	case t.Fill != nil || len(t.Data) > onnx.ExternalMin:
		w.builder.Attach(p, w.tensorPayload(t))
	default:
		p.RawData = append([]byte{}, t.Data...)
	}
	return p
}
