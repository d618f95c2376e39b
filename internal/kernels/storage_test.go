package kernels_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
)

// The decoders of package storage were written apart from these and define what files mean. Every
// level gives the same bits for random blocks, whose scales include infinities and subnormal numbers.
func TestDecodeAgainstStorage(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	types := 0
	for _, s := range kernels.All() {
		for _, info := range storage.All() {
			decode := s.DecodeRow(string(info.Type))
			if decode == nil {
				continue
			}
			types++
			n := 1 << 14 / info.BlockElems
			src := make([]byte, n*info.BlockBytes)
			for i := range src {
				src[i] = byte(rng.Uint32())
			}
			got, want := make([]float32, n*info.BlockElems), make([]float32, n*info.BlockElems)
			decode(got, src)
			info.Decode(want, src)
			for i := range want {
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
					t.Fatalf("%s %s: element %d is %v (%#08x), storage says %v (%#08x)", s.Level(), info.Type, i,
						got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
				}
			}
		}
	}
	if want := 15 * len(kernels.All()); types != want {
		t.Errorf("compared %d decoders, want %d", types, want)
	}
}
