package ir

import "context"

// Learner gives gradients of a model's loss to methods that ask what it is sensitive to.
type Learner interface {
	// Slopes goes through the sequences, one after the other, and calls fn for every matrix that has one of
	// the roles with a number for each of its columns: the sum over the column of gradient times weight. To
	// first order, that is what the loss of the sequence falls by when the column goes; the loss is the mean of
	// -ln p of every token after the first. columns is valid during the call.
	Slopes(ctx context.Context, m *Model, sequences [][]int32, roles []Role, fn func(t *Tensor, columns []float64) error) error
}
