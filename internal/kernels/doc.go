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
// _gen). How near they come to it:
//
//   - Decoding and encoding of stored types, activations in 8 bits (Activations), products of these with
//     weights in tiles (Tiler), and what is put into the cache of keys and values are bit-identical at
//     every level.
//   - Packed products (MulPacked, and what is built on it) are bit-identical at every compiled level: one
//     chain of fused multiply-adds for each piece of a sum. Portable rounds products before it adds. Products
//     of two matrices of bfloat16 (GemmBF16) are, too, but for the two levels that multiply pairs of them.
//   - Convolutions and products with packed weights (Conv, Depthwise) likewise: one chain for each number,
//     from the bias through the window.
//   - Convolutions and products of codes of 8 bits (CodeConv, CodeDepthwise) and what makes codes of floats and floats of
//     codes are bit-identical at every level: sums of integers are exact, and the float steps have one form.
//   - Attention, softmax, norms and other sums along a row use fused multiply-add and as many partial
//     sums as a vector has lanes, so that they agree with Portable within rounding.
//
// At any one level a result depends on its inputs alone: never on how the work was cut into tiles,
// calls or threads. The build tag noasm leaves only Portable.
//
// Slices of wrong length are a bug of the caller and panic. Kernels never allocate per element,
// take no locks, and start no goroutines except where a thread count is a parameter.
package kernels
