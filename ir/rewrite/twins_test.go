package rewrite_test

import (
	"context"
	"slices"
	"testing"

	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
	"github.com/pare-dev/pare/runner/eval"
)

// Branches that compute with equal weights, found by folding in each of them, share one; others keep theirs.
func TestTwins(t *testing.T) {
	b := newNet(13, []int{3, 8}, nil)
	x, cond := b.g.Inputs[0], b.g.Inputs[1]
	cond.Type = graph.Bool
	shared, other := b.weights(8, 8), b.weights(8, 8)
	branch := func(w *graph.Value, name string) *graph.Graph {
		turned, out := &graph.Value{Name: name + "_turned"}, &graph.Value{Name: name}
		return &graph.Graph{
			Nodes: []*graph.Node{
				{Op: "Transpose", In: vals(w), Out: vals(turned), Attrs: map[string]graph.Attr{"perm": {Kind: graph.AttrInts, Ints: []int64{1, 0}}}},
				{Op: "MatMul", In: vals(x, turned), Out: vals(out)},
			},
			Outputs: vals(out),
		}
	}
	y := b.op("If", vals(cond), "then_branch", branch(shared, "a"), "else_branch", branch(shared, "b"))
	z := b.op("If", vals(cond), "then_branch", branch(other, "c"), "else_branch", branch(shared, "d"))
	g := b.out(y, z)
	before, _ := g.Clone()
	if _, err := rewrite.Simplify(context.Background(), g, rewrite.Options{Evaluate: new(eval.Network).Evaluate}); err != nil {
		t.Fatal(err)
	}
	var weights []*graph.Value
	for _, n := range g.Nodes {
		for _, sub := range n.Graphs() {
			for _, m := range sub.Nodes {
				if m.Op != "MatMul" || m.In[1].Const == nil {
					t.Fatalf("%s is left", m.Label())
				}
				if !slices.Contains(weights, m.In[1]) {
					weights = append(weights, m.In[1])
				}
			}
		}
	}
	if len(weights) != 2 {
		t.Errorf("%d constants, want 2", len(weights))
	}
	for _, yes := range []bool{false, true} {
		in := map[string]*graph.Tensor{x.Name: graph.From(graph.Float32, make([]float32, 24), 3, 8), cond.Name: graph.From(graph.Bool, []bool{yes})}
		in[cond.Name].Shape = []int{}
		for i, v := range graph.Of[float32](in[x.Name]) {
			graph.Of[float32](in[x.Name])[i] = v + float32(i%7)
		}
		var outs [2]map[string]*graph.Tensor
		for i, g := range []*graph.Graph{before, g} {
			p, err := eval.Compile(g, eval.Options{Threads: 1})
			if err == nil {
				outs[i], err = p.RunMap(context.Background(), in)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for name, w := range outs[0] {
			if !slices.Equal(w.Data, outs[1][name].Data) {
				t.Errorf("%v: output %s differs", yes, name)
			}
		}
	}
}

// Folding has a budget for all constants together; what is beyond it stays to be computed.
func TestFoldingHasABudget(t *testing.T) {
	b := newNet(13, []int{64, 64})
	y := b.g.Inputs[0]
	w := b.weights(64, 64)
	for range 5 {
		y = b.op("Add", vals(y, b.op("Relu", vals(b.op("Transpose", vals(b.op("Exp", vals(w))), "perm", []int64{1, 0})))))
		w = b.weights(64, 64)
	}
	g := b.out(y)
	prepared(t, g)
	_, err := rewrite.Simplify(context.Background(), g, rewrite.Options{Evaluate: new(eval.Network).Evaluate, MaxTotal: 7 * 64 * 64 * 4})
	if err != nil {
		t.Fatal(err)
	}
	left := ops(g) // 15 nodes of constants, 7 of which may be computed
	if n := left["Exp"] + left["Transpose"] + left["Relu"]; n != 8 {
		t.Errorf("%d nodes of constants are left, want 8: %v", n, left)
	}
}
