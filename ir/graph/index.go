package graph

import (
	"maps"
	"slices"
)

// Index knows who makes and who reads each value of a graph, subgraphs included. It is a picture of one
// moment: a rewrite that moves edges makes a new one or keeps it current itself.
type Index struct {
	Producer map[*Value]*Node
	// Readers are the nodes that read a value, each as often as it does; a node whose subgraph reads it
	// counts as a reader.
	Readers map[*Value][]*Node
	Output  map[*Value]bool // outputs of the graph itself
}

// NewIndex looks at a graph.
func NewIndex(g *Graph) *Index {
	x := &Index{Producer: map[*Value]*Node{}, Readers: map[*Value][]*Node{}, Output: map[*Value]bool{}}
	for _, n := range g.Nodes {
		for _, v := range n.Out {
			if v != nil {
				x.Producer[v] = n
			}
		}
		for v := range Reads(n) {
			x.Readers[v] = append(x.Readers[v], n)
		}
	}
	for _, v := range g.Outputs {
		x.Output[v] = true
	}
	return x
}

// Only is the single reader of a value that is no output of the graph, or nil.
func (x *Index) Only(v *Value) *Node {
	if x.Output[v] || len(x.Readers[v]) != 1 {
		return nil
	}
	return x.Readers[v][0]
}

// Reads yields the values that a node reads: its inputs, then what its subgraphs take from outside.
func Reads(n *Node) func(yield func(*Value) bool) {
	return func(yield func(*Value) bool) {
		for _, v := range n.In {
			if v != nil && !yield(v) {
				return
			}
		}
		for _, g := range n.Graphs() {
			if !outer(g, map[*Value]bool{}, yield) {
				return
			}
		}
	}
}

// outer yields what a graph reads and does not make; constants are its own.
func outer(g *Graph, made map[*Value]bool, yield func(*Value) bool) bool {
	for _, v := range g.Inputs {
		made[v] = true
	}
	for _, n := range g.Nodes {
		for v := range Reads(n) {
			if v.Const == nil && !made[v] && !yield(v) {
				return false
			}
		}
		for _, v := range n.Out {
			made[v] = true
		}
	}
	for _, v := range g.Outputs {
		if v.Const == nil && !made[v] && !yield(v) {
			return false
		}
	}
	return true
}

// Replace makes every reader of old, nodes of subgraphs and outputs of the graph included, read other.
func (g *Graph) Replace(old, other *Value) {
	swap := func(list []*Value) {
		for i, v := range list {
			if v == old {
				list[i] = other
			}
		}
	}
	for _, n := range g.Nodes {
		swap(n.In)
		for _, sub := range n.Graphs() {
			sub.Replace(old, other)
		}
	}
	swap(g.Outputs)
}

// Constants are the distinct constants that the graph and its subgraphs read, in the order of reading.
func (g *Graph) Constants() []*Value {
	var out []*Value
	seen := map[*Value]bool{}
	g.constants(seen, &out)
	return out
}

func (g *Graph) constants(seen map[*Value]bool, out *[]*Value) {
	add := func(list []*Value) {
		for _, v := range list {
			if v != nil && v.Const != nil && !seen[v] {
				seen[v] = true
				*out = append(*out, v)
			}
		}
	}
	add(g.Inputs)
	for _, n := range g.Nodes {
		add(n.In)
		for _, sub := range n.Graphs() {
			sub.constants(seen, out)
		}
	}
	add(g.Outputs)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
