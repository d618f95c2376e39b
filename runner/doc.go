// Package runner executes decoder language models on this CPU: float and quantized weights, a cache of keys and values, prefill in batches, token generation, sampling.
// It is what pare verifies packages with, and the executor of methods that need activations.
//
//	r, err := runner.Load(ctx, model, runner.Options{})
//	defer r.Close()
//	s := r.NewSession()
//	err = s.Append(ctx, tokens, runner.WantLast, func(pos int, logits []float32) error { ... })
//
// Weights of ggml's block types are kept in tiles, 16 rows interleaved, and multiplied with activations
// of 8 bits, quantized once for all products that read them; the sums of these products have one
// definition to the bit, for one token or many, on every level of kernels. Other weights are decoded
// into packed panels and multiplied with float32 activations (many tokens), or multiplied straight from
// where they lie (one token). Options.Activations asks for float32 everywhere.
//
// Attention adds up the cache a page of 128 positions at a time, and joins pages in their order.
//
// Results are the same bytes at any number of threads and for any split of a text into batches, except
// that a batch of one, and logits asked for one row at a time, differ within rounding when products take
// float32 activations. On the portable kernels they are also the same on every machine.
package runner
