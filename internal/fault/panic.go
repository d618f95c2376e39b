package fault

import "fmt"

// Panic is a panic of one goroutine on its way to another one, which panics with it: who recovers there
// still learns where it came from.
type Panic struct {
	Value any    // what the first goroutine panicked with
	Stack []byte // of that goroutine
}

// Error has the stack as well: an uncaught panic shows this text alone.
func (p *Panic) Error() string { return fmt.Sprintf("%v\n\n%s", p.Value, p.Stack) }
