package rewrite

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// dead takes nodes away whose results nobody reads, and optional outputs that nobody wants. Constants are
// part of who reads them, so they go with their last reader.
func (c *rewriter) dead() (int, error) {
	changed := 0
	for _, n := range slices.Backward(c.g.Nodes) {
		used := false
		for i, v := range n.Out {
			switch {
			case v == nil:
			case c.x.Output[v] || len(c.x.Readers[v]) > 0:
				used = true
			case i > 0 && optionalOutput(n):
				n.Out[i] = nil
				changed++
			}
		}
		if !used {
			c.drop(n)
			changed++
			continue
		}
		for len(n.Out) > 0 && n.Out[len(n.Out)-1] == nil {
			n.Out = n.Out[:len(n.Out)-1]
		}
	}
	return changed, nil
}

// optionalOutput reports whether an output after the first may be left out: not where the number of outputs
// is part of what the node computes.
func optionalOutput(n *graph.Node) bool {
	return !is(n, "Split", "If", "Loop", "Scan", "SplitToSequence", "Unique", "TopK") && n.Domain == ""
}
