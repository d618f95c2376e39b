package build

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
)

var update = flag.Bool("update", false, "rewrite testdata/golden.json from what comes out now")

// Packages hold the same bytes on every machine: without activations at any instruction set, and
// with them on the portable one. The golden digests were made on amd64; running this test elsewhere
// (or emulated) is the proof. They are our own output: -update rewrites them when an encoder
// changes on purpose.
func TestSameBytesEverywhere(t *testing.T) {
	const file = "testdata/golden.json"
	half := recipe.Ratio(0.5)
	got := map[string]string{}
	for name, c := range map[string]struct {
		isa    cpu.Level
		target recipe.Target
		passes []recipe.Pass
		plain  bool // no calibration text
	}{
		"q4_k_m rtn":             {cpu.Best(), recipe.Target{Use: "x86-64-v3"}, nil, true},
		"q2_k rtn":               {cpu.Best(), recipe.Target{Use: "arm64", Quantize: "q2_k"}, nil, true},
		"int4g128 rtn":           {cpu.Best(), recipe.Target{Use: "gpu-vllm"}, nil, true},
		"int8 rtn":               {cpu.Best(), recipe.Target{Use: "gpu-vllm", Quantize: "int8"}, nil, true},
		"q8_0 magnitude":         {cpu.Best(), recipe.Target{Use: "arm64", Quantize: "q8_0"}, []recipe.Pass{{Use: "prune.magnitude", Sparsity: &half, Scope: "global"}}, true},
		"q4_0 gptq, portable":    {cpu.Portable, recipe.Target{Use: "arm64"}, nil, false},
		"q4_k_m gptq, portable":  {cpu.Portable, recipe.Target{Use: "x86-64-v4"}, nil, false},
		"q4_0 imatrix, portable": {cpu.Portable, recipe.Target{Use: "arm64", Method: "rtn"}, nil, false},
		"q8_0 wanda, portable":   {cpu.Portable, recipe.Target{Use: "arm64", Quantize: "q8_0"}, []recipe.Pass{{Use: "prune.wanda", Pattern: "2:4"}}, false},
	} {
		r := tinyRecipe()
		r.Calibration.Tokens = 512
		if c.plain {
			r.Calibration = recipe.Calibration{}
		}
		r.Verify = recipe.Verify{Off: true}
		r.Passes, r.Targets = c.passes, []recipe.Target{c.target}
		rep, err := Run(context.Background(), r, Options{Tool: "pare test", Out: filepath.Join(t.TempDir(), "out"), ISA: c.isa})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		x := &rep.Targets[0]
		if x.SameBytes != "any machine" {
			t.Errorf("%s: the report promises the same bytes for %q only", name, x.SameBytes)
		}
		man, err := pack.ReadManifest(x.Package)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range man.Files {
			if strings.HasPrefix(f.Path, "model") {
				got[name] = f.SHA256
			}
		}
	}
	if *update {
		b, err := json.MarshalIndent(got, "", "  ")
		if err == nil {
			err = os.WriteFile(file, append(b, '\n'), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(got) {
		t.Errorf("%d golden digests for %d cases", len(want), len(got))
	}
	for name, d := range got {
		if d != want[name] {
			t.Errorf("%s: %s, want %s", name, d, want[name])
		}
	}
}
