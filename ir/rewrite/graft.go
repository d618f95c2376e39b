package rewrite

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// Segment is a part of a network that another form of the same network computes otherwise: between values that
// both have by the same names, ending in one of them.
type Segment struct {
	Value string // the value that it ends in
	// Nodes are those of the original that compute it. Bytes are their constants in the original and in the other form.
	Nodes         []*graph.Node
	Before, After int64

	made *graph.Graph
}

// codes are operators that make, take or are given codes.
var codes = []string{"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "MatMulNBits", "QLinearConv", "QLinearMatMul", "QGemm"}

// Segments lists the parts in which made computes with codes what original computes without, in the order in which
// they are computed. Both are of one operator set, and original has been simplified as made was. Parts with subgraphs
// are left out.
func Segments(original, made *graph.Graph) []Segment {
	in, out := makers(original), makers(made)
	shared := map[string]bool{}
	for name := range in {
		shared[name] = out[name] != nil
	}
	var list []Segment
	for _, n := range original.Nodes {
		for _, v := range n.Out {
			if v == nil || !shared[v.Name] || v.Type != graph.Float32 && v.Type != graph.Undefined {
				continue
			}
			theirs, after, ok := between(made, out, shared, v.Name)
			if !ok || !slices.ContainsFunc(theirs, func(n *graph.Node) bool { return slices.Contains(codes, n.Op) }) {
				continue
			}
			ours, before, ok := between(original, in, shared, v.Name)
			if ok {
				list = append(list, Segment{Value: v.Name, Nodes: ours, Before: before, After: after, made: made})
			}
		}
	}
	return list
}

// makers are the nodes that make values, by name.
func makers(g *graph.Graph) map[string]*graph.Node {
	m := map[string]*graph.Node{}
	for _, n := range g.Nodes {
		for _, v := range n.Out {
			if v != nil {
				m[v.Name] = n
			}
		}
	}
	return m
}

// between are the nodes that make a value of shared ones and inputs, in order, with the bytes of their constants.
func between(g *graph.Graph, maker map[string]*graph.Node, shared map[string]bool, name string) (nodes []*graph.Node, bytes int64, ok bool) {
	seen := map[*graph.Node]bool{maker[name]: true}
	counted := map[*graph.Tensor]bool{}
	for todo := []*graph.Node{maker[name]}; len(todo) > 0; {
		n := todo[0]
		todo = todo[1:]
		if len(n.Graphs()) > 0 {
			return nil, 0, false
		}
		for _, v := range n.In {
			switch {
			case v == nil:
			case v.Const != nil:
				if !counted[v.Const] {
					counted[v.Const] = true
					bytes += int64(v.Const.Type.Bytes(graph.Elems(v.Const.Shape)))
				}
			case shared[v.Name] || maker[v.Name] == nil || seen[maker[v.Name]]:
			default:
				seen[maker[v.Name]] = true
				todo = append(todo, maker[v.Name])
			}
		}
	}
	for _, n := range g.Nodes {
		if seen[n] {
			nodes = append(nodes, n)
		}
	}
	return nodes, bytes, true
}

// Layers are the nodes of a segment that have weights, or all of them when none has.
func (s *Segment) Layers() []*graph.Node {
	layers := slices.DeleteFunc(slices.Clone(s.Nodes), func(n *graph.Node) bool {
		return !slices.ContainsFunc(n.In, func(v *graph.Value) bool { return v != nil && v.Const != nil && len(v.Const.Shape) > 1 })
	})
	if len(layers) == 0 {
		return s.Nodes
	}
	return layers
}

// Graft is the other form with this segment as the original computes it, from the values that the other form has there.
func (s *Segment) Graft() (*graph.Graph, error) {
	g, _ := s.made.Clone()
	maker := makers(g)
	have := map[string]*graph.Value{}
	for _, v := range g.Inputs {
		have[v.Name] = v
	}
	for _, n := range g.Nodes {
		for _, v := range n.Out {
			if v != nil {
				have[v.Name] = v
			}
		}
	}
	old, end := maker[s.Value], have[s.Value]
	i := slices.Index(old.Out, end)
	old.Out[i] = &graph.Value{Name: end.Name + "_before", Kind: end.Kind, Type: end.Type, Shape: end.Shape}
	own := map[*graph.Value]*graph.Value{} // what lies between
	var nodes []*graph.Node
	for _, n := range s.Nodes {
		m := *n
		m.In, m.Out = slices.Clone(n.In), slices.Clone(n.Out)
		for k, v := range m.In {
			switch {
			case v == nil || v.Const != nil:
			case own[v] != nil:
				m.In[k] = own[v]
			default:
				m.In[k] = have[v.Name]
			}
		}
		for k, v := range m.Out {
			switch {
			case v == nil:
			case v.Name == s.Value:
				m.Out[k] = end
			default:
				own[v] = &graph.Value{Name: v.Name + "_original", Kind: v.Kind, Type: v.Type, Shape: v.Shape}
				m.Out[k] = own[v]
			}
		}
		nodes = append(nodes, &m)
	}
	g.Nodes = slices.Insert(g.Nodes, slices.Index(g.Nodes, old), nodes...)
	return g, g.Check()
}
