package runner

import (
	"runtime"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
)

// What a cache keeps in a slab is what it keeps on the heap, in every type, to the last page, and pages that do
// not overlap.
func TestSlab(t *testing.T) {
	const heads, dim, tokens = 5, 64, 9*pageLen - 1
	k, v := kernels.View(make([]float32, tokens*heads*dim), tokens, heads*dim), kernels.View(make([]float32, tokens*heads*dim), tokens, heads*dim)
	for i := range k.Data {
		k.Data[i], v.Data[i] = float32(i%1013)-500, float32(i%977)-300
	}
	set := kernels.For("")
	for _, kv := range []storage.Type{storage.F32, storage.F16, storage.Q8_0} {
		heap, large := cache{kv: kv, heads: heads, dim: dim}, cache{kv: kv, heads: heads, dim: dim}
		size := int64(large.missing(0, tokens)) * large.pageBytes()
		if size < slabLeast && kv == storage.F32 {
			t.Fatalf("%d bytes make no slab", size)
		}
		in := newSlab(max(size, slabLeast))
		large.grow(0, tokens, in)
		if used := in.memory.Bytes(); int64(len(used)-len(in.rest)) != size {
			t.Errorf("%s: pages of %d bytes took %d of the slab", kv, size, len(used)-len(in.rest))
		}
		heap.grow(0, tokens, newSlab(1))
		heap.put(set, 0, k, v)
		large.put(set, 0, k, v)
		runtime.GC() // the pages keep the slab
		for i := range heap.pages {
			for h := range heads {
				n := min(pageLen, tokens-i*pageLen)
				wantK, wantV := heap.stored(i, h, n)
				gotK, gotV := large.stored(i, h, n)
				for _, c := range [][2]kernels.Cached{{wantK, gotK}, {wantV, gotV}} {
					want, got := c[0], c[1]
					if !slices.Equal(want.Floats, got.Floats) || !slices.Equal(want.Halves, got.Halves) ||
						!slices.Equal(want.Quants.Codes, got.Quants.Codes) || !slices.Equal(want.Quants.Scales, got.Quants.Scales) {
						t.Fatalf("%s: page %d of head %d differs in a slab", kv, i, h)
					}
				}
			}
		}
		in.close()
		in.close() // as every page of it does
	}
}
