package formats

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/ir/graph"
)

// errFunctions is the reason when the functions of a file cannot be put in place of their calls.
var errFunctions = errors.New("the functions of the file cannot be inlined")

// maxCalls bounds how deeply functions call each other.
const maxCalls = 64

// passed is an attribute of a call, with the scope that its graphs see.
type passed struct {
	attr  *onnx.AttributeProto
	scope *scope
}

func functionKey(dom, name, overload string) string {
	return domain(dom) + "\x00" + name + "\x00" + overload
}

// call puts the body of a function in place of the node n, which p is.
func (r *onnxReader) call(f *onnx.FunctionProto, p *onnx.NodeProto, n *graph.Node, s *scope) ([]*graph.Node, error) {
	key := functionKey(f.GetDomain(), f.GetName(), f.GetOverload())
	switch {
	case slices.Contains(r.calls, key):
		return nil, fmt.Errorf("%w: %s calls itself", errFunctions, f.GetName())
	case len(r.calls) == maxCalls:
		return nil, fmt.Errorf("%w: more than %d call each other", errFunctions, maxCalls)
	case len(n.In) > len(f.Input) || len(n.Out) > len(f.Output):
		return nil, fmt.Errorf("%w: %s takes %d inputs and makes %d outputs, the node has %d and %d",
			errFunctions, f.GetName(), len(f.Input), len(f.Output), len(n.In), len(n.Out))
	}
	r.calls = append(r.calls, key)
	defer func() { r.calls = r.calls[:len(r.calls)-1] }()
	r.imports(f)
	inner := &scope{values: map[string]*graph.Value{}, given: map[string]*graph.Value{}, attrs: map[string]passed{}, prefix: callPrefix(n)}
	for i, name := range f.Input {
		inner.values[name] = n.Input(i)
	}
	for i, name := range f.Output {
		if v := n.Output(i); v != nil {
			inner.given[name] = v
		}
	}
	for _, a := range f.AttributeProto {
		inner.attrs[a.GetName()] = passed{a, inner}
	}
	for _, a := range p.Attribute {
		given := passed{a, s}
		if ref := a.GetRefAttrName(); ref != "" { // handed on from the caller's caller
			var ok bool
			if given, ok = s.attrs[ref]; !ok {
				continue
			}
		}
		inner.attrs[a.GetName()] = given
	}
	if err := r.declareOutputs(f.Node, inner); err != nil {
		return nil, err
	}
	for _, i := range f.ValueInfo {
		if v := inner.values[i.GetName()]; v != nil && v.Type == graph.Undefined {
			describe(v, i)
		}
	}
	nodes, err := r.body(f.Node, inner)
	if err != nil {
		return nil, err
	}
	for i, name := range f.Output { // outputs that no node of the body makes: inputs handed through
		if inner.given[name] == nil {
			continue
		}
		in := inner.values[name]
		if in == nil {
			return nil, fmt.Errorf("%w: %s does not make its output %q", errFunctions, f.GetName(), name)
		}
		nodes = append(nodes, &graph.Node{Op: "Identity", In: []*graph.Value{in}, Out: []*graph.Value{n.Out[i]}, Attrs: map[string]graph.Attr{}})
	}
	return nodes, nil
}

// callPrefix names what is inside a call after its first output, which no other call has.
func callPrefix(n *graph.Node) string {
	for _, v := range n.Out {
		if v != nil {
			return v.Name + "/"
		}
	}
	return n.Name + "/"
}

// imports adds the operator sets of a function to those of the model, and notes where they differ.
func (r *onnxReader) imports(f *onnx.FunctionProto) {
	for _, o := range f.OpsetImport {
		d, v := domain(o.GetDomain()), int(o.GetVersion())
		have, ok := r.opset[d]
		if !ok {
			r.opset[d] = v
			continue
		}
		key := fmt.Sprintf("%s\x00%s\x00%d", f.GetDomain(), f.GetName(), v)
		if have != v && !r.told[key] {
			r.told[key] = true
			problemf(r.m, "", "function %s is written for version %d of operator set %q, the model for %d: its operators are taken as the model's", f.GetName(), v, d, have)
		}
	}
}
