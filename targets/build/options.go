// Package build is the engine: it turns a recipe into packages. Source, adapters and passes go in;
// packages, verified against the original from what was written to disk, and a report come out.
//
//	Check(r)            is the recipe sound by itself? (no model is opened)
//	Plan(ctx, r, o)     what would be done, what it takes, what each target refuses; writes nothing
//	Run(ctx, r, o)      do it
//	Step(ctx, r, to, o) one model file in place of packages: quantize, prune, lora merge, convert
//
// Run is a list of stages. What a stage finished is kept in a work folder under a digest of all
// that it depends on, so a run that was killed goes on from the last finished stage and comes to
// the same bytes.
package build

import (
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/targets/report"
)

// Options are what a person chooses for one run and what does not change the bytes of a package,
// the instruction set of activations excepted.
type Options struct {
	Tool    string    // name and version for manifests and reports: "pare 0.1.0"
	Threads int       // 0: all cores
	ISA     cpu.Level // kernels whose results enter bytes; empty: the best here
	// MaxMemory is the most memory the process may take, in bytes; 0: no limit. A run that cannot
	// keep it is refused with fault.ErrBudget before it starts.
	MaxMemory int64
	MaxDisk   int64  // most bytes of packages and work folder together; 0: what is free
	Out       string // folder that packages go to: <Out>/<target name>
	Force     bool   // replace packages that exist
	Work      string // folder for finished stages; empty: <Out>/.work
	KeepWork  bool   // keep it after success
	// Publish puts a package in its place even when a gate fails; otherwise it goes to
	// <name>.rejected.
	Publish  bool
	Progress progress.Sink // nil: silence
	// Sample is the text used for calibration and verification when the recipe names none.
	Sample *Text
	// OnTarget is called when the verdict of a target is known, in order.
	OnTarget func(*report.Target)
	// OnStage is called when a stage has ended.
	OnStage func(report.Stage)
}

// Text is a named text that is in memory already.
type Text struct {
	Name string // "embedded sample"
	Text []byte
}
