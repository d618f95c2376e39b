package qgraph

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// Patterns are shell globs that select nodes: by their name, by their operator, by the name of the first value that
// they make, which those without a name have, or by what reports call them. * crosses slashes and dots.
type Patterns []string

// ParsePatterns reads patterns as flags and recipes have them: "PATTERN", or "PATTERN=f32", as those of weights
// say to what.
func ParsePatterns(list []string) (Patterns, error) {
	var out Patterns
	for _, text := range list {
		pattern, typ, typed := strings.Cut(text, "=")
		if typed && typ != "f32" && typ != "keep" {
			return nil, &fault.Error{
				Op: "pattern " + text, Err: fault.As(fault.ErrMisuse, fmt.Errorf("nodes of a graph stay float; none becomes %s on its own", typ)),
				Hint: fmt.Sprintf("write %q", pattern),
			}
		}
		if pattern == "" {
			return nil, &fault.Error{Op: "pattern " + text, Err: fault.As(fault.ErrMisuse, fmt.Errorf("it has no name")), Hint: `write a glob such as "/encoder/*" or "Softmax"`}
		}
		if err := ir.CheckPattern(pattern); err != nil {
			return nil, err
		}
		out = append(out, pattern)
	}
	return out, nil
}

// Match reports whether one of the patterns selects the node.
func (p Patterns) Match(n *graph.Node) bool {
	return slices.ContainsFunc(p, func(pattern string) bool { return selects(pattern, n) })
}

func selects(pattern string, n *graph.Node) bool {
	v := n.Output(0)
	return n.Name != "" && ir.Glob(pattern, n.Name) || ir.Glob(pattern, n.Op) || ir.Glob(pattern, n.Label()) || v != nil && ir.Glob(pattern, v.Name)
}

// check fails for a pattern that selects nothing in any of the graphs: a name that is mistyped would say nothing.
func (p Patterns) check(graphs ...*graph.Graph) error {
	var names []string
	for _, pattern := range p {
		found := false
		for _, g := range graphs {
			walk(g, func(n *graph.Node) {
				found = found || selects(pattern, n)
				names = append(names, n.Name, n.Op)
			})
		}
		if found {
			continue
		}
		hint := "pare inspect --tensors lists what there is"
		if near := human.Nearest(pattern, names); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return &fault.Error{Op: "pattern " + pattern, Err: fault.As(fault.ErrMisuse, fmt.Errorf("it selects no node: neither a name, nor an operator, nor an output is like it")), Hint: hint}
	}
	return nil
}

// walk calls f for every node, those of subgraphs included.
func walk(g *graph.Graph, f func(n *graph.Node)) {
	for _, n := range g.Nodes {
		f(n)
		for _, sub := range n.Graphs() {
			walk(sub, f)
		}
	}
}
