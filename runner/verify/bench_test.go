package verify_test

import (
	"context"
	"testing"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/runner/verify"
)

// BenchmarkVerify compares the sample model with itself in 8 bits, 512 tokens a chunk, and says how
// many tokens of text pass by in a second, both models together.
func BenchmarkVerify(b *testing.B) {
	m, tokens := openBooks(b)
	types := map[string]storage.Type{}
	for _, x := range m.Tensors() {
		if x.Role.Linear() {
			types[x.Name] = storage.Q8_0
		}
	}
	x, y := load(b, m), load(b, plant(b, m, types))
	const chunks = 8
	b.ReportAllocs()
	for b.Loop() {
		if _, err := verify.Run(context.Background(), x, y, tokens, verify.Options{Chunks: chunks, BOS: -1}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(chunks*512*b.N)/b.Elapsed().Seconds(), "tok/s")
}
