package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A graph with fewer channels is one file of the same bytes, whether its weights came in the file or beside it; it is
// what the report says, runs, and tells the digits apart.
func TestPruneGraph(t *testing.T) {
	dir := graphs(t)
	ok(t, dir, "convert", "mnist/mnist-8.onnx", "-o", "two.onnx", "--external-data")
	prune := func(model, out string) channelPruning {
		t.Helper()
		var r channelPruning
		text := ok(t, dir, "prune", model, "--structure", "channels", "--flops", "50%", "--calibration", "mnist/images-idx3-ubyte.gz", "-o", out, "--output", "json")
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := prune("mnist/mnist-8.onnx", "small.onnx")
	prune("two.onnx", "again.onnx")
	one, err := os.ReadFile(filepath.Join(dir, "small.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(filepath.Join(dir, "again.onnx")); err != nil || !bytes.Equal(one, again) {
		t.Errorf("%d bytes, and %d of weights that lay beside the graph: %v", len(one), len(again), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.onnx*")); len(left) != 4 { // two of two.onnx
		t.Errorf("files lie there: %v", left)
	}
	if r.Bytes.Package != int64(len(one)) || r.Bytes.Package >= r.Bytes.Original {
		t.Errorf("%d bytes, the report says %+v", len(one), r.Bytes)
	}
	// what the graph itself says: channels of the convolutions, and the products that they stand for
	var o inspection
	if err := json.Unmarshal([]byte(ok(t, dir, "inspect", "small.onnx", "--output", "json")), &o); err != nil {
		t.Fatal(err)
	}
	first, second := r.Groups[0].Kept, r.Groups[1].Kept
	if flops := int64(28*28*25*first + 14*14*25*first*second + 16*second*10); flops != r.After.FLOPs || 2*flops > r.Before.FLOPs {
		t.Errorf("%d and %d channels are %d products, the report says %+v of %+v", first, second, flops, r.After, r.Before)
	}
	if in, out := o.Graph.Inputs, o.Graph.Outputs; len(in) != 1 || in[0].Name != "Input3" || len(out) != 1 || out[0].Name != "Plus214_Output_0" {
		t.Errorf("inputs %+v, outputs %+v", in, out)
	}
	ok(t, dir, "verify", "mnist/mnist-8.onnx", "small.onnx", "--samples", "mnist/images-idx3-ubyte.gz", "--labels", "mnist/labels-idx1-ubyte.gz", "--gate", "accuracy_drop=0.02")
}

// Graphs are written as ONNX: a name that says something else is a mistake, and nothing is written under it.
func TestGraphsAreWrittenAsONNX(t *testing.T) {
	dir := graphs(t)
	for _, step := range [][]string{
		{"prune", "mnist/mnist-8.onnx", "--structure", "channels", "--flops", "50%"},
		{"quantize", "mnist/mnist-8.onnx", "--type", "int8-128"},
	} {
		for _, out := range [][]string{{"-o", "small.gguf"}, {"-o", "small"}, {"-o", "small.onnx", "--to", "gguf"}, {"-o", "small.onnx", "--pre", "gpt-2"}} {
			args := append(append([]string{}, step...), out...)
			if d := pare(t, dir, args...); d.code != exitMisuse || !strings.HasPrefix(d.err, "pare: --") {
				t.Errorf("%v: exit code %d, %s", args, d.code, d.err)
			}
			if _, err := os.Stat(filepath.Join(dir, out[1])); err == nil {
				t.Fatalf("%v wrote something", args)
			}
		}
	}
}

// Flags of prune that would change nothing are mistakes, before the model is opened.
func TestPruneIgnoresNoFlag(t *testing.T) {
	dir := t.TempDir()
	for _, flags := range []string{
		"--tokens 512 --sparsity 30%", "--imatrix x.gguf --sparsity 30%", "--calibration x.txt --sparsity 30%",
		"--shuffle --sparsity 30%", "--unpacked --pattern 2:4", "--scope row --pattern 2:4", "--scope row --pattern 2:4 --method wanda",
	} {
		d := pare(t, dir, append([]string{"prune", "model", "-o", "x"}, strings.Fields(flags)...)...)
		if name, _, _ := strings.Cut(flags, " "); d.code != exitMisuse || !strings.HasPrefix(d.err, "pare: "+name+":") {
			t.Errorf("%s: exit code %d, %s", flags, d.code, d.err)
		}
	}
	for _, flags := range []string{"--sparsity 30% --scope row", "--method wanda --sparsity 30% --tokens 9"} {
		if d := pare(t, dir, append([]string{"prune", "model", "-o", "x"}, strings.Fields(flags)...)...); d.code == exitMisuse {
			t.Errorf("%s: %s", flags, d.err) // the model is missing, not a flag wrong
		}
	}
}
