package runner_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// The portable kernels give the same bits on every machine: these digests were written on amd64
// and hold on arm64, where the compiler fuses multiplications and additions that are not kept apart.
// They change when the order of a sum changes, and then only together.
var portableDigests = map[string][2]string{
	"llama":   {"2112eb664e5595af", "702e72290dd1248e"},
	"mistral": {"2e6d890e1e131fcc", "2f34c38216dad883"},
	"qwen2":   {"1f4d9ba8ca87c559", "12fb990078cc49ef"},
	"qwen3":   {"81c230c6c848d7ec", "627d2c46a0599bbc"},
}

func TestPortableBytes(t *testing.T) {
	digest := func(x []float32) string {
		h := sha256.New()
		var b [4]byte
		for _, v := range x {
			binary.LittleEndian.PutUint32(b[:], math.Float32bits(v))
			h.Write(b[:])
		}
		return fmt.Sprintf("%x", h.Sum(nil)[:8])
	}
	for _, name := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		dir := filepath.Join(architectures, name)
		ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
		m := open(t, dir)
		logits := logitsOf(t, load(t, m, runner.Options{ISA: cpu.Portable}), ids[:48])
		w := start(t, m, runner.Options{ISA: cpu.Portable}, [][]int32{ids[:48], ids[48:]})
		all := []float32{}
		for range m.Decoder.Layers {
			for _, s := range ir.Stages {
				x, _ := inputs(t, w, s.Name)
				all = append(all, x...)
			}
			if err := w.Next(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		got := [2]string{digest(logits), digest(all)}
		if got != portableDigests[name] {
			t.Errorf("%q: {%q, %q},", name, got[0], got[1])
		}
	}
}
