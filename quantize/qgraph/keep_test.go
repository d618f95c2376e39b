package qgraph

import (
	"errors"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// A pattern means the same whatever the quantization: names with slashes, operators, values of nodes without a name.
func TestPatterns(t *testing.T) {
	n := &graph.Node{Name: "/encoder/layer.0/MatMul_1", Op: "MatMul", Out: []*graph.Value{{Name: "/encoder/layer.0/MatMul_1_output_0"}}}
	nameless := &graph.Node{Op: "Conv", Out: []*graph.Value{nil, {Name: "other"}, {Name: "scores"}}}
	nameless.Out[0] = &graph.Value{Name: "features"}
	for _, c := range []struct {
		pattern string
		n       *graph.Node
		want    bool
	}{
		{"/encoder/*", n, true},
		{"*MatMul_1", n, true},
		{"/encoder/layer.?/MatMul_[0-9]", n, true},
		{"/encoder?layer.0*", n, true},
		{"MatMul", n, true},
		{"MatMul=f32", n, true},
		{"/encoder", n, false},
		{"matmul", n, false},
		{"Conv", nameless, true},
		{"feat*", nameless, true},
		{"scores", nameless, false},
		{"Conv that makes features", nameless, true},
		{"MatMul /encoder/layer.0/MatMul_1", n, true},
		{"x*", nameless, false},
	} {
		p, err := ParsePatterns([]string{c.pattern})
		if err != nil || p.Match(c.n) != c.want {
			t.Errorf("%s of %s: %v %v, want %v", c.pattern, c.n.Label(), p.Match(c.n), err, c.want)
		}
	}
	for _, bad := range []string{"[", "", "=f32", "Conv=q8_0", "Conv="} {
		if _, err := ParsePatterns([]string{bad}); !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A pattern that selects nothing is a mistake with every kind of quantization, and the nearest name is told.
func TestPatternOfNothing(t *testing.T) {
	w := func(name string) *graph.Value {
		x := graph.New(graph.Float32, 96, 96)
		return &graph.Value{Name: name, Type: x.Type, Shape: graph.Fixed(96, 96), Const: x}
	}
	x, h, y := &graph.Value{Name: "x", Type: graph.Float32, Shape: graph.Fixed(1, 96)}, &graph.Value{Name: "h"}, &graph.Value{Name: "y"}
	g := &graph.Graph{
		Inputs: []*graph.Value{x}, Outputs: []*graph.Value{y}, Opset: map[string]int{"": 17},
		Nodes: []*graph.Node{
			{Name: "/a/MatMul", Op: "MatMul", In: []*graph.Value{x, w("v")}, Out: []*graph.Value{h}},
			{Name: "/b/MatMul", Op: "MatMul", In: []*graph.Value{h, w("w")}, Out: []*graph.Value{y}},
		},
	}
	for name, apply := range map[string]func(keep Patterns) (*WeightReport, error){
		"dynamic": func(keep Patterns) (*WeightReport, error) {
			_, r, err := Dynamic{Keep: keep}.Apply(t.Context(), g)
			return r, err
		},
		"blocks": func(keep Patterns) (*WeightReport, error) {
			_, r, err := WeightOnly{Keep: keep}.Apply(t.Context(), g)
			return r, err
		},
	} {
		var fe *fault.Error
		if _, err := apply(Patterns{"/b/MatMull"}); !errors.Is(err, fault.ErrMisuse) || !errors.As(err, &fe) || fe.Hint != `did you mean "/b/MatMul"?` {
			t.Errorf("%s: %v", name, err)
		}
		if r, err := apply(Patterns{"/b/*"}); err != nil || r.Changed != 1 || len(r.Kept) != 1 || r.Kept[0] != (Kept{"MatMul /b/MatMul", "asked for"}) {
			t.Errorf("%s: %+v %v", name, r, err)
		}
	}
}
