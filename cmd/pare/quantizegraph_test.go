package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// Digits in 8 bits: as many are right as in float, and the gate says so; too strict a gate fails.
func TestQuantizeGraph(t *testing.T) {
	dir := graphs(t)
	images, labels := "mnist/images-idx3-ubyte.gz", "mnist/labels-idx1-ubyte.gz"
	got := valid(t, "quantize-graph", ok(t, dir, "quantize", "mnist/mnist-8.onnx", "--type", "uint8", "--calibration", images, "-o", "small.onnx", "--output", "json"))
	if s := got["bytes"].(map[string]any); s["package"] == nil {
		t.Errorf("%v", got)
	}
	verify := []string{"verify", "mnist/mnist-8.onnx", "small.onnx", "--samples", images, "--labels", labels, "--layers", "--output", "json", "--gate"}
	got = valid(t, "verify-graphs", ok(t, dir, append(verify, "sqnr_db=30")...))
	task := got["task"].(map[string]any)
	// 98.7 % of the digits are right in ONNX Runtime (testdata/graphs/README.md)
	if realOf(t, task["original"]) != 0.987 || realOf(t, task["package"]) < 0.985 || realOf(t, task["n"]) != 1000 {
		t.Errorf("%v", task)
	}
	if len(got["layers"].([]any)) < 2 {
		t.Errorf("layers %v", got["layers"])
	}
	// what scikit-learn says is tested where it is computed; here, that labels reach it
	if f1 := realOf(t, task["f1"].(map[string]any)["original"]); f1 < 0.98 || f1 > 0.99 {
		t.Errorf("F1 %v", f1)
	}
	ok(t, dir, "verify", "mnist/mnist-8.onnx", "mnist/mnist-8.onnx", "--samples", images, "--save-output", "saved", "--gate", "cosine=1")
	for _, side := range []string{"original", "package"} { // ONNX Runtime's logits, testdata/graphs/README.md
		same(t, filepath.Join(dir, "saved", side, "Plus214_Output_0.npy"), filepath.Join(dir, "mnist", "logits.npy"), 1e-4)
	}
	if d := pare(t, dir, append(verify, "sqnr_db=80")...); d.code != exitGate {
		t.Errorf("exit code %d\n%s", d.code, d.err)
	}
	// What stands in the environment for language models is no mistake here; the same on the line is one.
	standing := map[string]string{"PARE_CHUNKS": "16", "PARE_CONTEXT": "256", "PARE_TEXT": "corpus.txt", "PARE_KV": "f16", "PARE_TEMPERATURE": "0"}
	if d := pareEnv(t, dir, standing, append(verify, "sqnr_db=30")...); d.code != 0 {
		t.Errorf("verify with %v: exit code %d\n%s", standing, d.code, d.err)
	}
	if d := pareEnv(t, dir, standing, "run", "mnist/mnist-8.onnx", "--input", images); d.code != 0 {
		t.Errorf("run with %v: exit code %d\n%s", standing, d.code, d.err)
	}
	if d := pare(t, dir, append(verify, "sqnr_db=30", "--chunks", "16")...); d.code != exitMisuse {
		t.Errorf("--chunks: exit code %d\n%s", d.code, d.err)
	}
	ok(t, dir, "quantize", "magika/model.onnx", "--type", "dynamic-int8", "-o", "types.onnx")
	ok(t, dir, "verify", "magika/model.onnx", "types.onnx", "--samples", "magika/inputs.npy", "--gate", "top1=0.5")
	ok(t, dir, "quantize", "magika/model.onnx", "--type", "int4-32", "-o", filepath.Join(dir, "blocks.onnx"))
	for _, args := range []string{
		"quantize mnist/mnist-8.onnx --type uint8 -o x.onnx",
		"quantize mnist/mnist-8.onnx --type q4_0 --calibration mnist/images-idx3-ubyte.gz -o x.onnx",
		"quantize mnist/mnist-8.onnx --type int8 --method gptq --calibration mnist/images-idx3-ubyte.gz -o x.onnx",
		"verify mnist/mnist-8.onnx small.onnx",
		"verify mnist/mnist-8.onnx small.onnx --samples mnist/images-idx3-ubyte.gz --gate kl_mean=1",
		"verify mnist/mnist-8.onnx small.onnx --samples mnist/images-idx3-ubyte.gz --labels mnist/images-idx3-ubyte.gz",
	} {
		if d := pare(t, dir, strings.Fields(args)...); d.code != exitMisuse {
			t.Errorf("%s: exit code %d\n%s", args, d.code, d.err)
		}
	}
}

func realOf(t *testing.T, v any) float64 {
	t.Helper()
	n, ok := v.(interface{ Float64() (float64, error) })
	if !ok {
		t.Fatalf("%v is no number", v)
	}
	f, err := n.Float64()
	if err != nil {
		t.Fatal(err)
	}
	return f
}
