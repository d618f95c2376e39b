// Package graph is a network as operators over values: what ONNX and TFLite files hold, in the terms of
// ONNX's operator sets. It knows nothing of files, of how operators compute, or of devices.
//
// A Graph is in static single assignment form: a Value has one producer (a node, an input of the graph, or
// a constant) and any number of readers. Edges are pointers, so renaming a value or moving a node never
// has to search for text. A subgraph (the branches of If, the bodies of Loop and Scan) is an attribute of its
// node and may read values of the graphs around it, again by pointer.
//
//	g.Nodes      in an order in which every value is produced before it is read
//	g.Inputs     what the caller gives; an input may have a constant as its default
//	g.Outputs    what the caller gets, in order
package graph
