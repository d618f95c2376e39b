// Package runner executes decoder language models on this CPU: float and quantized weights as they
// lie in mapped files, a cache of keys and values, prefill in batches, token generation, sampling.
// It is what pare verifies packages with, and the executor of methods that need activations.
//
//	r, err := runner.Load(ctx, model, runner.Options{})
//	defer r.Close()
//	s := r.NewSession()
//	err = s.Append(ctx, tokens, runner.WantLast, func(pos int, logits []float32) error { ... })
//
// Activations and sums are float32. Weights of other types are decoded a band of rows at a time
// into scratch and multiplied from there (many tokens), or multiplied straight from their blocks
// (one token). Results are the same bytes at any number of threads and for any split of a text into
// batches of two tokens or more; a batch of one, and logits asked for one row at a time, differ within
// rounding when weights are not float32. On the portable kernels they are also the same on every machine.
package runner
