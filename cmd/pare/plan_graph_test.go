package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// A network is held against the rules of a neural processor: nodes, rules and what would be legal are named,
// and --fail-on makes a fallback an exit code.
func TestPlanGraph(t *testing.T) {
	folder, err := filepath.Abs("../../testdata/graphs")
	if err != nil {
		t.Fatal(err)
	}
	const mnist = "mnist/mnist-8.onnx"
	got := valid(t, "build", ok(t, folder, "plan", mnist, "-t", "npu-qnn", "--output", "json"))
	x := got["targets"].([]any)[0].(map[string]any)
	g := x["graph"].(map[string]any)
	// The file is of operator set 8; what would be written is of 13, the first with scales for each channel.
	if realOf(t, got["source"].(map[string]any)["opset"]) != 8 || realOf(t, g["float"]) != 0 || realOf(t, g["integer"]) < 5 || x["not_executed"] == nil {
		t.Errorf("%v", got)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"plan", mnist, "-t", "npu-qnn", "--quantize", "dynamic-int8", "--fail-on", "fallback"}, exitRefused, "operator set 11; use 13 to 21"},
		{[]string{"plan", mnist, "-t", "x86-64-v4", "--fail-on", "fallback"}, 0, "runs all of it"},
		{[]string{"plan", mnist, "-t", "gpu-vllm"}, exitRefused, "takes language models"},
		{[]string{"plan", mnist, "-t", "npu-qnm"}, 2, "Did you mean npu-qnn"},
		{[]string{"plan", mnist, "-t", "npu-qnn", "--shape", "Input3=1x1"}, 2, "dimensions"},
		{[]string{"plan", mnist, "-t", "npu-qnn", "--shape", "Input3"}, 2, "write Input3=1x3x224x224"},
		{[]string{"plan", "missing.onnx", "-t", "npu-qnn"}, 1, "missing.onnx"},
		{[]string{"plan", mnist, "-t", "npu-qnn", "--fail-on", "rain"}, 2, "--fail-on"},
		{[]string{"plan", "silero/silero_vad_16k_op15.onnx", "-t", "npu-qnn"}, 0, "input input: the dimensions of input are not known"},
	} {
		d := pare(t, folder, c.args...)
		if d.code != c.code || !strings.Contains(d.out+d.err, c.want) {
			t.Errorf("pare %s: %d\n%s%s\nwant %d, %q", strings.Join(c.args, " "), d.code, d.out, d.err, c.code, c.want)
		}
	}
}
