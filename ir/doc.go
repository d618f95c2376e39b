// Package ir is pare's picture of a model while it is worked on: a catalogue of tensor handles
// that always exists, and, when the architecture is known, a description of how they compute.
// It knows nothing of file layouts, devices or terminals.
//
// A model may be larger than memory, so nothing holds "the weights". A Tensor is a handle; its
// Source is a promise to deliver rows. Passes plan on names, shapes and types, then swap handles
// for derived ones; data flows once, when a package is written.
package ir
