package rewrite

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// smallTwin is the size in bytes below which equal constants may stay as they are.
const smallTwin = 64

// twins makes one constant of those with the same bytes in a graph and the graphs in it: the branches of an If often
// compute with the same weights, each with a copy that folding made. It looks at whole models that have subgraphs.
func (c *rewriter) twins() (int, error) {
	if c.g != c.root || !slices.ContainsFunc(c.g.Nodes, func(n *graph.Node) bool { return len(n.Graphs()) > 0 }) {
		return 0, nil
	}
	groups := map[string][]*graph.Value{} // by type, shape and a few bytes
	var order []string
	fixed := map[*graph.Value]bool{} // has to stay: an input with a default, an output
	seen := map[*graph.Value]bool{}
	var collect func(g *graph.Graph)
	collect = func(g *graph.Graph) {
		for _, list := range [][]*graph.Value{g.Inputs, g.Outputs} {
			for _, v := range list {
				fixed[v] = true
			}
		}
		for _, n := range g.Nodes {
			for _, v := range n.In {
				if v == nil || seen[v] || v.Const == nil || v.Const.Fill != nil || v.Const.Strings != nil || len(v.Const.Data) < smallTwin {
					continue
				}
				seen[v] = true
				t := v.Const
				key := fmt.Sprintf("%d%v%x", t.Type, t.Shape, t.Data[:smallTwin])
				if groups[key] == nil {
					order = append(order, key)
				}
				groups[key] = append(groups[key], v)
			}
			for _, sub := range n.Graphs() {
				collect(sub)
			}
		}
	}
	collect(c.g)
	instead := map[*graph.Value]*graph.Value{}
	for _, key := range order {
		first := map[[sha256.Size]byte]*graph.Value{}
		for _, v := range groups[key] {
			if len(groups[key]) == 1 || fixed[v] {
				continue
			}
			sum := sha256.Sum256(v.Const.Data)
			switch w := first[sum]; {
			case w == nil:
				first[sum] = v
			case bytes.Equal(w.Const.Data, v.Const.Data):
				instead[v] = w
			}
		}
	}
	if len(instead) == 0 {
		return 0, nil
	}
	var replace func(g *graph.Graph)
	replace = func(g *graph.Graph) {
		for _, n := range g.Nodes {
			for i, v := range n.In {
				if w := instead[v]; w != nil {
					n.In[i] = w
				}
			}
			for _, sub := range n.Graphs() {
				replace(sub)
			}
		}
	}
	replace(c.g)
	return len(instead), nil
}
