// Package lower writes models that ir describes in a few numbers as networks of operators (ir/graph): what an
// ir.Encoder says of a text encoder becomes the nodes that compute it, in the form in which exporters of
// PyTorch write such networks, so that runtimes recognise it.
//
//	g, err := lower.Encoder(m, lower.Options{})
//
// Weights stay where they are: constants of the graph read them when they are written (graph.Tensor.Fill).
// Load brings them into memory for whoever computes with the graph.
package lower
