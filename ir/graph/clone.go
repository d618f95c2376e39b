package graph

import "maps"

// Clone copies the graph, its subgraphs, nodes and values, and says which value became which. Tensors,
// Extra and Raw are shared: nobody edits those in place.
func (g *Graph) Clone() (*Graph, map[*Value]*Value) {
	c := cloner{}
	return c.graph(g), c
}

type cloner map[*Value]*Value

func (c cloner) graph(g *Graph) *Graph {
	out := *g
	out.Opset, out.Meta = maps.Clone(g.Opset), maps.Clone(g.Meta)
	out.Inputs = c.values(g.Inputs)
	out.Nodes = make([]*Node, len(g.Nodes))
	for i, n := range g.Nodes {
		out.Nodes[i] = c.node(n)
	}
	out.Outputs = c.values(g.Outputs)
	return &out
}

func (c cloner) node(n *Node) *Node {
	out := *n
	out.In, out.Out, out.Meta = c.values(n.In), c.values(n.Out), maps.Clone(n.Meta)
	out.Attrs = maps.Clone(n.Attrs)
	for _, name := range sortedKeys(n.Attrs) {
		a := n.Attrs[name]
		if a.Graph != nil {
			a.Graph = c.graph(a.Graph)
		}
		if a.Graphs != nil {
			graphs := make([]*Graph, len(a.Graphs))
			for i, g := range a.Graphs {
				graphs[i] = c.graph(g)
			}
			a.Graphs = graphs
		}
		out.Attrs[name] = a
	}
	return &out
}

func (c cloner) values(list []*Value) []*Value {
	if list == nil {
		return nil
	}
	out := make([]*Value, len(list))
	for i, v := range list {
		out[i] = c.value(v)
	}
	return out
}

func (c cloner) value(v *Value) *Value {
	if v == nil {
		return nil
	}
	if w, ok := c[v]; ok {
		return w
	}
	w := *v
	if v.Shape != nil {
		s := append(Shape{}, *v.Shape...)
		w.Shape = &s
	}
	c[v] = &w
	return &w
}
