package quantize_test

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/runner"
)

// The statistics of a trained model over four chunks of text are those of llama.cpp's imatrix tool:
// the same layers, the same counts, and sums that differ by the rounding of float32 activations only.
func TestCalibrateAsLlamaCpp(t *testing.T) {
	const books, chunks, size = "../testdata/books-llama", 4, 512
	m, err := formats.Open(t.Context(), filepath.Join(books, "model"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close() //nolint:errcheck // read only
	tok, err := tokenizer.New(m.Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(books, "text", "calibration.txt"))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := tok.Encode(string(text[:16<<10]), tokenizer.EncodeOptions{AddStart: true})
	if err != nil || len(ids) < chunks*size {
		t.Fatal(len(ids), err)
	}
	want, err := quantize.ReadStatistics("testdata/imatrix-4-chunks.gguf")
	if err != nil {
		t.Fatal(err)
	}
	sequences := slices.Collect(slices.Chunk(ids[:chunks*size], size))
	got, err := quantize.Calibrate(t.Context(), m, runner.NewExecutor(runner.Options{}), sequences, quantize.CalibrateOptions{Head: true})
	if err != nil {
		t.Fatal(err)
	}
	if got.Chunks != want.Chunks || got.ChunkSize != want.ChunkSize || len(got.Layers) != 43 || len(want.Layers) != 43 {
		t.Fatalf("%d chunks of %d, %d layers; llama.cpp: %d of %d, %d", got.Chunks, got.ChunkSize, len(got.Layers), want.Chunks, want.ChunkSize, len(want.Layers))
	}
	worst := 0.0
	for name, w := range want.Layers {
		g := got.Layers[name]
		if g == nil || !slices.Equal(g.Counts, w.Counts) || len(g.Sums) != len(w.Sums) {
			t.Errorf("%s: %+v", name, g)
			continue
		}
		for i, v := range w.Sums {
			d := math.Abs(float64(g.Sums[i])/float64(v) - 1)
			worst = max(worst, d)
			if !(d < 5e-5) {
				t.Errorf("%s: input %d has %v, llama.cpp %v", name, i, g.Sums[i], v)
				break
			}
		}
	}
	t.Logf("largest relative difference %.2g", worst)
}
