package ir

import (
	"errors"
	"testing"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir/graph"
)

// A weight of a graph is what the pass made of it that touched it, in the original and in a clone.
func TestBound(t *testing.T) {
	x := &graph.Value{Name: "x", Type: graph.Float32}
	w := &graph.Value{Name: "w", Const: graph.From(graph.Float32, []float32{1, 2}, 2)}
	y := &graph.Value{Name: "y"}
	m := &Model{Graph: &graph.Graph{
		Inputs: []*graph.Value{x}, Outputs: []*graph.Value{y},
		Nodes: []*graph.Node{{Op: "Mul", In: []*graph.Value{x, w}, Out: []*graph.Value{y}}},
	}}
	h := &Tensor{Name: "w", Block: -1, Shape: []int{2}, Type: storage.F32, Data: &constant{}}
	if err := m.Bind(w, h); err != nil {
		t.Fatal(err)
	}
	if m.Find("w") != h || m.Bind(w, h) == nil {
		t.Error("the catalogue")
	}
	untouched := func(m *Model, v *graph.Value) {
		t.Helper()
		if got, err := m.Bound(v); got != nil || err != nil {
			t.Errorf("%v, %v for a weight that nobody touched", got, err)
		}
	}
	untouched(m, w)
	untouched(m, x)
	c := m.Clone()
	v := c.Graph.Nodes[0].In[1]
	if v == w || c.Graph == m.Graph {
		t.Fatal("the clone shares its graph")
	}
	changed := h.With(storage.F16, nil, &constant{})
	if err := c.Replace(changed); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Bound(v); got != changed || err != nil {
		t.Error(got, err)
	}
	untouched(m, w)
	v.Const = graph.New(graph.Float32, 2)
	if _, err := c.Bound(v); !errors.Is(err, ErrBothChanged) {
		t.Error(err)
	}
	w.Const = graph.New(graph.Float32, 2) // a graph pass alone
	untouched(m, w)
}

// constant is a source that is compared and never read.
type constant struct {
	Source
	_ int // sources of no size may share an address
}
