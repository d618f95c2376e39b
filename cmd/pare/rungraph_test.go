package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/npy"
)

// numbers reads an array of float32.
func numbers(t *testing.T, path string) ([]float32, []int) {
	t.Helper()
	a, err := npy.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := a.All()
	if err != nil || a.Elem != (npy.Elem{Kind: 'f', Size: 4}) {
		t.Fatalf("%s: %v %v", path, a.Elem, err)
	}
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24)
	}
	return out, a.Shape
}

// same compares two arrays: what pare wrote, and what ONNX Runtime computed (testdata/graphs/README.md). The
// tolerance is of the largest value: sums in another order differ by that of their terms.
func same(t *testing.T, got, want string, tolerance float64) {
	t.Helper()
	x, shape := numbers(t, got)
	y, _ := numbers(t, want)
	if len(x) != len(y) {
		t.Fatalf("%s: shape %v, %d values, want %d", got, shape, len(x), len(y))
	}
	largest := 0.0
	for _, v := range y {
		largest = max(largest, math.Abs(float64(v)))
	}
	for i := range x {
		if d := math.Abs(float64(x[i]) - float64(y[i])); !(d <= tolerance*largest) {
			t.Fatalf("%s: element %d is %v, want %v", got, i, x[i], y[i])
		}
	}
}

// Digits, a photograph, speech and files, from their files to what ONNX Runtime computes of them.
func TestRunGraphs(t *testing.T) {
	dir := graphs(t)
	run := func(args ...string) string { return ok(t, dir, append([]string{"run"}, args...)...) }
	at := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }

	got := valid(t, "run-graph", run("mnist/mnist-8.onnx", "--input", "Input3=mnist/images-idx3-ubyte.gz", "--save-output", "digits", "--output", "json"))
	same(t, at("digits", "Plus214_Output_0.npy"), at("mnist", "logits.npy"), 1e-6)
	out := got["outputs"].([]any)[0].(map[string]any)
	if labels := out["top"].([]any); len(labels) != 1000 || got["samples"].(json.Number) != "1000" {
		t.Errorf("%d rows of scores, %v samples", len(labels), got["samples"])
	}

	run("yunet/yunet_n_320_320.onnx", "--input", "yunet/astronaut.png", "-r", "yunet/recipe.toml", "--save-output", "faces")
	for _, name := range []string{"cls_8", "obj_16", "bbox_32", "kps_8"} {
		same(t, at("faces", name+".npy"), at("yunet", name+".npy"), 1e-5)
	}

	run("silero/silero_vad_16k_op15.onnx", "--input", "input=silero/speech.wav", "-r", "silero/recipe.toml", "--save-output", "speech")
	same(t, at("speech", "output.npy"), at("silero", "probabilities.npy"), 1e-5)

	run("magika/model.onnx", "--input", "magika/inputs.npy", "--save-output", "types")
	// its norms take variances as differences of means, which makes much of little: make.py allows as much
	same(t, at("types", "target_label.npy"), at("magika", "scores.npy"), 5e-3)
}

// A file becomes the input that the publisher of the model computed, and the answer that he gives.
func TestRunBytes(t *testing.T) {
	dir := graphs(t)
	var examples []struct {
		Content    string `json:"content_base64"`
		Status     string `json:"status"`
		Prediction *struct {
			DL    string  `json:"dl"`
			Score float64 `json:"score"`
		} `json:"prediction"`
	}
	f, err := os.Open(filepath.Join(dir, "magika", "standard_v3_3-inference_examples_by_content.json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &examples); err != nil {
		t.Fatal(err)
	}
	var config struct {
		Labels []string `json:"target_labels_space"`
	}
	if err := json.Unmarshal([]byte(readFile(t, filepath.Join(dir, "magika", "config.min.json"))), &config); err != nil {
		t.Fatal(err)
	}
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, e := range examples {
		if e.Status != "ok" || e.Prediction.DL == "undefined" || len(want) == 20 {
			continue
		}
		content, err := base64.StdEncoding.DecodeString(e.Content)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(files, string(rune('a'+len(want))))
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		want = append(want, e.Prediction.DL)
	}
	if err := os.WriteFile(filepath.Join(dir, "labels.txt"), []byte(strings.Join(config.Labels, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var r graphRun
	out := ok(t, dir, "run", "magika/model.onnx", "--input", "files", "-r", "magika/recipe.toml", "--classes", "labels.txt", "--output", "json")
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if len(want) != 20 || len(r.Outputs[0].Top) != len(want) {
		t.Fatalf("%d answers for %d files", len(r.Outputs[0].Top), len(want))
	}
	for i, top := range r.Outputs[0].Top {
		if top.Names[0] != want[i] {
			t.Errorf("file %d is %s, want %s", i, top.Names[0], want[i])
		}
	}
}

// Mistakes say what the graph wants.
func TestRunGraphMistakes(t *testing.T) {
	dir := graphs(t)
	var text bytes.Buffer
	for _, args := range []string{
		"run mnist/mnist-8.onnx",
		"run mnist/mnist-8.onnx --input Input2=mnist/images-idx3-ubyte.gz",
		"run mnist/mnist-8.onnx --input Input3=yunet/cls_8.npy",
		"run mnist/mnist-8.onnx --input Input3=nothing.npy",
		"run mnist/mnist-8.onnx --input Input3=mnist/mnist-8.onnx",
		"run mnist/mnist-8.onnx --input zeros --shape Input3=1x3x28x28",
		"run mnist/mnist-8.onnx --input zeros -n 3",
		"run magika/model.onnx --input yunet/cls_8.npy",
		"run magika/model.onnx --input bytes=0.5 --shape bytes=1x2048",
		"run silero/silero_vad_16k_op15.onnx --input zeros",
		"run silero/silero_vad_16k_op15.onnx --input input=silero/speech.wav",
		"run silero/silero_vad_16k_op15.onnx --input sr=8000.5 --input state=zeros --input input=zeros",
		"run dtln/model_1.onnx --input input_2=dtln/magnitudes.npy --input input_3=dtln/masks.npy",
	} {
		d := pare(t, dir, strings.Fields(args)...)
		if d.code != exitMisuse {
			t.Errorf("%s: exit code %d\n%s", args, d.code, d.err)
		}
		text.WriteString("$ pare " + args + "\n" + d.err)
	}
	golden(t, "run_graph_mistakes.txt", text.String())
}
