package ir

import "context"

// Stage is a set of linear layers in a block that read the same input.
type Stage struct {
	Name  string // "qkv", "o", "gate_up", "down"
	Roles []Role
}

// Stages are the four of a decoder block, in the order they compute. True sequential methods work
// on a stage, swap its handles, and read the inputs of the next stage from the changed model.
var Stages = []Stage{
	{"qkv", []Role{RoleAttnQ, RoleAttnK, RoleAttnV}},
	{"o", []Role{RoleAttnO}},
	{"gate_up", []Role{RoleMLPGate, RoleMLPUp}},
	{"down", []Role{RoleMLPDown}},
}

// Executor runs a model block by block over calibration sequences, so that methods which need
// activations hold one block of weights and the hidden states, never the model.
type Executor interface {
	// Start embeds the sequences and stands before block 0. Sequences may differ in length; they
	// do not see each other. The walk reads weights through m's current handles.
	Start(ctx context.Context, m *Model, sequences [][]int32) (Walk, error)
}

// Walk is a position before one block of the model. It must be closed.
type Walk interface {
	// Inputs computes the input of one stage of the current block for all sequences, with the
	// weights that the model's handles give now, and hands it over in order, some rows (tokens) at
	// a time: x is row-major [rows, cols] float32, valid during the call only. The chunking is
	// the same at any number of threads.
	//
	// Stages are asked for in the order of Stages. Some may be left out, and one may be asked for
	// again, also after weights before it were replaced, until a later one is: what earlier stages
	// need is given up then.
	Inputs(ctx context.Context, stage Stage, fn func(x []float32, rows, cols int) error) error
	// Hidden hands over the residual stream before the current block, or behind the last one, as Inputs does.
	// It is asked for before any stage of the block.
	Hidden(ctx context.Context, fn func(x []float32, rows, cols int) error) error
	// Mark keeps the position before the current block, and Back returns to it: its stages can then all be asked for
	// again. Mark is asked for before any stage.
	Mark(ctx context.Context) error
	Back(ctx context.Context) error
	// Next runs the current block with its present weights and moves on to the next one.
	Next(ctx context.Context) error
	// Block is the index of the current block; it is the number of blocks when all are done.
	Block() int
	// Head hands over the input of the output matrix (after the final norm) once all blocks are
	// done, as Inputs does.
	Head(ctx context.Context, fn func(x []float32, rows, cols int) error) error
	// Close removes spilled hidden states.
	Close() error
}
