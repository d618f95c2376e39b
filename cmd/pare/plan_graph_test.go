package main

import (
	"encoding/json"
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
	var p graphPlan
	if err := json.Unmarshal([]byte(ok(t, folder, "plan", mnist, "-t", "npu-qnn", "--output", "json")), &p); err != nil {
		t.Fatal(err)
	}
	// The file is of operator set 8, which knows no scales for each channel: the only thing that is wrong.
	if x := p.Targets[0]; p.Opset != 8 || x.Verdict != "fallback" || x.Findings[0].Rule != "opset" || !strings.Contains(x.Findings[0].Nearest, "13") || x.NotExecuted == "" {
		t.Errorf("%+v", p)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"plan", mnist, "-t", "npu-qnn", "--fail-on", "fallback"}, exitRefused, "operator set 8"},
		{[]string{"plan", mnist, "-t", "x86-64-v4", "--fail-on", "fallback"}, 0, "runs all of it"},
		{[]string{"plan", mnist, "-t", "gpu-vllm"}, exitRefused, "language models only"},
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
