package rewrite

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/pare-dev/pare/ir/graph"
)

// duplicates makes one node of those that compute the same from the same. Small constants with the same
// bytes count as the same.
func (c *rewriter) duplicates() (int, error) {
	changed := 0
	seen := map[string]*graph.Node{}
	ids := map[*graph.Value]string{}
	for _, n := range c.g.Nodes {
		if random[n.Op] || len(n.Graphs()) > 0 || len(n.Out) == 0 {
			continue
		}
		key, ok := signature(n, ids)
		if !ok {
			continue
		}
		first := seen[key]
		if first == nil {
			seen[key] = n
			continue
		}
		if c.merge(first, n) {
			changed++
		}
	}
	return changed, nil
}

// merge makes the readers of n read first, all outputs or none.
func (c *rewriter) merge(first, n *graph.Node) bool {
	for i, v := range n.Out {
		if v != nil && (c.x.Output[v] || i >= len(first.Out) || first.Out[i] == nil) {
			return false
		}
	}
	for i, v := range n.Out {
		if v != nil {
			c.forward(v, first.Out[i])
		}
	}
	c.drop(n)
	return true
}

// signature says what a node computes; nodes with one signature have the same results.
func signature(n *graph.Node, ids map[*graph.Value]string) (string, bool) {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q %d", n.Domain, n.Op, len(n.Out))
	for _, v := range n.In {
		if v == nil {
			b.WriteString(" -")
			continue
		}
		id, ok := ids[v]
		if !ok {
			id = identity(v)
			ids[v] = id
		}
		b.WriteString(" " + id)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Attrs)) {
		a := n.Attrs[name]
		if a.Kind == graph.AttrOther || a.Tensor != nil && a.Tensor.Fill != nil || a.Tensors != nil {
			return "", false
		}
		fmt.Fprintf(&b, " %s=%d:%d:%x:%q:%v:%q", name, a.Kind, a.Int, math.Float32bits(a.Float), a.String, a.Ints, a.Strings)
		for _, f := range a.Floats {
			fmt.Fprintf(&b, ",%x", math.Float32bits(f))
		}
		if a.Tensor != nil {
			b.WriteString(" " + contents(a.Tensor))
		}
	}
	return b.String(), true
}

// identity is a text that equal values share: the contents of a small constant, else the value itself.
func identity(v *graph.Value) string {
	if t := v.Const; t != nil && t.Fill == nil && len(t.Data) <= 1<<16 {
		return contents(t)
	}
	return fmt.Sprintf("%p", v)
}

func contents(t *graph.Tensor) string {
	if t.Type == graph.String {
		return fmt.Sprintf("s%v%q", t.Shape, t.Strings)
	}
	if len(t.Data) <= 64 {
		return fmt.Sprintf("c%d%v%x", t.Type, t.Shape, t.Data)
	}
	return fmt.Sprintf("c%d%v#%x", t.Type, t.Shape, sha256.Sum256(t.Data))
}
