// Package fault holds the one error type that pare shows to people: which file, which tensor,
// what was being done, the reason, and one thing to try. Reasons wrap, so callers and tests use
// errors.Is and errors.As and never match strings.
package fault

import (
	"errors"
	"strings"
)

// Error is a failure that a person reads as "file: tensor: op: reason; try this".
type Error struct {
	File   string // path as the user typed it, or empty
	Tensor string // tensor name as the source spells it, or empty
	Op     string // parser or pass, such as "safetensors" or "quantize.gptq", or empty
	Err    error  // the reason; never nil
	Hint   string // one thing to try, or empty
}

// Error formats the failure on one line, with the hint last.
func (e *Error) Error() string {
	var b strings.Builder
	part := func(s string) {
		if s == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(s)
	}
	part(e.File)
	if e.Tensor != "" {
		part(`tensor "` + e.Tensor + `"`)
	}
	part(e.Op)
	if e.Err != nil {
		part(e.Err.Error())
	}
	if e.Hint != "" {
		b.WriteString("; ")
		b.WriteString(e.Hint)
	}
	return b.String()
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// Classes of failure. Each has an exit code of its own (docs/cli.md); a reason wraps one of them
// when the class matters to a script.
var (
	ErrMisuse    = errors.New("misuse")                   // exit 2: wrong flags or a bad recipe
	ErrGate      = errors.New("gate failed")              // exit 3: built, but a gate said no
	ErrRefused   = errors.New("target refuses the model") // exit 4
	ErrBudget    = errors.New("budget exceeded")          // exit 5: memory or disk
	ErrNotFinite = errors.New("not a finite number")      // NaN or Inf where a real value is needed
)

// classed gives an error a class without repeating the class in the text.
type classed struct {
	class, err error
}

func (c *classed) Error() string   { return c.err.Error() }
func (c *classed) Unwrap() []error { return []error{c.err, c.class} }

// As marks err as belonging to class, one of the Err values above. The text of err is unchanged.
func As(class, err error) error {
	if err == nil {
		return nil
	}
	return &classed{class, err}
}
