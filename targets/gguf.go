package targets

import (
	"cmp"
	"slices"

	"github.com/pare-dev/pare/internal/storage"
)

// gguf is what llama.cpp and the programs built on it load. The file is the same for every CPU:
// kernels and the repacking of blocks are chosen when it is loaded, so the targets differ in their
// defaults and not in their bytes. Rules: ggml-common.h and the loader of release v0.5.0.
func gguf() Container {
	return Container{
		Format:    "gguf",
		Types:     ggufTypes(),
		VectorF32: true,
		Known:     true,
		NameMax:   63,
		Runtimes: []Runtime{
			{Name: "llama.cpp", Since: "v0.5.0"},
			{Name: "ollama, LM Studio, llamafile", Note: "through llama.cpp"},
		},
	}
}

// ggufTypes are all that llama.cpp's CPU kernels multiply with, from most to least bits; types of one
// size in the order in which llama.cpp got them.
func ggufTypes() []storage.Type {
	infos := slices.DeleteFunc(storage.All(), func(i *storage.Info) bool { return !i.Weights() })
	slices.SortFunc(infos, func(a, b *storage.Info) int {
		return cmp.Or(cmp.Compare(b.Bits(), a.Bits()), cmp.Compare(a.FileType, b.FileType))
	})
	types := make([]storage.Type, len(infos))
	for i, info := range infos {
		types[i] = info.Type
	}
	return types
}

// denseZeros is what llama.cpp's CPU kernels make of pruned weights.
const denseZeros = "nothing: the kernels are dense, zeros take the same bytes and time as other weights"
