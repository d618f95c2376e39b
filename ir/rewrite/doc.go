// Package rewrite changes a network (ir/graph) into one that computes the same with less: constants are
// folded, batch normalization and biases move into the layer before them, what does nothing or is there
// twice goes away. Fix gives inputs a shape, Bind a value, Upgrade moves to a newer operator set.
//
//	changes, err := rewrite.Simplify(ctx, g, rewrite.Options{Evaluate: run})
//
// A rewrite keeps the names of inputs and outputs, and computes the same outputs up to the rounding of
// float32: products of constants are made ahead. It knows shapes only where values or constants have them,
// and leaves a place alone when it does not know enough; nothing depends on how a runtime executes.
package rewrite
