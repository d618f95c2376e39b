package main

import (
	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/runner"
)

// cacheTypes are the types of cached keys and values.
func cacheTypes(usual storage.Type) choice {
	return choice{value: string(usual), of: []string{string(storage.F32), string(storage.F16), string(storage.Q8_0)}}
}

// kvFlag says how keys and values are cached. Where models are run or timed the default is f16, as in
// other runtimes; comparisons of accuracy keep f32.
func kvFlag(c *cobra.Command, kv *choice) {
	c.Flags().Var(kv, "kv", "type of cached keys and values: f32, f16 or q8_0")
	complete(c, "kv", kv.of...)
}

// activationForms are the forms of the inputs of products.
func activationForms() choice {
	c := choice{value: string(runner.ActivationsAuto)}
	for _, a := range runner.AllActivations() {
		c.of = append(c.of, string(a))
	}
	return c
}

// activationsFlag says how the inputs of products are represented.
func activationsFlag(c *cobra.Command, form *choice) {
	c.Flags().Var(form, "activations", "inputs of products: auto (8-bit where weights are of a block type of ggml, as runtimes compute), int8, or f32 everywhere")
	complete(c, "activations", form.of...)
}
