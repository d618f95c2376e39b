package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// graphs is a folder with the real networks of testdata.
func graphs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(home, "..", "..", "testdata", "graphs"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestInspectGraph(t *testing.T) {
	dir := graphs(t)
	golden(t, "inspect_graph.txt", ok(t, dir, "inspect", "silero/silero_vad_16k_op15.onnx"))
	var o inspection
	if err := json.Unmarshal([]byte(ok(t, dir, "inspect", "mnist/mnist-8.onnx", "--output", "json")), &o); err != nil {
		t.Fatal(err)
	}
	g := o.Graph
	// what the model zoo says of the network: two convolutions, two pools, one product
	count := map[string]int{}
	for _, op := range g.Operators {
		count[op.Name] = op.Count
	}
	if o.Format != "onnx" || g.Opset[""] != 8 || count["Conv"] != 2 || count["MaxPool"] != 2 || count["MatMul"] != 1 || g.Nodes != 12 {
		t.Errorf("%+v", g)
	}
	in, out := g.Inputs, g.Outputs
	if len(in) != 1 || in[0].Name != "Input3" || in[0].Type != "f32" || len(*in[0].Shape) != 4 || len(out) != 1 || out[0].Name != "Plus214_Output_0" {
		t.Errorf("inputs %+v, outputs %+v", in, out)
	}
	valid(t, "inspect", ok(t, dir, "inspect", "mnist/mnist-8.onnx", "--output", "json"))
	types := filepath.Join(home, "..", "..", "formats", "testdata", "onnx", "types.onnx") // ranks are not known there
	got := valid(t, "inspect", ok(t, dir, "inspect", types, "--output", "json"))
	bits := map[string]string{}
	for _, x := range got["tensors"].([]any) {
		x := x.(map[string]any)
		bits[x["name"].(string)] = fmt.Sprint(x["bits_per_weight"])
	}
	if bits["INT4.many.raw"] != "4" || bits["UINT2.few.data"] != "2" || bits["FLOAT16.many.raw"] != "16" || bits["FLOAT8E5M2FNUZ.few.raw"] != "8" {
		t.Errorf("bits per weight: %v", bits)
	}
}

// A graph that nobody has changed converts to one of the same content, in one file or two.
func TestConvertGraph(t *testing.T) {
	dir := graphs(t)
	ok(t, dir, "convert", "dtln/model_1.onnx", "-o", "two.onnx", "--external-data")
	ok(t, dir, "convert", "two.onnx", "-o", "one.onnx")
	ok(t, dir, "convert", "dtln/model_1.onnx", "-o", "same.onnx")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if one := read("one.onnx"); !bytes.Equal(one, read("same.onnx")) || len(one) < 1_450_000 {
		t.Errorf("by way of external data the file becomes another one, of %d bytes", len(one))
	}
	if two, data := read("two.onnx"), read("two.onnx.data"); len(two) > 20_000 || len(data) < 1_440_000 {
		t.Errorf("%d bytes of graph, %d of data", len(two), len(data))
	}
	if err := os.Remove(filepath.Join(dir, "two.onnx.data")); err != nil {
		t.Fatal(err)
	}
	if d := pare(t, dir, "inspect", "two.onnx"); d.code != exitFailed || !strings.Contains(d.err, "two.onnx.data") || !strings.Contains(d.err, "missing") {
		t.Errorf("code %d: %s", d.code, d.err)
	}
}
