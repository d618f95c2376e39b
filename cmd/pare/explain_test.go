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
	for file, want := range map[string]string{"dist/gpu-vllm": "which has changed since", "books-llama/model": "nothing here says what it was made from"} {
		d := pare(t, dir, append([]string{"explain", file}, short...)...)
		if d.code != 2 || !strings.Contains(d.err, want) || !strings.Contains(d.err, "pare explain ORIGINAL "+file) {
			t.Errorf("%s: code %d: %s", file, d.code, d.err)
		}
	}
}

// verify cannot judge a speed, and says so before it reads.
func TestVerifyRefusesSpeed(t *testing.T) {
	d := pare(t, sample(t), "verify", "books-llama/model", "books-llama/model", "--text", "books-llama/text/test.txt", "--gate", "decode_speedup=1.5")
	if d.code != 2 || !strings.Contains(d.err, "cannot judge decode_speedup") || !strings.Contains(d.err, "pare build") {
		t.Errorf("code %d: %s", d.code, d.err)
	}
}
