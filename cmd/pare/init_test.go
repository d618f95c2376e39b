package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What init writes for the sample builds a package that passes, without a change: its limit is the
// usual one for the type, and the texts beside the model are named.
func TestInitPasses(t *testing.T) {
	dir := sample(t)
	ok(t, dir, "init", "books-llama/model", "-t", "arm64", "-o", "recipes.toml", "-q")
	b, err := os.ReadFile(filepath.Join(dir, "recipes.toml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`text     = ["books-llama/text/calibration.txt"]`, `text     = ["books-llama/text/test.txt"]`, "kl_mean  = 0.18"} {
		if !strings.Contains(string(b), "\n"+line) {
			t.Errorf("the recipe lacks %s\n%s", line, b)
		}
	}
	if testing.Short() {
		t.Skip("builds a package")
	}
	var rep struct {
		Verdict string `json:"verdict"`
		Targets []struct {
			Gate struct {
				Checks []struct {
					Name    string `json:"name"`
					Verdict string `json:"verdict"`
				} `json:"checks"`
			} `json:"gate"`
		} `json:"targets"`
	}
	out := ok(t, dir, "build", "-r", "recipes.toml", "-o", "dist", "--tokens", "4096", "--chunks", "4", "--no-bench", "-q", "--output", "json")
	if err := json.Unmarshal([]byte(out), &rep); err != nil {
		t.Fatal(err)
	}
	if rep.Verdict != "pass" || len(rep.Targets) != 1 || len(rep.Targets[0].Gate.Checks) != 1 || rep.Targets[0].Gate.Checks[0].Name != "kl_mean" {
		t.Errorf("the starter's build: %+v", rep)
	}
}

// A recipe's paths are relative to the recipe, wherever that is written; a path from the root stays.
// What plan would refuse is not written.
func TestInitElsewhere(t *testing.T) {
	dir, elsewhere := sample(t), t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("below", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ in, model, out string }{
		{dir, "books-llama/model", filepath.Join(elsewhere, "r.toml")},
		{dir, "books-llama/model", filepath.Join("below", "r.toml")},
		{dir, filepath.Join(dir, "books-llama", "model"), filepath.Join(elsewhere, "s.toml")},
		{filepath.Join(dir, "books-llama"), "model", filepath.Join("..", "r.toml")},
	} {
		ok(t, c.in, "init", c.model, "-t", "arm64", "-o", c.out, "-q")
		ok(t, c.in, "plan", "-r", c.out, "--no-bench", "-q")
		b, err := os.ReadFile(c.out)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.IsAbs(c.model) != strings.Contains(string(b), "model    = \""+filepath.ToSlash(dir)) {
			t.Errorf("%s -o %s:\n%s", c.model, c.out, b)
		}
	}
	d := pare(t, dir, "init", "books-llama/model", "-t", "arm64", "-t", "arm64", "-o", "twice.toml")
	if _, err := os.Stat("twice.toml"); d.code != exitMisuse || !strings.Contains(d.err, "two packages are called") || err == nil {
		t.Errorf("exit code %d, file written: %v\n%s", d.code, err == nil, d.err)
	}
}

// Where no model and no text lies, the recipe says so instead of naming them.
func TestInitWithoutModel(t *testing.T) {
	d := pare(t, t.TempDir(), "init", "nowhere/model", "-o", "r.toml")
	if d.code != 0 || !strings.Contains(d.err, "there is nothing at nowhere/model") {
		t.Errorf("exit code %d: %s", d.code, d.err)
	}
	out := ok(t, t.TempDir(), "init", "nowhere/model", "-o", "-")
	if !strings.Contains(out, "pare build -r recipe.toml -o dist") || !strings.Contains(out, "\n# text   = [\"calibration.txt\"]") {
		t.Errorf("to stdout:\n%s", out)
	}
}

// The starter of a graph names its inputs and what is open in them; once it says what the samples are, it builds.
func TestInitGraph(t *testing.T) {
	dir := graphs(t)
	out := ok(t, dir, "init", "silero/silero_vad_16k_op15.onnx", "-t", "npu-qnn", "-o", "-")
	for _, want := range []string{`# samples = ["input=FILE.npy", "state=FILE.npy", "sr=FILE.npy"]`, "# [preprocess.\"state\"]", "\nquantize = \"int8\"\n", "# quantize = \"int16\""} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	ok(t, dir, "init", "mnist/mnist-8.onnx", "-o", "r.toml", "-q")
	starter := readFile(t, filepath.Join(dir, "r.toml"))
	for _, line := range []string{"[[pass]]", "use   = \"prune.channels\"", "flops = "} {
		starter = strings.Replace(starter, "\n# "+line, "\n"+line, 1)
	}
	if err := os.WriteFile(filepath.Join(dir, "smaller.toml"), []byte(starter), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := ok(t, dir, "plan", "-r", "smaller.toml", "--quantize", "f32", "--calibration", "mnist/images-idx3-ubyte.gz"); !strings.Contains(out, "prune     channels: ") {
		t.Errorf("what the starter proposes is not planned:\n%s", out)
	}
	ok(t, dir, "plan", "-r", "r.toml", "-q")
	if d := pare(t, dir, "build", "-r", "r.toml", "-o", "dist"); d.code != exitMisuse || !strings.Contains(d.err, "needs samples") {
		t.Errorf("exit code %d\n%s", d.code, d.err)
	}
	ok(t, dir, "build", "-r", "r.toml", "--calibration", "mnist/images-idx3-ubyte.gz", "--no-bench", "-o", "dist", "-q")
	if d := pare(t, dir, "init", "mnist/mnist-8.onnx", "-t", "gpu-vllm", "-o", "-"); d.code != exitMisuse {
		t.Errorf("exit code %d\n%s", d.code, d.err)
	}
}

// The ids that --encode prints are what --decode and --tokens take.
func TestEncodeDecode(t *testing.T) {
	dir := sample(t)
	out := ok(t, dir, "run", "books-llama/model", "--encode", "It was a dark night")
	_, ids, found := strings.Cut(strings.TrimSpace(out), "\nids  ")
	if !found {
		t.Fatalf("no line of ids:\n%s", out)
	}
	if text := ok(t, dir, "run", "books-llama/model", "--decode", ids); strings.TrimSpace(text) != "It was a dark night" {
		t.Errorf("%s decodes to %q", ids, text)
	}
	if text := ok(t, dir, "run", "books-llama/model", "-p", "It was", "-n", "0", "-q"); text != "" {
		t.Errorf("-n 0 wrote %q", text)
	}
}
