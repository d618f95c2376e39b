// Package channels removes channels of networks of operators (ir/graph): what comes out is an ordinary, smaller
// network with the operators of the original.
//
// A channel is not one row of one weight: what a convolution makes is added to what another makes, concatenated,
// split, flattened, and read by others. All indices that have to go together are a unit; the units that the same
// layers make are a group, from which the least important go.
//
//	units.go    units: sets of indices, joined as the graph is followed
//	trace.go    the graph is followed, operator by operator; joins.go, moves.go, linear.go hold the rules
//	score.go    what each unit is worth, and in which order those of a group go
//	budget.go   how many units of each group go
//	cut.go      constants and attributes are cut
//	walk.go     original and pruned network run side by side, in pieces
//	refit.go    each layer is fitted, by least squares, to what the original made
package channels
