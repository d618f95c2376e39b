// Package distill trains: a student learns to give what its teacher gives, so that pruning and
// quantization cost less than they did. It has a network of its own for the decoder family, with the
// backward pass of every operator, written once for float32, in which it trains, and float64, in which
// tests hold its gradients to finite differences.
package distill
