package targets

import "github.com/pare-dev/pare/internal/cpu"

func init() {
	register(&Target{
		Name:       "x86-64-v3",
		Doc:        "64-bit x86 CPUs with AVX2: most since 2013 (Haswell, Zen)",
		Containers: []Container{gguf()},
		Graph:      x86v3Graph(),
		Quantize:   "q4_k_m",
		Options:    x86Options(),
		Calibrated: "gptq",
		Arch:       "amd64",
		ISA:        "AVX2, FMA, F16C",
		Level:      cpu.AVX2,
		Zeros:      denseZeros,
	})
}

// x86Options are the choices besides the default on x86 CPUs.
func x86Options() []Option {
	return []Option{
		{"q8_0", "hardly distinguishable from the original, nearly twice the size"},
		{"q4_0", "a little smaller and faster in prefill, less accurate"},
		{"q6_k", "very close to the original"},
	}
}
