package proc

import (
	"fmt"
	"runtime/debug"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
)

// Program is what the process takes beside its heap and mapped weights: the pages of the binary that
// are in use (measured: 14 to 21 MiB, whatever the work), stacks and the tables of the runtime. What a
// limit on memory leaves beside it may be used.
const Program = 28 << 20

// Slack is heap that every work takes: buffers of files, reports, and garbage between collections.
const Slack = 10 << 20

// leastHeap is a heap that the collector can work with; below it, it would do nothing else.
const leastHeap = 8 << 20

// LimitMemory makes the collector keep the resident memory of the process below most bytes, of which
// mapped are for pages of mapped files, and returns what undoes it. It holds as long as what is alive
// fits: callers add that up first. Most 0 is no limit.
func LimitMemory(most, mapped int64) (undo func()) {
	if most <= 0 {
		return func() {}
	}
	old := debug.SetMemoryLimit(max(leastHeap, most-Program-mapped))
	if mapped > 0 {
		debug.FreeOSMemory() // what was freed makes room for the pages
	}
	return func() { debug.SetMemoryLimit(old) }
}

// Afford refuses work that takes at least the given memory, all of the process included, when that is
// more than most; 0 is no limit.
func Afford(op string, least, most int64, hint string) error {
	if most <= 0 || least <= most {
		return nil
	}
	if hint == "" {
		hint = "raise --max-memory, or use fewer threads"
	}
	return &fault.Error{Op: op, Err: fault.As(fault.ErrBudget, fmt.Errorf("the work takes at least %s of memory, --max-memory is %s", human.BytesUp(least), human.Bytes(most))), Hint: hint}
}
