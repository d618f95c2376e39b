package eval_test

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/lower"
	"github.com/pare-dev/pare/runner/eval"
)

// reference is a tensor of what PyTorch computed.
func reference(t *testing.T, dir, name string) ([]float32, []int) {
	t.Helper()
	m, err := formats.Open(context.Background(), filepath.Join(dir, "reference.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	h := m.Find(name)
	if h == nil {
		t.Fatalf("%s: no %s", dir, name)
	}
	x := make([]float32, h.Elems())
	if err := h.Data.ReadRows(context.Background(), x, 0, h.Rows()); err != nil {
		t.Fatal(err)
	}
	return x, h.Shape
}

// tokens is an input made of reference numbers, [texts, n], with pad columns behind them.
func tokens(x []float32, shape []int, pad int) *graph.Tensor {
	t := graph.New(graph.Int64, shape[0], shape[1]+pad)
	y := graph.Of[int64](t)
	for i, v := range x {
		y[i/shape[1]*(shape[1]+pad)+i%shape[1]] = int64(v)
	}
	return t
}

func farthest(got, want []float32) float64 {
	if len(got) != len(want) || len(got) == 0 {
		return math.Inf(1)
	}
	worst := 0.0
	for i, v := range got {
		if d := math.Abs(float64(v - want[i])); !(d <= worst) {
			worst = d
		}
	}
	return worst
}

// An encoder that is written as ONNX and read again computes the states and embeddings that PyTorch does, whatever
// stands where the mask has zeros; with the nodes as they are, and joined.
func TestEncodersAsGraphs(t *testing.T) {
	const tol = 5e-5 // of states of the size of 1: see the encoder's own test
	for _, name := range []string{"encoders/distilbert", "encoders/roberta", "encoders/roberta-head", "encoders/bert-max", "architectures/bert"} {
		for _, opset := range []int{17, 18, 20, 23} {
			dir := filepath.Join("../../testdata", name)
			g := written(t, dir, formats.WriteOptions{Opset: opset, Pooled: true})
			for _, see := range []func(*graph.Value, *graph.Tensor) error{nil, func(*graph.Value, *graph.Tensor) error { return nil }} {
				what := fmt.Sprintf("%s, opset %d, joined %v", name, opset, see == nil)
				p, err := eval.Compile(g, eval.Options{Threads: 2, Observe: see})
				if err != nil {
					t.Fatal(err)
				}
				ids, shape := reference(t, dir, "input_ids")
				want, states := reference(t, dir, "last_hidden_state")
				width := states[2]
				for _, pad := range []int{0, 5} {
					ones := make([]float32, len(ids))
					for i := range ones {
						ones[i] = 1
					}
					in := map[string]*graph.Tensor{lower.InputIDs: tokens(ids, shape, pad), lower.InputMask: tokens(ones, shape, pad)}
					if len(g.Inputs) == 3 {
						types, _ := reference(t, dir, "token_type_ids")
						in[lower.InputType] = tokens(types, shape, pad)
					}
					out, err := p.RunMap(context.Background(), in)
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					got := graph.Of[float32](out[lower.Hidden])
					for i := range shape[0] {
						n := shape[1] * width
						if d := farthest(got[i*(n+pad*width):][:n], want[i*n:(i+1)*n]); !(d <= tol) {
							t.Errorf("%s, %d padded: states of text %d differ by %v", what, pad, i, d)
						}
					}
					if name == "architectures/bert" || name == "encoders/roberta-head" {
						continue // no sentence models
					}
					vectors, _ := reference(t, dir, "embeddings")
					if d := farthest(graph.Of[float32](out[lower.Sentence]), vectors); !(d <= tol) {
						t.Errorf("%s, %d padded: embeddings differ by %v", what, pad, d)
					}
				}
			}
		}
	}
}

// written is a folder's encoder as a graph, through a file.
func written(t *testing.T, dir string, o formats.WriteOptions) *graph.Graph {
	t.Helper()
	ctx := context.Background()
	m, err := formats.Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := formats.Write(ctx, "onnx", m, path, o); err != nil {
		t.Fatal(err)
	}
	made, err := formats.Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { made.Close() })
	if made.Graph.Opset[""] != max(o.Opset, lower.MinOpset) {
		t.Errorf("%s: opset %v, want %d", dir, made.Graph.Opset, o.Opset)
	}
	return made.Graph
}

// What lower.Load brings into memory is what is written.
func TestLoweredInMemory(t *testing.T) {
	dir := "../../testdata/encoders/bert-max"
	m, err := formats.Open(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	g, err := lower.Encoder(m, lower.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := lower.Load(context.Background(), g, 1000); err == nil {
		t.Error("weights larger than the limit were loaded")
	}
	if err := lower.Load(context.Background(), g, 0); err != nil {
		t.Fatal(err)
	}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	file := written(t, dir, formats.WriteOptions{})
	bytes := map[string][]byte{}
	for _, v := range file.Constants() {
		bytes[v.Name] = v.Const.Data
	}
	for _, v := range g.Constants() {
		if string(bytes[v.Name]) != string(v.Const.Data) || len(v.Const.Data) == 0 {
			t.Errorf("%s: %d bytes in memory, %d in the file, or others", v.Name, len(v.Const.Data), len(bytes[v.Name]))
		}
	}
}
