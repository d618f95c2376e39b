package formats

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/internal/fault"
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
	inner := &scope{values: map[string]*graph.Value{}, given: map[string]*graph.Value{}, attrs: map[string]passed{}, prefix: r.prefix(n)}
	var err error
	if inner.opset, err = r.imports(f); err != nil {
		return nil, err
	}
	if err := r.unfolds(f, len(inner.prefix)); err != nil {
		return nil, err
	}
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

// longPrefix bounds the names that functions in functions get.
const longPrefix = 1 << 10

// prefix names what is inside a call after its first output, which no other call has.
func (r *onnxReader) prefix(n *graph.Node) string {
	name := n.Name
	for _, v := range n.Out {
		if v != nil {
			name = v.Name
			break
		}
	}
	if len(name) > longPrefix {
		name = fmt.Sprintf("%s~%d", name[:longPrefix], r.inlined)
	}
	return name + "/"
}

// imports adds the operator sets of a function to those of the model, and says which version of ai.onnx it is
// written for.
func (r *onnxReader) imports(f *onnx.FunctionProto) (version int, err error) {
	for _, o := range f.OpsetImport {
		d, v, err := opsetOf(o)
		if err != nil {
			return 0, fmt.Errorf("%w: %s: %w", errFunctions, f.GetName(), err)
		}
		if d == "" {
			version = v
		}
		have, ok := r.opset[d]
		switch {
		case !ok:
			r.opset[d] = v
		case have != v && d != "":
			r.differs(f, d, v, have)
		}
	}
	return version, nil
}

// differs notes that a function is written for another version of an operator set, and pare cannot say what that
// changes.
func (r *onnxReader) differs(f *onnx.FunctionProto, domain string, v, have int) {
	key := fmt.Sprintf("%s\x00%s\x00%s", f.GetDomain(), f.GetName(), domain)
	if !r.told[key] {
		r.told[key] = true
		problemf(r.m, "", "function %s is written for version %d of operator set %q, the model for %d: its operators are taken as the model's", f.GetName(), v, domain, have)
	}
}

// lift writes a node of a function for the model's version of ai.onnx.
func (r *onnxReader) lift(n *graph.Node, s *scope) ([]*graph.Node, error) {
	have := r.opset[""]
	if n.Domain != "" || s.opset == 0 || s.opset == have {
		return []*graph.Node{n}, nil
	}
	nodes, known, err := r.upgrader.Node(n, s.opset, have)
	if err != nil {
		var fe *fault.Error
		if errors.As(err, &fe) { // whoever reads the body names the node
			err = fe.Err
		}
		return nil, fmt.Errorf("%w: a function is written for version %d, the model for %d: %w", errFunctions, s.opset, have, err)
	}
	if !known {
		r.differs(r.functions[r.calls[len(r.calls)-1]], "", s.opset, have)
	}
	return nodes, nil
}
