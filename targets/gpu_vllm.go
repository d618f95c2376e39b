package targets

import (
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// The limits are those of vLLM's Marlin kernels, which read 4 and 8 bit weights on NVIDIA GPUs since
// Ampere: columns in multiples of 128, rows in multiples of 64, symmetric codes, one scheme for
// matrices that it fuses.
func init() {
	register(&Target{
		Name: "gpu-vllm",
		Doc:  "NVIDIA GPUs under vLLM, SGLang or transformers",
		Containers: []Container{{
			Format: "compressed-tensors",
			Types:  []storage.Type{storage.F32, storage.BF16, storage.F16},
			Schemes: []Scheme{
				{Name: "int4g128", Bits: 4, Groups: []int{128, 64, 32, storage.GroupChannel}, ColsMultiple: 128, RowsMultiple: 64},
				{Name: "int8", Bits: 8, Groups: []int{storage.GroupChannel, 128, 64, 32}, ColsMultiple: 128, RowsMultiple: 64},
			},
			Shared: [][]ir.Role{
				{ir.RoleAttnQ, ir.RoleAttnK, ir.RoleAttnV},
				{ir.RoleMLPGate, ir.RoleMLPUp},
			},
			Runtimes: []Runtime{
				{Name: "vLLM", Note: "not started by pare's tests: it needs a GPU"},
				{Name: "transformers with compressed-tensors", Since: "5.23.0 with 0.20.0"},
				{Name: "SGLang", Note: "reads the same folders"},
			},
		}},
		Quantize: "int4g128",
		Options: []Option{
			{"int8", "one scale per row: hardly distinguishable from the original, twice the size"},
			{"bf16", "no quantization"},
		},
		Calibrated: "rtn",
		ISA:        "compute capability 8.0 (Ampere) or later for the 4 and 8 bit kernels",
		Zeros:      "nothing as stored here: 2:4 zeros pay only in a sparse layout, which this package does not use",
		Notes: []string{
			"embeddings, norms and the output matrix stay in 16 bit, as vLLM expects",
		},
		NotExecuted: "no GPU kernel was run: accuracy comes from pare's own runner reading the written package on this CPU, and latency on the GPU was not measured",
	})
}
