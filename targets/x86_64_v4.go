package targets

import "github.com/pare-dev/pare/internal/cpu"

func init() {
	register(&Target{
		Name:       "x86-64-v4",
		Doc:        "64-bit x86 CPUs with AVX-512: servers since 2017, Zen 4 and later",
		Containers: []Container{gguf()},
		Graph:      x86v4Graph(),
		Quantize:   "q4_k_m",
		Options:    x86Options(),
		Calibrated: "gptq",
		Arch:       "amd64",
		ISA:        "AVX-512 F, BW, DQ, VL; VNNI and AMX are used where present",
		Level:      cpu.AVX512,
		Zeros:      denseZeros,
	})
}
