package ir

import (
	"context"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/storage"
)

// Need says what a pass works on; the pipeline provides it or refuses at plan time.
type Need int

// Needs, in growing order.
const (
	NeedWeights     Need = iota // rows of tensors only: any checkpoint
	NeedActivations             // runs the model: a known architecture and calibration tokens
)

// A Pass is one transformation of a Model. Plan reads names, shapes and types only: it is fast,
// it is what `pare plan` prints, and it is where every user mistake is reported, all at once.
// Apply swaps handles for derived ones; data flows later, when the package is written, except
// for results that are expensive, which are spilled once to Env.Work.
type Pass interface {
	Name() string // stable and dotted, "quantize.gptq"; used in recipes, logs and errors
	Needs() Need
	Plan(ctx context.Context, m *Model) (*Plan, error)
	Apply(ctx context.Context, m *Model, p *Plan, env Env) (*Result, error)
}

// Plan lists what a pass will do to every tensor of the model, in catalogue order.
type Plan struct {
	Steps []Step
	// Decoder describes the model behind a pass that changes its dimensions, nil when it changes none. Where
	// it has fewer blocks, Steps are about those that stay, by the names they will have; which ones they are
	// is known when the pass was applied.
	Decoder *Decoder
	Notes   []string // what it comes to, for those who read no list of tensors
}

// Step is one line of a plan.
type Step struct {
	Tensor string
	Change bool         // false: left as it is
	From   storage.Type // type before
	To     storage.Type // type after
	Scheme *storage.Scheme
	Reason string // why it is kept, falls back or was chosen; empty when it follows the request
	Bytes  int64  // size after
	Shape  []int  // shape after, nil when it stays
}

// Result is what really happened. A pass that was asked to work and changed nothing returns an
// error instead: silence is how a typo in a layer pattern ships to production.
type Result struct {
	Changed int
	Skipped map[string]string // tensor name -> reason, shown in the report
	Notes   []string          // facts worth a line in the report
	// Tensors holds figures per tensor by name, such as "rmse" or "sparsity"; shown in the report.
	Tensors map[string]map[string]float64
	// Decoder describes the model when the pass has changed its dimensions, and Dropped are the blocks that
	// are gone, by the numbers they had.
	Decoder *Decoder
	Dropped []int
}

// Env is what a pass may use while it applies.
type Env struct {
	Threads  int    // 0: all cores
	Memory   int64  // bytes the pass may hold at once, 0: no limit asked
	Work     string // folder for spilled results; exists
	Seed     uint64
	ISA      cpu.Level // level of the kernels whose results enter bytes
	Progress progress.Sink
	Executor Executor  // runs the model; nil when no pass needs activations
	Tokens   [][]int32 // calibration sequences
	Learner  Learner   // gives gradients; nil when no pass needs them
	// Network runs graphs, and Samples are what it runs on; nil when no pass needs them.
	Network Network
	Samples Samples
}
