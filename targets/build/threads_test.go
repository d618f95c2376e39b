package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/targets/recipe"
)

// hashes are the digests of all files below a path, the report and its timings left out.
func hashes(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), "report.") || e.Name() == "junit.xml" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		sum := sha256.Sum256(b)
		out[rel] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Every method gives the same bytes at any number of threads, on the fastest instruction set that
// this machine has: work is divided by rows and blocks, and no sum depends on who computed what.
func TestSameBytesAtAnyThreads(t *testing.T) {
	half := recipe.Ratio(0.5)
	plain := func(passes ...recipe.Pass) *recipe.Recipe {
		r := tinyRecipe()
		r.Calibration, r.Verify, r.Passes = recipe.Calibration{}, recipe.Verify{Off: true}, passes
		return r
	}
	active := func(target recipe.Target, passes ...recipe.Pass) *recipe.Recipe {
		r := tinyRecipe()
		r.Calibration.Tokens = 512
		r.Verify, r.Passes, r.Targets = recipe.Verify{Off: true}, passes, []recipe.Target{target}
		return r
	}
	merge := plain()
	merge.Source = recipe.Source{Model: filepath.Join(books, "model"), Adapters: []recipe.Adapter{{Path: filepath.Join(books, "adapter-shakespeare"), Weight: 1}}}
	jobs := map[string]childJob{
		"merge":            {Recipe: merge, To: "hf"},
		"magnitude row":    {Recipe: plain(recipe.Pass{Use: "prune.magnitude", Sparsity: &half, Scope: "row"}), To: "hf"},
		"magnitude layer":  {Recipe: plain(recipe.Pass{Use: "prune.magnitude", Sparsity: &half, Scope: "layer"}), To: "hf"},
		"magnitude global": {Recipe: plain(recipe.Pass{Use: "prune.magnitude", Sparsity: &half, Scope: "global"}), To: "hf"},
		"magnitude 2:4":    {Recipe: plain(recipe.Pass{Use: "prune.magnitude", Pattern: "2:4"}), To: "hf"},
		"wanda 50 %":       {Recipe: active(recipe.Target{Use: "arm64", Quantize: "q8_0"}, recipe.Pass{Use: "prune.wanda", Sparsity: &half})},
		"wanda 4:8":        {Recipe: active(recipe.Target{Use: "arm64", Quantize: "q8_0"}, recipe.Pass{Use: "prune.wanda", Pattern: "4:8"})},
		"q4_0 gptq":        {Recipe: active(recipe.Target{Use: "arm64", Quantize: "q4_0", Method: "gptq"})},
		"q4_k_m gptq":      {Recipe: active(recipe.Target{Use: "x86-64-v3", Quantize: "q4_k_m", Method: "gptq"})},
		"q3_k_m imatrix":   {Recipe: active(recipe.Target{Use: "x86-64-v3", Quantize: "q3_k_m", Method: "rtn"})},
		"int4g128":         {Recipe: active(recipe.Target{Use: "gpu-vllm", Quantize: "int4g128"})},
		"q2_k_s imatrix":   {Recipe: active(recipe.Target{Use: "x86-64-v3", Quantize: "q2_k_s", Method: "rtn"})},
		"int8":             {Recipe: active(recipe.Target{Use: "gpu-vllm", Quantize: "int8"})},
	}
	for _, p := range quantize.Presets() {
		if p.Name == "q2_k_s" {
			continue // above: it is refused without an importance matrix
		}
		jobs["preset "+p.Name] = childJob{Recipe: plain(), To: "gguf", Quantize: &recipe.Target{Quantize: p.Name, Method: "rtn"}}
	}
	for name, job := range jobs {
		var want map[string]string
		for _, threads := range []int{1, 3} {
			job.Out, job.Threads = filepath.Join(t.TempDir(), "out"), threads
			if _, err := job.run(context.Background()); err != nil {
				t.Errorf("%s, %d threads: %v", name, threads, err)
				break
			}
			got := hashes(t, job.Out)
			if want == nil {
				want = got
			}
			if len(got) == 0 || !maps.Equal(got, want) {
				t.Errorf("%s: %d threads give other bytes than one: %v, %v", name, threads, got, want)
			}
		}
	}
}
