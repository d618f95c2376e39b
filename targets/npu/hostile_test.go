package npu_test

import (
	"testing"

	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/targets/npu"
)

// Nodes that lack what their operators always have, and values of unknown type, are judged like any other.
func TestCheckOfLack(t *testing.T) {
	float := func(name string) *graph.Value {
		return &graph.Value{Name: name, Type: graph.Float32, Shape: graph.Fixed(2, 3)}
	}
	for name, nodes := range map[string][]*graph.Node{
		"Relu of nothing":    {{Op: "Relu", Out: []*graph.Value{float("y")}}},
		"Clip of nothing":    {{Op: "Clip", Out: []*graph.Value{float("y")}}},
		"MatMul of nothing":  {{Op: "MatMul", Out: []*graph.Value{float("y")}}},
		"Relu of an omitted": {{Op: "Relu", In: []*graph.Value{nil}, Out: []*graph.Value{float("y")}}},
	} {
		for _, r := range npu.All() {
			func() {
				defer func() {
					if x := recover(); x != nil {
						t.Errorf("%s: %v", name, x)
					}
				}()
				r.Check(&graph.Graph{Opset: map[string]int{"": 17}, Nodes: nodes, Outputs: nodes[0].Out})
			}()
		}
	}
}
