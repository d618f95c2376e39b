// Package qgraph quantizes networks of operators (ir/graph).
//
//	Static     activations and weights are integers, with ranges from calibration: QuantizeLinear and
//	           DequantizeLinear are put around what runs on integers
//
// Static quantization goes through these steps, each in its file:
//
//	place.go     which nodes run on integers, which values carry codes, which of them share a scale
//	equalize.go  channels of an activation are brought to like ranges by moving factors between layers
//	observe.go   the float network runs over the samples; histograms give ranges
//	round.go     codes of weights are chosen by least squares on what each layer really reads, and biases
//	             take up the mean error
//	build.go     the quantized network
package qgraph
