// Package progress is how long work tells what it does. How that looks is for cmd: a bar on a
// terminal, plain lines in CI, JSON events for machines.
package progress

// Sink is told what happens. Implementations are safe for concurrent use.
type Sink interface {
	// Stage starts a named stage; total is in unit ("bytes", "tokens", "tensors"), 0 when unknown.
	// A new Stage ends the one before it.
	Stage(name string, total int64, unit string)
	// Add counts towards the total of the current stage.
	Add(n int64)
	// Note is a decision the user should see, such as a fallback; tensor may be empty.
	Note(tensor, text string)
}

// Discard is a Sink that says nothing.
var Discard Sink = discard{}

type discard struct{}

func (discard) Stage(string, int64, string) {}
func (discard) Add(int64)                   {}
func (discard) Note(string, string)         {}
