package quantize

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir"
)

// Method is a way to choose the codes of weights whose types are decided. A new one is a file that
// registers itself.
type Method struct {
	Name string // as in recipes and after --method: "gptq"
	Doc  string // half a sentence
	// Runs says that the method runs the model over calibration text.
	Runs bool
	// Gains says that a request is worth the method's time when a target prefers it and there is
	// calibration text; nil: any request is.
	Gains func(Request) bool
	// New makes the pass. base decides the types, and encodes what the method leaves to it.
	New func(base *RTN) ir.Pass
}

var methods []*Method

func register(m *Method) { methods = append(methods, m) }

// MethodNames lists the methods by name.
func MethodNames() []string {
	names := make([]string, len(methods))
	for i, m := range methods {
		names[i] = m.Name
	}
	slices.Sort(names)
	return names
}

// LookupMethod finds a method; the empty name is "rtn". An unknown one is misuse, with the nearest.
func LookupMethod(name string) (*Method, error) {
	if name == "" {
		name = "rtn"
	}
	for _, m := range methods {
		if m.Name == name {
			return m, nil
		}
	}
	hint := "methods are " + strings.Join(MethodNames(), ", ")
	if near := human.Nearest(name, MethodNames()); near != "" {
		hint = "did you mean " + near + "?"
	}
	return nil, &fault.Error{Op: "method", Err: fault.As(fault.ErrMisuse, fmt.Errorf("no method is called %q", name)), Hint: hint}
}
