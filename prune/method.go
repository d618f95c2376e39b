package prune

import (
	"slices"

	"github.com/pare-dev/pare/ir"
)

// Method is a way to choose the weights that go. A new one is a file that registers itself.
type Method struct {
	Name string // the pass is "prune." and this
	Doc  string // half a sentence
	// Learns says that the method weighs inputs: of an importance matrix, or measured on
	// calibration text when there is none.
	Learns bool
	// Runs says that it takes more of calibration text than an importance matrix has.
	Runs bool
	// Structured says that whole parts go and the model becomes smaller, as Options.Structure asks; the
	// others set single weights to zero. Scores are what it may choose parts by, its own choice first.
	Structured bool
	Scores     []string
	// Scope is what competes when neither scope nor pattern is asked for.
	Scope Scope
	// New makes the pass; importance is nil when there is no importance matrix.
	New func(o Options, importance map[string][]float32) ir.Pass
}

// Pass is the name of the pass.
func (m *Method) Pass() string { return Prefix + m.Name }

// Prefix begins the names of all pruning passes.
const Prefix = "prune."

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

// Lookup finds the method of a pass, such as "prune.wanda"; nil when it is no pruning pass.
func Lookup(pass string) *Method {
	for _, m := range methods {
		if Prefix+m.Name == pass {
			return m
		}
	}
	return nil
}

// Scores lists what parts can be chosen by, of all methods.
func Scores() []string {
	var list []string
	for _, m := range methods {
		for _, s := range m.Scores {
			if !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
	}
	slices.Sort(list)
	return list
}

// StructureNames lists the methods that take out whole parts.
func StructureNames() []string {
	return slices.DeleteFunc(MethodNames(), func(name string) bool { return !Lookup(Prefix + name).Structured })
}

// WeightNames lists the methods that set single weights to zero.
func WeightNames() []string {
	return slices.DeleteFunc(MethodNames(), func(name string) bool { return Lookup(Prefix + name).Structured })
}
