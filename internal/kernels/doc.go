// Package kernels holds the inner loops: dot products, matrix products, block decoding and the
// row operations of a transformer, on plain slices. It knows nothing of tensors, names or files.
//
// A Set is the kernels of one instruction-set level. Callers choose it once and pass it on:
//
//	k := kernels.For(cpu.Best())
//	k.GemmNT(dst, x, w, false)
//
// The Portable level is pure Go, always compiled, and the oracle of the tests. Every sum in it has
// a fixed order and every product is rounded before it is added, so it gives the same bits on every
// machine. The other levels are C, compiled by a pinned clang and committed as Go assembly (see
// _gen); they use fused multiply-add and wider sums, so they agree with Portable within rounding,
// except for decoding, which is bit-identical at every level.
//
// Products of int8 activations with weights in tiles (Tiler) go further: integer sums are exact and the
// float steps have one form and order, so that they too are bit-identical at every level.
//
// At any one level a result depends on its inputs alone: never on how the work was cut into tiles,
// calls or threads. The build tag noasm leaves only Portable.
//
// Slices of wrong length are a bug of the caller and panic. Kernels never allocate per element,
// take no locks, and start no goroutines except where a thread count is a parameter.
package kernels
