package npu

import (
	"embed"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"
)

// Rules are what one family of processors takes.
type Rules struct {
	Name string `toml:"name" json:"name"`
	Doc  string `toml:"doc" json:"doc"` // one line for listings
	// Source is where the rules come from, and what held them to it.
	Source string `toml:"source" json:"source"`
	// NotExecuted is what no test executes, "" when a test does all.
	NotExecuted string    `toml:"not_executed" json:"not_executed,omitempty"`
	ISA         string    `toml:"isa" json:"isa"`
	Notes       []string  `toml:"notes" json:"notes,omitempty"`
	Runtimes    []Runtime `toml:"runtimes" json:"runtimes"`

	// Opset is the least and the greatest version of ai.onnx; Narrow the least in which QuantizeLinear and
	// DequantizeLinear have codes of 16 and 4 bits. Before it those of com.microsoft do.
	Opset  [2]int `toml:"opset" json:"opset"`
	Narrow int    `toml:"narrow" json:"narrow"`
	// Dynamic lets dimensions be unknown until the network runs.
	Dynamic bool `toml:"dynamic" json:"dynamic,omitempty"`
	// Rank is the most dimensions of a value.
	Rank int `toml:"rank" json:"rank"`
	// Symmetric wants zero points of activations in the middle; PowerOfTwo wants scales so.
	Symmetric  bool `toml:"symmetric" json:"symmetric,omitempty"`
	PowerOfTwo bool `toml:"power_of_two" json:"power_of_two,omitempty"`
	// Clamps says that a Relu or Clip behind a layer is done by the layer, whatever its codes reach.
	Clamps bool `toml:"clamps" json:"clamps,omitempty"`
	// Codes are the types that may stand between QuantizeLinear and DequantizeLinear.
	Codes []string `toml:"codes" json:"codes"`
	// Constants are further types of constant codes.
	Constants []string `toml:"constants" json:"constants,omitempty"`
	Forms     []Form   `toml:"form" json:"forms"`

	byOp map[string][]*Form
}

// Runtime is a program that takes packages of the family.
type Runtime struct {
	Name  string `toml:"name" json:"name"`
	Since string `toml:"since" json:"since,omitempty"`
	Note  string `toml:"note" json:"note,omitempty"`
}

// Form is a way in which some operators run. A node is legal when one of its operator's forms fits.
type Form struct {
	Ops []string `toml:"ops" json:"ops"` // "Conv"; "com.microsoft.MatMulNBits"
	// Types are those that the node computes on: codes when all that it reads and makes is coded in one type
	// ("u8"), the type of its elements otherwise ("f32").
	Types []string `toml:"types" json:"types"`
	// Weights are what its constant codes may be: "i8" with one scale, "i8/channel" with one for each output
	// channel, which lies along Axis. Empty: the form has no say in it.
	Weights []string `toml:"weights" json:"weights,omitempty"`
	Axis    int      `toml:"axis" json:"axis,omitempty"`
	// With are the types of a second operand that is no constant.
	With []string `toml:"with" json:"with,omitempty"`
	// Rank are the least and most dimensions of the first input.
	Rank []int `toml:"rank" json:"rank,omitempty"`
	// Same says that codes are handed on as they are: one scale and zero point in and out.
	Same bool `toml:"same" json:"same,omitempty"`
	// Attrs are what attributes may be; "" stands for a node without it.
	Attrs map[string][]string `toml:"attrs" json:"attrs,omitempty"`
	// Varies are the inputs that may not be constant codes.
	Varies []int `toml:"varies" json:"varies,omitempty"`
	// Bias are the types of a coded bias, all when it is empty; Product wants its scale to be that of the
	// input times that of the weights.
	Bias    []string `toml:"bias" json:"bias,omitempty"`
	Product bool     `toml:"product" json:"product,omitempty"`
	// Why is the advice when there are no types: the operator does not run.
	Why string `toml:"why" json:"why,omitempty"`
}

//go:embed *.toml
var data embed.FS

// load reads every family once. A mistake in an embedded file is a bug, hence the panics.
var load = sync.OnceValue(func() []*Rules {
	entries, err := data.ReadDir(".")
	if err != nil {
		panic(err)
	}
	var all []*Rules
	for _, e := range entries { // sorted by name
		r := &Rules{byOp: map[string][]*Form{}}
		meta, err := toml.DecodeFS(data, e.Name(), r)
		if err != nil {
			panic("npu: " + e.Name() + ": " + err.Error())
		}
		if extra := meta.Undecoded(); len(extra) > 0 {
			panic(fmt.Sprintf("npu: %s: unknown keys %v", e.Name(), extra))
		}
		if r.Name+".toml" != e.Name() {
			panic(fmt.Sprintf("npu: %s calls itself %q", e.Name(), r.Name))
		}
		for i := range r.Forms {
			for _, op := range r.Forms[i].Ops {
				r.byOp[op] = append(r.byOp[op], &r.Forms[i])
			}
		}
		all = append(all, r)
	}
	return all
})

// All lists the families by name.
func All() []*Rules { return slices.Clone(load()) }

// Lookup finds a family, or nil.
func Lookup(name string) *Rules {
	for _, r := range load() {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// Operators lists the operators that run in some form, by name.
func (r *Rules) Operators() []string {
	var names []string
	for op := range r.byOp {
		names = append(names, op)
	}
	sort.Strings(names)
	return names
}

// On lists the operators that run on a type.
func (r *Rules) On(typ string) []string {
	return slices.DeleteFunc(r.Operators(), func(op string) bool {
		return !slices.ContainsFunc(r.byOp[op], func(f *Form) bool { return slices.Contains(f.Types, typ) })
	})
}

// types are all that the forms of an operator run on, for messages.
func types(forms []*Form) string {
	var list []string
	for _, f := range forms {
		for _, t := range f.Types {
			if !slices.Contains(list, t) {
				list = append(list, t)
			}
		}
	}
	return strings.Join(list, ", ")
}
