package main

import (
	"strings"
	"testing"
)

// Graphs are measured alone and in turns, on random numbers and on samples. Only the batch that a file leaves open
// is run together: magika's has a name, that of mnist is 1, and silero's is the second axis of its state.
func TestBenchGraph(t *testing.T) {
	dir := graphs(t)
	together := func(words string) []any {
		t.Helper()
		got := valid(t, "bench-graphs", ok(t, dir, append(strings.Fields(words), "--repeat", "2", "--output", "json", "-j", "1")...))
		m := got["models"].([]any)[0].(map[string]any)
		if realOf(t, m["load_s"]) <= 0 || realOf(t, m["latency_s"].(map[string]any)["p50"]) <= 0 || realOf(t, m["peak_rss_bytes"]) < 1<<20 || m["peak_rss_from"] != "child" {
			t.Errorf("%s: %v", words, m)
		}
		var out []any
		for _, b := range m["batches"].([]any) {
			b := b.(map[string]any)
			out = append(out, b["together"])
			// a batch of n, in the time of one, is n samples
			n := realOf(t, b["batch"])
			if x := realOf(t, b["samples_s"].(map[string]any)["median"]) * realOf(t, b["latency_s"].(map[string]any)["p50"]) / n; x < 0.3 || x > 3 {
				t.Errorf("%s: %v", words, b)
			}
		}
		if two := strings.Contains(words, "--vs"); two != (got["ratio"] != nil) {
			t.Errorf("%s: ratio %v", words, got["ratio"])
		}
		return out
	}
	for _, c := range []struct {
		words string
		want  []any
	}{
		{"bench mnist/mnist-8.onnx --vs mnist/mnist-8.onnx", []any{true, false}},
		{"bench magika/model.onnx --samples magika/inputs.npy --batch 2", []any{true}},
		{"bench silero/silero_vad_16k_op15.onnx --samples input=silero/speech.wav -r silero/recipe.toml", []any{true, true}},
		{"bench silero/silero_vad_16k_op15.onnx --shape input=1x576", []any{true, true}},
	} {
		if got := together(c.words); len(got) != len(c.want) || got[0] != c.want[0] || got[len(got)-1] != c.want[len(got)-1] {
			t.Errorf("%s: together %v, want %v", c.words, got, c.want)
		}
	}
	for _, args := range []string{
		"bench silero/silero_vad_16k_op15.onnx", // its chunks may have any length
		"bench mnist/mnist-8.onnx --batch 0",
		"bench mnist/mnist-8.onnx --prompt 5",
		"bench mnist/mnist-8.onnx --samples missing.npy",
	} {
		if d := pare(t, dir, strings.Fields(args)...); d.code != exitMisuse {
			t.Errorf("%s: exit code %d\n%s", args, d.code, d.err)
		}
	}
	// what the environment sets for every verb is no mistake of this line
	if d := pareEnv(t, dir, map[string]string{"PARE_PROMPT": "5", "PARE_REPEAT": "1"}, "bench", "mnist/mnist-8.onnx"); d.code != 0 {
		t.Errorf("exit code %d\n%s", d.code, d.err)
	}
}
