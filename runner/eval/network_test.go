package eval

import (
	"context"
	"slices"
	"testing"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// A dimension is inferred where it follows from the inputs whatever their open dimensions are.
func TestNetwork(t *testing.T) {
	ctx := context.Background()
	x := &graph.Value{Name: "x", Type: graph.Float32, Shape: &graph.Shape{{Size: -1, Name: "n"}, {Size: 4}}}
	w := &graph.Value{Name: "w", Type: graph.Float32, Const: graph.From(graph.Float32, make([]float32, 12), 4, 3)}
	y, z, s := &graph.Value{Name: "y"}, &graph.Value{Name: "z"}, &graph.Value{Name: "s"}
	g := &graph.Graph{
		Inputs: []*graph.Value{x}, Outputs: []*graph.Value{z}, Opset: map[string]int{"": 13},
		Nodes: []*graph.Node{
			{Name: "a", Op: "Shape", In: []*graph.Value{x}, Out: []*graph.Value{s}},
			{Name: "b", Op: "MatMul", In: []*graph.Value{x, w}, Out: []*graph.Value{y}},
			{Name: "c", Op: "Transpose", In: []*graph.Value{y}, Out: []*graph.Value{z}},
		},
	}
	net := &Network{Options: Options{Threads: 1}}
	if err := net.Infer(ctx, g); err != nil {
		t.Fatal(err)
	}
	if y.Shape.Text() != "?x3" || z.Shape.Text() != "3x?" || s.Shape.Text() != "2" || s.Type != graph.Int64 || x.Shape.Text() != "nx4" {
		t.Errorf("shapes %s %s %s %s", x.Shape.Text(), y.Shape.Text(), z.Shape.Text(), s.Shape.Text())
	}
	run, err := net.Open(ctx, g, []*graph.Value{z, s, z})
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.Run(ctx, ir.Sample{"x": graph.New(graph.Float32, 5, 4)})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 3 || out[0] != out[2] || !slices.Equal(out[0].Shape, []int{3, 5}) || !slices.Equal(graph.Of[int64](out[1]), []int64{5, 4}) {
		t.Errorf("wanted values %v", out)
	}
	if _, err := run.Run(ctx, ir.Sample{}); err == nil {
		t.Error("a sample without an input was taken")
	}
	if err := run.Close(); err != nil {
		t.Error(err)
	}
	got, err := net.Evaluate(g.Nodes[2], g.Opset, []*graph.Tensor{graph.From(graph.Float32, []float32{1, 2, 3, 4, 5, 6}, 2, 3)})
	if err != nil || !slices.Equal(graph.Of[float32](got[0]), []float32{1, 4, 2, 5, 3, 6}) {
		t.Errorf("evaluated to %v, %v", got, err)
	}
	if _, err := net.Evaluate(&graph.Node{Op: "NoSuch", Out: []*graph.Value{y}}, g.Opset, nil); err == nil {
		t.Error("an unknown operator was evaluated")
	}
}
