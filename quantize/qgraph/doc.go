// Package qgraph quantizes networks of operators (ir/graph).
//
//	Static     activations and weights are integers, with ranges from calibration: QuantizeLinear and
//	           DequantizeLinear are put around what runs on integers
//	Dynamic    weights are 8-bit integers, activations become integers while the network runs
//	WeightOnly weights of matrix products are 4 or 8 bits in blocks, activations stay floats
//
// Static quantization goes through these steps, each in its file:
//
//	place.go     which nodes run on integers, which values carry codes, which of them share a scale
//	equalize.go  channels of an activation are brought to like ranges by moving factors between layers
//	observe.go   the float network runs over the samples; histograms give ranges
//	round.go     codes of weights are chosen by least squares on what each layer really reads, and biases
//	             take up the mean error
//	build.go     the quantized network
//	mixed.go     what stays float when a gate asks for it, by measured sensitivity
package qgraph
