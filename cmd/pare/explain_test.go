package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/runner/verify"
)

// A package says itself what it was made from, adapters included, and every flag that is printed is
// one that its target takes.
func TestExplainAsksThePackage(t *testing.T) {
	dir := sample(t)
	adapter := filepath.Join(dir, "books-llama", "adapter-shakespeare")
	ok(t, dir, "build", "books-llama/model", "--adapter", adapter, "-t", "gpu-vllm", "--no-verify", "--no-bench", "-q", "-o", "dist")
	short := []string{"--chunks", "1", "--context", "32", "--output", "json"}
	var e verify.Explanation
	if err := json.Unmarshal([]byte(ok(t, dir, append([]string{"explain", "dist/gpu-vllm"}, short...)...)), &e); err != nil {
		t.Fatal(err)
	}
	// 6 blocks of q/k/v, o, gate/up and down: what vLLM fuses is one line. The adapter is not a loss:
	// against the model without it the divergence would be above 1 (perplexity 211 against 48).
	if len(e.Losses) != 24 || e.KL <= 0 || e.KL > 0.2 {
		t.Errorf("%d losses, KL %v", len(e.Losses), e.KL)
	}
	kinds := map[string]bool{}
	for _, l := range e.Losses {
		if l.Type != "int4 g128 sym" || l.Keep == "" || l.Price <= 0 {
			t.Errorf("%+v", l)
		}
		_, kind, _ := strings.Cut(strings.TrimPrefix(l.Tensor, "model.layers."), ".")
		if !kinds[kind] {
			kinds[kind] = true
			ok(t, dir, "plan", "books-llama/model", "-t", "gpu-vllm", "--keep", l.Keep, "-q")
		}
	}
	if len(kinds) != 4 {
		t.Errorf("kinds of tensors: %v", kinds)
	}
	if err := os.WriteFile(filepath.Join(adapter, "README.md"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string][]string{
		"dist/gpu-vllm":     {"which has changed since", "pare explain MERGED dist/gpu-vllm", "for adapters were merged"},
		"books-llama/model": {"nothing here says what it was made from", "pare explain ORIGINAL books-llama/model"},
	} {
		d := pare(t, dir, append([]string{"explain", file}, short...)...)
		for _, w := range want {
			if d.code != exitMisuse || !strings.Contains(d.err, w) {
				t.Errorf("%s: code %d, want %q: %s", file, d.code, w, d.err)
			}
		}
	}
	// The source alone is no fair original, and that is told.
	d := pare(t, dir, append([]string{"explain", "books-llama/model", "dist/gpu-vllm", "--top", "1"}, short...)...)
	if d.code != 0 || !strings.Contains(d.err, "adapters were merged into dist/gpu-vllm and not into books-llama/model") {
		t.Errorf("code %d: %s", d.code, d.err)
	}
}

// An archive holds no report: the one beside it speaks for it, as long as it speaks of these bytes.
// Without --context the chunks are those of the build, and never longer than the model's context.
func TestExplainArchive(t *testing.T) {
	dir := sample(t)
	shorten(t, filepath.Join(dir, "books-llama", "model", "config.json"), 48)
	text := []string{"--chunks", "1", "--output", "json"}
	explained := func(args ...string) (e verify.Explanation) {
		t.Helper()
		if err := json.Unmarshal([]byte(ok(t, dir, append(append([]string{"explain"}, args...), text...)...)), &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	ok(t, dir, "build", "books-llama/model", "-t", "arm64", "--method", "rtn", "--archive", "--chunks", "1", "--no-bench", "-q", "-o", "dist")
	archive := filepath.Join("dist", "arm64.pare")
	rec, found := recordOf(archive)
	if !found || rec.target.Name != "arm64" || rec.context() != 48 {
		t.Fatalf("the record of the archive: %v %+v", found, rec.target)
	}
	if e := explained(archive); e.Protocol.Context != 48 || e.Original != "books-llama/model" || len(e.Losses) == 0 {
		t.Errorf("context %d, original %s, %d losses", e.Protocol.Context, e.Original, len(e.Losses))
	}
	if e := explained("books-llama/model", archive); e.Protocol.Context != 48 {
		t.Errorf("with an original: context %d", e.Protocol.Context)
	}
	d := pare(t, dir, "explain", archive, "--context", "64")
	if d.code != exitMisuse || !strings.Contains(d.err, "trained for 48") {
		t.Errorf("a context that was asked for: code %d: %s", d.code, d.err)
	}
	if err := os.Rename(filepath.Join("dist", "arm64.pare"), filepath.Join("dist", "old.pare")); err != nil {
		t.Fatal(err)
	}
	ok(t, dir, "build", "books-llama/model", "-t", "arm64", "--quantize", "q8_0", "--archive", "--no-verify", "--no-bench", "-q", "-o", "dist", "--force")
	if _, found := recordOf(filepath.Join("dist", "old.pare")); found {
		t.Error("a report of other bytes speaks for an archive")
	}
}

// shorten sets what a model was trained for.
func shorten(t *testing.T, file string, context int) {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal([]byte(readFile(t, file)), &config); err != nil {
		t.Fatal(err)
	}
	config["max_position_embeddings"] = context
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// verify cannot judge a speed, and says so before it reads.
func TestVerifyRefusesSpeed(t *testing.T) {
	d := pare(t, sample(t), "verify", "books-llama/model", "books-llama/model", "--text", "books-llama/text/test.txt", "--gate", "decode_speedup=1.5")
	if d.code != 2 || !strings.Contains(d.err, "cannot judge decode_speedup") || !strings.Contains(d.err, "pare build") {
		t.Errorf("code %d: %s", d.code, d.err)
	}
}
