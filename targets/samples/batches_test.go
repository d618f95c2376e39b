package samples

import (
	"testing"

	"github.com/pare-dev/pare/ir/graph"
)

// A batch repeats a sample along the axis that counts samples: [2,1,2] becomes [2,3,2].
func TestTiled(t *testing.T) {
	x := graph.New(graph.Float32, 2, 1, 2)
	copy(graph.Of[float32](x), []float32{1, 2, 3, 4})
	got := tiled(x, 1, 3)
	want := []float32{1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4}
	if len(got.Shape) != 3 || got.Shape[1] != 3 {
		t.Fatalf("shape %v", got.Shape)
	}
	for i, v := range graph.Of[float32](got) {
		if v != want[i] {
			t.Fatalf("%v, want %v", graph.Of[float32](got), want)
		}
	}
}
