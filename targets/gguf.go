package targets

import "github.com/pare-dev/pare/internal/storage"

// gguf is what llama.cpp and the programs built on it load. The file is the same for every CPU:
// kernels and the repacking of blocks are chosen when it is loaded, so the targets differ in their
// defaults and not in their bytes. Rules: ggml-common.h and the loader of release v0.5.0.
func gguf() Container {
	return Container{
		Format: "gguf",
		Types: []storage.Type{
			storage.F32, storage.F16, storage.BF16, storage.Q8_0, storage.Q6K, storage.Q5_1, storage.Q5_0, storage.Q5K,
			storage.Q4_1, storage.Q4_0, storage.Q4K, storage.Q3K, storage.Q2K,
		},
		VectorF32: true,
		NameMax:   63,
		Runtimes: []Runtime{
			{Name: "llama.cpp", Since: "v0.5.0"},
			{Name: "ollama, LM Studio, llamafile", Note: "through llama.cpp"},
		},
	}
}

// denseZeros is what llama.cpp's CPU kernels make of pruned weights.
const denseZeros = "nothing: the kernels are dense, zeros take the same bytes and time as other weights"
