package lora_test

import (
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/lora"
)

// The less common kinds on bases of unknown architecture: IA3 on inputs and outputs (biases, too),
// biases of B, DoRA on Conv1D and convolutions, and adapters in PyTorch .bin files.
func TestMethodsEqualPEFT(t *testing.T) {
	type one struct{ base, dir string }
	cases := []one{}
	for _, name := range []string{"ia3", "ia3-conv1d", "lora-bias", "dora-conv1d", "dora-square", "dora-conv2d", "rslora-conv2d", "bias-lora-only"} {
		cases = append(cases, one{"../testdata/peft-methods/base.safetensors", "../testdata/peft-methods/" + name})
	}
	for _, name := range []string{"lora_mlp", "lora_mlp_modules_to_save", "lora_conv2d", "lora_emb_conv1d"} {
		cases = append(cases, one{filepath.Join("../testdata/peft-lora", name, "base.safetensors"), filepath.Join("../testdata/peft-lora", name)})
	}
	for _, c := range cases {
		t.Run(filepath.Base(c.dir), func(t *testing.T) {
			m, base := open(t, c.base), open(t, c.base)
			res := apply(t, m, load(t, c.dir), lora.Options{})
			want := tensors(t, filepath.Join(c.dir, "expected.safetensors"))
			compare(t, m, base, want)
			if res.Changed != len(want) {
				t.Errorf("changed %d tensors, PEFT %d", res.Changed, len(want))
			}
		})
	}
}

// Half an adapter is halfway: W + w (adapter(W) - W), for every kind.
func TestWeights(t *testing.T) {
	const base = "../testdata/peft-methods/base.safetensors"
	for _, name := range []string{"ia3", "ia3-conv1d", "lora-bias", "dora-conv1d", "dora-conv2d", "bias-lora-only"} {
		dir := "../testdata/peft-methods/" + name
		m, before := open(t, base), open(t, base)
		apply(t, m, load(t, dir+":0.25"), lora.Options{})
		for n, full := range tensors(t, filepath.Join(dir, "expected.safetensors")) {
			b := values(t, before, n)
			for i := range full {
				full[i] = b[i] + 0.25*(full[i]-b[i])
			}
			if d := maxDiff(values(t, m, n), full); !(d <= 1e-6) {
				t.Errorf("%s %s: a quarter is off by %g", name, n, d)
			}
		}
	}
}
