package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/npy"
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

// A package says itself how files become its inputs; a verb that makes something of a model names the file in it.
func TestGraphPackage(t *testing.T) {
	dir := graphs(t)
	const pkg, speech = "made/x86-64-v4", "input=silero/speech.wav"
	ok(t, dir, "build", "-r", "silero/build.toml", "-o", "made", "-q")
	got := valid(t, "run-graph", ok(t, dir, "run", pkg, "--input", speech, "--output", "json"))
	if realOf(t, got["samples"]) != 250 { // chunks of 512 samples in 8 s of 16 kHz
		t.Errorf("%v", got)
	}
	ok(t, dir, "verify", "silero/silero_vad_16k_op15.onnx", pkg, "--samples", speech, "--gate", "sqnr_db=8")
	if out := ok(t, dir, "inspect", pkg); !strings.Contains(out, "onnx · opset") {
		t.Error(out)
	}
	for line, want := range map[string]string{
		"quantize " + pkg + " --type int8 -o x.onnx":         "name the model in it: made/x86-64-v4/model.onnx",
		"build " + pkg + " -o y":                             "name the model in it: made/x86-64-v4/model.onnx",
		"explain silero/silero_vad_16k_op15.onnx " + pkg:     "nothing to compare on",
		"build silero/silero_vad_16k_op15.onnx -o z":         "needs samples",
		"build mnist/mnist-8.onnx --chunks 4 -o z":           "it is for language models",
		"build mnist/mnist-8.onnx --container gguf -o z":     "container out",
		"plan mnist/mnist-8.onnx --quantize int44":           "int44",
		"build mnist/mnist-8.onnx --adapter mnist/x -o z":    "it is for language models",
		"build silero/speech.wav --samples mnist/x.npy -o z": "speech.wav",
	} {
		d := pare(t, dir, strings.Fields(line)...)
		if d.code == 0 || !strings.Contains(strings.ToLower(d.err), want) {
			t.Errorf("%s: exit code %d\n%s", line, d.code, d.err)
		}
	}
	file := filepath.Join(dir, pkg, "model.onnx")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if d := pare(t, dir, "run", pkg, "--input", speech); d.code == 0 || !strings.Contains(d.err, "differs from the manifest") {
		t.Errorf("one bit of a package changed: exit code %d\n%s", d.code, d.err)
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

// Integers alone are 46 dB from float on these digits; more takes a layer in float, and 200 are out of reach. By
// accuracy nothing has to stay float: as many digits are right as before.
func TestMixGraph(t *testing.T) {
	dir := graphs(t)
	images := filepath.Join(dir, "digits.npy") // the first 100, since every choice is measured on all of them
	all, err := npy.Open(filepath.Join(dir, "mnist", "images-idx3-ubyte.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	rows, err := all.Rows(0, 100)
	if err != nil {
		t.Fatal(err)
	}
	w, err := npy.Create(images, all.Elem, 100, 28, 28)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	labels, err := os.ReadFile(filepath.Join(dir, "mnist", "labels-idx1-ubyte.gz"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(labels))
	if err != nil {
		t.Fatal(err)
	}
	if labels, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	right := ""
	for _, l := range labels[8:108] { // behind the header
		right += fmt.Sprintln(l)
	}
	if err := os.WriteFile(filepath.Join(dir, "right.txt"), []byte(right), 0o600); err != nil {
		t.Fatal(err)
	}
	line := func(gate string, more ...string) []string {
		return append([]string{"quantize", "mnist/mnist-8.onnx", "--type", "uint8", "--calibration", images, "--gate", gate, "-o", "mixed.onnx", "--force", "--output", "json"}, more...)
	}
	got := valid(t, "quantize-graph", ok(t, dir, line("sqnr_db=50")...))
	mix := got["mix"].(map[string]any)
	trades := mix["trades"].([]any)
	if n := realOf(t, mix["integer"]); n < 40 || n >= 50 || realOf(t, mix["reached"]) < 50 || len(trades) == 0 || realOf(t, mix["float"]) > 2 {
		t.Errorf("%v", mix)
	}
	kept := got["kept"].([]any)
	if first := trades[0].(map[string]any); len(kept) != int(realOf(t, mix["float"])) || len(kept) == 0 || !strings.Contains(fmt.Sprint(trades), kept[0].(map[string]any)["node"].(string)) || realOf(t, first["price_bytes"]) <= 0 {
		t.Errorf("%v, but %v stay float", trades, kept)
	}
	ok(t, dir, "verify", "mnist/mnist-8.onnx", "mixed.onnx", "--samples", images, "--gate", "sqnr_db=50")
	got = valid(t, "quantize-graph", ok(t, dir, line("accuracy_drop=0.002", "--labels", "right.txt")...))
	if mix := got["mix"].(map[string]any); len(mix["trades"].([]any)) != 0 || realOf(t, mix["float"]) != 0 {
		t.Errorf("%v", mix)
	}
	if d := pare(t, dir, line("sqnr_db=200")...); d.code != exitGate {
		t.Errorf("exit code %d\n%s", d.code, d.err)
	}
	for _, args := range [][]string{line("accuracy_drop=0.1"), line("kl_mean=1"), line("sqnr_db=30", "--gate", "cosine=1")} {
		if d := pare(t, dir, args...); d.code != exitMisuse {
			t.Errorf("%v: exit code %d\n%s", args, d.code, d.err)
		}
	}
}
