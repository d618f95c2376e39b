package eval

import (
	"errors"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// A few bytes that ask for more than the machine has are refused, when they are run and when constants are
// computed ahead, without a limit that anybody gave.
func TestBombs(t *testing.T) {
	number := func(x ...int64) *graph.Tensor { return graph.From(graph.Int64, x, len(x)) }
	scalar := func(x int64) *graph.Tensor { return graph.From(graph.Int64, []int64{x}) }
	for name, c := range map[string]struct {
		op string
		in []*graph.Tensor
	}{
		"ConstantOfShape": {"ConstantOfShape", []*graph.Tensor{number(1<<20, 1<<20)}},
		"Range":           {"Range", []*graph.Tensor{scalar(0), scalar(1 << 40), scalar(1)}},
		"Tile":            {"Tile", []*graph.Tensor{number(1, 2), number(1 << 40)}},
		"Expand":          {"Expand", []*graph.Tensor{number(7), number(1 << 40)}},
		"Pad":             {"Pad", []*graph.Tensor{number(7), number(0, 1<<40)}},
	} {
		n := &graph.Node{Op: c.op, Out: []*graph.Value{{Name: "y"}}}
		opset := map[string]int{"": 17}
		if _, err := (&Network{}).Evaluate(n, opset, c.in); !errors.Is(err, fault.ErrBudget) {
			t.Errorf("%s ahead: %v", name, err)
		}
		for i, x := range c.in {
			n.In = append(n.In, &graph.Value{Name: string(rune('a' + i)), Type: x.Type, Shape: graph.Fixed(x.Shape...), Const: x})
		}
		p, err := Compile(&graph.Graph{Nodes: []*graph.Node{n}, Outputs: n.Out, Opset: opset}, Options{Threads: 1})
		if err == nil {
			_, err = p.Run(t.Context())
		}
		if !errors.Is(err, fault.ErrBudget) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
