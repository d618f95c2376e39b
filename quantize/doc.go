// Package quantize turns weights into fewer bits. It holds the passes that do it (quantize.rtn,
// quantize.gptq, quantize.cast), the presets that say which tensor gets which type, the
// mathematics of uniform schemes, and the importance statistics that tell which inputs matter.
//
// What a stored type looks like in bytes, and the scale search of block types, is the business of
// internal/storage. Nothing here loads a whole tensor: a pass swaps handles for sources that encode
// a band of rows when somebody reads it.
package quantize
