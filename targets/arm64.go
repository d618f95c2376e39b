package targets

import "github.com/pare-dev/pare/internal/cpu"

func init() {
	register(&Target{
		Name:       "arm64",
		Doc:        "64-bit ARM CPUs: Linux boards and servers, Android, Apple",
		Containers: []Container{gguf()},
		Graph:      arm64Graph(),
		Quantize:   "q4_0",
		Options: []Option{
			{"q4_k_m", "better accuracy at about the same size, slower than q4_0 here"},
			{"q8_0", "hardly distinguishable from the original, twice the size"},
		},
		Calibrated: "gptq",
		Arch:       "arm64",
		ISA:        "NEON; DOTPROD, I8MM and SVE are used where present",
		Level:      cpu.NEON,
		Zeros:      denseZeros,
		Notes: []string{
			"q4_0 and q8_0 have kernels on every level from DOTPROD to SME2; blocks are repacked when the file is loaded",
		},
	})
}
