package eval

import (
	"context"
	"testing"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// What is shown of a network while it runs is what its outputs are in the end, and takes less memory.
func TestWatch(t *testing.T) {
	ctx := context.Background()
	g := realModel(t, "yunet/yunet_n_320_320.onnx")
	x := graph.New(graph.Float32, 1, 3, 320, 320)
	for i := range graph.Of[float32](x) {
		graph.Of[float32](x)[i] = float32(i % 251)
	}
	want := []*graph.Value{g.Inputs[0]}
	for _, n := range g.Nodes {
		if n.Op == "Relu" || n.Op == "Conv" {
			want = append(want, n.Out[0])
		}
	}
	net := &Network{Options: Options{Threads: 2}}
	all, err := net.Open(ctx, g, want)
	if err != nil {
		t.Fatal(err)
	}
	values, err := all.Run(ctx, ir.Sample{"input": x})
	if err != nil {
		t.Fatal(err)
	}
	seen, images := 0, 0
	run, err := net.Watch(ctx, g, want, func(i int, v *graph.Tensor, pixels bool) error {
		seen++
		got, planes := graph.Of[float32](v), graph.Of[float32](values[i])
		channels, inner := v.Shape[1], graph.Elems(v.Shape[2:])
		if pixels {
			images++
		}
		for k := range planes {
			at := k
			if pixels {
				at = k%inner*channels + k/inner
			}
			if got[at] != planes[k] {
				t.Fatalf("%s, element %d: %v, in the end %v", want[i].Name, k, got[at], planes[k])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run.Run(ctx, ir.Sample{"input": x}); err != nil || len(out) != 0 {
		t.Fatal(len(out), err)
	}
	if seen != len(want) || images < len(want)/2 {
		t.Errorf("%d of %d values, %d as pixels", seen, len(want), images)
	}
	if a, b := run.(*networkRun).p.Arena(), all.(*networkRun).p.Arena(); a > b/3 {
		t.Errorf("%d bytes where keeping all takes %d", a, b)
	}
}
