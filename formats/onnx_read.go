package formats

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
)

// Reasons for refusing a graph.
var (
	errNobody    = errors.New("nobody produces the value")
	errAttribute = errors.New("bad attribute")
)

// onnxReader makes a graph of the messages of a file. Edges are names there and pointers here; nodes need not
// be in order there.
type onnxReader struct {
	ctx       context.Context //nolint:containedctx // lives as long as one call of readONNX
	f         *onnx.File
	m         *ir.Model
	functions map[string]*onnx.FunctionProto
	calls     []string // functions that are being inlined, outermost first
	inlined   int      // nodes that functions have made so far
	tensors   map[*onnx.TensorProto]readTensor
	weights   []onnxWeight
	opset     map[string]int
	told      map[string]bool // differences of operator sets
	dense     map[*onnx.SparseTensorProto]*graph.Tensor
	bodies    map[*onnx.FunctionProto]bulk
	spare     int64 // bytes that the file may still be unfolded to
	upgrader  *rewrite.Upgrader
	listed    map[string]int // how many weights had a name
}

// scope is the names that a graph, or the body of a function, can see.
type scope struct {
	outer  *scope
	values map[string]*graph.Value // nil for optional parameters that the caller left out
	given  map[string]*graph.Value // what declare takes instead of a new value: outputs of a call
	attrs  map[string]passed       // of the function around; nil outside functions
	prefix string                  // of names, unique for each call of a function
	opset  int                     // version of ai.onnx that its nodes are written for; 0 is the model's
}

func (s *scope) find(name string) (v *graph.Value, ok bool) {
	for ; s != nil; s = s.outer {
		if v, ok = s.values[name]; ok {
			return v, true
		}
	}
	return nil, false
}

// inner is a scope inside s, for a subgraph.
func (s *scope) inner() *scope {
	if s == nil {
		return &scope{values: map[string]*graph.Value{}}
	}
	return &scope{outer: s, values: map[string]*graph.Value{}, attrs: s.attrs, prefix: s.prefix, opset: s.opset}
}

// opsetOf is an operator set that is imported.
func opsetOf(o *onnx.OperatorSetIdProto) (string, int, error) {
	d, v := domain(o.GetDomain()), o.GetVersion()
	if v < 0 || v > 1<<31-1 {
		return d, 0, fmt.Errorf("%w: version %d of operator set %q", onnx.ErrWire, v, d)
	}
	return d, int(v), nil
}

// domain spells the default domain one way.
func domain(d string) string {
	if d == "ai.onnx" {
		return ""
	}
	return d
}

func (r *onnxReader) model() (*graph.Graph, error) {
	p := r.f.Model
	r.opset = map[string]int{}
	for _, o := range p.OpsetImport {
		d, v, err := opsetOf(o)
		if err != nil {
			return nil, err
		}
		r.opset[d] = max(r.opset[d], v)
	}
	if len(p.OpsetImport) == 0 {
		r.opset[""] = 1 // files of the first IR versions name none
	}
	r.functions = map[string]*onnx.FunctionProto{}
	for _, f := range p.Functions {
		r.functions[functionKey(f.GetDomain(), f.GetName(), f.GetOverload())] = f
	}
	g, err := r.graph(p.Graph, nil)
	if err != nil {
		return nil, err
	}
	g.Opset, g.Meta = r.opset, entries(p.MetadataProps)
	if err := g.Check(); err != nil {
		return nil, err
	}
	return g, nil
}

func entries(list []*onnx.StringStringEntryProto) map[string]string {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]string, len(list))
	for _, e := range list {
		m[e.GetKey()] = e.GetValue()
	}
	return m
}

// graph reads a graph; the scope around a subgraph is outer.
func (r *onnxReader) graph(p *onnx.GraphProto, outer *scope) (*graph.Graph, error) {
	s := outer.inner()
	g := &graph.Graph{Name: p.GetName(), Doc: p.GetDocString(), Meta: entries(p.MetadataProps)}
	inputs := map[string]bool{}
	for _, i := range p.Input {
		v, err := s.declare(i.GetName(), graph.ErrTwice)
		if err != nil {
			return nil, err
		}
		inputs[i.GetName()] = true
		g.Inputs = append(g.Inputs, v)
	}
	if err := r.initializers(p, s, inputs); err != nil {
		return nil, err
	}
	if outer == nil && r.f.Model.GetIrVersion() < int64(onnx.Version_IR_VERSION_2019_1_22) {
		// Before IR version 4 every initializer had to be an input as well; runtimes take them as constants.
		var free []*graph.Value
		for _, v := range g.Inputs {
			if v.Const == nil {
				free = append(free, v)
			}
		}
		g.Inputs = free
	}
	if err := r.declareOutputs(p.Node, s); err != nil {
		return nil, err
	}
	for _, list := range [][]*onnx.ValueInfoProto{p.Input, p.Output, p.ValueInfo} {
		for _, i := range list {
			if v := s.values[i.GetName()]; v != nil {
				describe(v, i)
			}
		}
	}
	var err error
	if g.Nodes, err = r.body(p.Node, s); err != nil {
		return nil, err
	}
	for _, o := range p.Output {
		v, ok := s.find(o.GetName())
		if !ok || v == nil {
			return nil, &fault.Error{Tensor: o.GetName(), Err: fmt.Errorf("%w: it is an output of the graph", errNobody)}
		}
		g.Outputs = append(g.Outputs, v)
	}
	return g, nil
}

// declare adds a name to the scope.
func (s *scope) declare(name string, twice error) (*graph.Value, error) {
	if _, dup := s.values[name]; dup {
		return nil, &fault.Error{Tensor: name, Err: twice}
	}
	v := s.given[name]
	if v == nil {
		v = &graph.Value{Name: s.prefix + name}
	}
	delete(s.given, name)
	s.values[name] = v
	return v, nil
}

// initializers declares the constants of a graph, or gives its inputs their defaults.
func (r *onnxReader) initializers(p *onnx.GraphProto, s *scope, inputs map[string]bool) error {
	set := func(name string, t *graph.Tensor, d *onnx.Data) error {
		v := s.values[name]
		if v == nil || !inputs[name] {
			var err error
			if v, err = s.declare(name, ir.ErrDuplicate); err != nil {
				return err
			}
		}
		delete(inputs, name) // a second one is a duplicate
		constant(v, t)
		r.weights = append(r.weights, onnxWeight{v, d})
		return nil
	}
	for _, t := range p.Initializer {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		x, d, err := r.tensor(t)
		if err == nil {
			err = set(t.GetName(), x, d)
		}
		if err != nil {
			return inTensor(t.GetName(), err)
		}
	}
	for _, t := range p.SparseInitializer {
		name := t.GetValues().GetName()
		x, err := r.sparse(t)
		if err == nil {
			err = set(name, x, &onnx.Data{})
		}
		if err != nil {
			return inTensor(name, err)
		}
	}
	return nil
}

// constant makes v a constant.
func constant(v *graph.Value, t *graph.Tensor) {
	v.Const, v.Type, v.Shape = t, t.Type, graph.Fixed(t.Shape...)
}

// inTensor names the tensor in an error that names none.
func inTensor(name string, err error) error {
	return ir.Wrap(&ir.Tensor{Name: name}, "", err)
}

// declareOutputs adds what nodes produce to the scope, before anybody reads it.
func (r *onnxReader) declareOutputs(nodes []*onnx.NodeProto, s *scope) error {
	for _, n := range nodes {
		for _, name := range n.Output {
			if name == "" {
				continue
			}
			if _, err := s.declare(name, graph.ErrTwice); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxInlined bounds the nodes that functions which call functions can blow up to.
const maxInlined = 1 << 18

// body reads nodes whose outputs are declared, and puts them in order. Constants become values, calls of the
// file's functions what is in them.
func (r *onnxReader) body(nodes []*onnx.NodeProto, s *scope) ([]*graph.Node, error) {
	var out []*graph.Node
	for _, p := range nodes {
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
		if len(r.calls) > 0 {
			if r.inlined++; r.inlined > maxInlined {
				return nil, fmt.Errorf("%w: they make more than %d nodes", errFunctions, maxInlined)
			}
		}
		made, err := r.node(p, s)
		if err != nil {
			var fe *fault.Error
			if errors.As(err, &fe) && fe.Op != "" {
				return nil, err
			}
			return nil, &fault.Error{Op: "node " + nodeLabel(p), Err: err}
		}
		out = append(out, made...)
	}
	return inOrder(out)
}

func nodeLabel(p *onnx.NodeProto) string {
	n := graph.Node{Name: p.GetName(), Op: p.GetOpType()}
	if len(p.Output) > 0 {
		n.Out = []*graph.Value{{Name: p.Output[0]}}
	}
	return n.Label()
}

// node reads one node: none for a constant, several for a function.
func (r *onnxReader) node(p *onnx.NodeProto, s *scope) ([]*graph.Node, error) {
	n := &graph.Node{
		Name: p.GetName(), Op: p.GetOpType(), Domain: domain(p.GetDomain()), Doc: p.GetDocString(),
		Meta: entries(p.MetadataProps), Attrs: map[string]graph.Attr{},
	}
	if n.Name != "" {
		n.Name = s.prefix + n.Name
	}
	for _, name := range p.Input {
		var v *graph.Value
		if name != "" {
			var ok bool
			if v, ok = s.find(name); !ok {
				return nil, &fault.Error{Tensor: name, Err: fmt.Errorf("%w: it is an input of node %s", errNobody, nodeLabel(p)), Op: "onnx"}
			}
		}
		n.In = append(n.In, v)
	}
	for _, name := range p.Output {
		n.Out = append(n.Out, s.values[name]) // nil for ""
	}
	if f := r.functions[functionKey(p.GetDomain(), p.GetOpType(), p.GetOverload())]; f != nil {
		return r.call(f, p, n, s)
	}
	if n.Domain == "" && n.Op == "Constant" && len(n.Out) == 1 && n.Out[0] != nil {
		return nil, r.constantNode(p, n.Out[0], s)
	}
	for _, a := range p.Attribute {
		if _, dup := n.Attrs[a.GetName()]; dup {
			return nil, fmt.Errorf("%w %q: %w", errAttribute, a.GetName(), ir.ErrDuplicate)
		}
		attr, ok, err := r.attr(a, s)
		if err != nil {
			return nil, err
		}
		if ok {
			n.Attrs[a.GetName()] = attr
		}
	}
	return r.lift(n, s)
}

// inOrder sorts nodes so that values are made before they are read; those in order stay as they are.
func inOrder(nodes []*graph.Node) ([]*graph.Node, error) {
	maker := map[*graph.Value]int{}
	for i, n := range nodes {
		for _, v := range n.Out {
			if v != nil {
				maker[v] = i
			}
		}
	}
	needs := make([]int, len(nodes)) // of other nodes, not placed yet
	readers := make([][]int, len(nodes))
	sorted := true
	for i, n := range nodes {
		seen := map[int]bool{}
		for v := range graph.Reads(n) {
			if j, ok := maker[v]; ok && !seen[j] {
				seen[j] = true
				needs[i]++
				readers[j] = append(readers[j], i)
				sorted = sorted && j < i
			}
		}
	}
	if sorted {
		return nodes, nil
	}
	out := make([]*graph.Node, 0, len(nodes))
	ready := &firsts{}
	for i := range nodes {
		if needs[i] == 0 {
			heap.Push(ready, i)
		}
	}
	for ready.Len() > 0 {
		i := heap.Pop(ready).(int)
		out = append(out, nodes[i])
		for _, j := range readers[i] {
			if needs[j]--; needs[j] == 0 {
				heap.Push(ready, j)
			}
		}
	}
	if len(out) < len(nodes) {
		for i, n := range nodes {
			if needs[i] > 0 {
				return nil, &fault.Error{Op: "node " + n.Label(), Err: graph.ErrCycle}
			}
		}
	}
	return out, nil
}

// firsts is a heap of places of nodes: of those that could come next, the one that came first in the file.
type firsts struct{ sort.IntSlice }

func (f *firsts) Push(x any) { f.IntSlice = append(f.IntSlice, x.(int)) }

func (f *firsts) Pop() any {
	last := f.IntSlice[len(f.IntSlice)-1]
	f.IntSlice = f.IntSlice[:len(f.IntSlice)-1]
	return last
}
