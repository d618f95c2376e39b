package ir

import (
	"context"

	"github.com/pare-dev/pare/ir/graph"
)

// Network executes graphs, so that passes can see what flows along their edges. The executor of the runner
// implements it; Executor is its counterpart for decoders.
type Network interface {
	// Infer writes the types and shapes that follow from those of the inputs into the values of the graph,
	// where they are known without running it.
	Infer(ctx context.Context, g *graph.Graph) error
	// Evaluate computes one node of known inputs; nil stands for those that are left out.
	Evaluate(n *graph.Node, opset map[string]int, in []*graph.Tensor) ([]*graph.Tensor, error)
	// Open makes a graph ready to run. Each run hands out the values that are wanted: outputs of the graph,
	// or any others of its nodes. The graph must not change before Close.
	Open(ctx context.Context, g *graph.Graph, want []*graph.Value) (NetworkRun, error)
	// Watch is Open for more values than there is memory for: see is shown the i-th of those that are wanted
	// as soon as it is made, for the time of the call, in whatever order they are computed, and Run returns none.
	// With pixels, the channels of an image lie together, whatever its shape says.
	Watch(ctx context.Context, g *graph.Graph, want []*graph.Value, see func(i int, t *graph.Tensor, pixels bool) error) (NetworkRun, error)
}

// NetworkRun is a graph that is ready to run.
type NetworkRun interface {
	// Run computes one sample. Tensors are valid until the next run.
	Run(ctx context.Context, sample Sample) ([]*graph.Tensor, error)
	Close() error
}

// Sample is what one run of a network is given, by the names of its inputs.
type Sample map[string]*graph.Tensor

// Samples is a set of samples for calibration or comparison. It may be larger than memory: samples are asked
// for one after the other, as often as a pass goes through them, and are the same every time.
type Samples interface {
	Len() int
	Sample(ctx context.Context, i int) (Sample, error)
}

// SampleList is a set in memory.
type SampleList []Sample

// Len is the number of samples.
func (s SampleList) Len() int { return len(s) }

// Sample is the i-th one.
func (s SampleList) Sample(_ context.Context, i int) (Sample, error) { return s[i], nil }
