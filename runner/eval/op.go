package eval

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir/graph"
)

// Op is an operator: what a node's name means.
type Op struct {
	Domain string // "" for ai.onnx
	Name   string
	// Since is the version of the operator set from which on Plan is meant; 0 is every version. Of several
	// entries of one name, the one with the highest Since that is not above the graph's version counts.
	Since int
	Plan  func(c *Call) (Step, error)
	// Parts, in place of Plan, says the same in terms of other operators, when only attributes and which inputs are there
	// are known.
	Parts func(p *parts) error
	// Inputs is how many inputs, counted from the first, must be there: 0 says one, -1 none.
	Inputs int
	// Narrow says that Plan knows no floats of less than 32 bits: they are widened before it and rounded
	// after it.
	Narrow bool
	// BF16 says that Plan, for all that Narrow says, takes bfloat16 as it is.
	BF16 bool
	// Unpack says that Plan knows no elements of less than 8 bits: integers of 4 and 2 bits are given and
	// taken as bytes.
	Unpack bool
	// Wide lists outputs that stay float32 though inputs were widened.
	Wide []int
	// Random says that the same inputs need not give the same outputs, so that nothing is computed ahead.
	Random bool
}

// required is the number of inputs that must be there.
func (o *Op) required() int {
	if o.Inputs == 0 {
		return 1
	}
	return max(o.Inputs, 0)
}

// Step is a node that is ready to run.
type Step struct {
	Out []Spec
	// Run fills the outputs, which lie ready; inputs and outputs that are left out are nil. It runs on any
	// number of threads through w and gives the same bytes on each. nil when every output is Known, or Alias.
	Run func(w *Worker, in, out []*graph.Tensor) error
	// Scratch is the bytes that Run wants in w.Scratch, aligned as tensors are.
	Scratch int
	// Alias says that output 0 is the elements of input 0 under another shape or name.
	Alias bool
	// InPlace lists the inputs whose memory output 0 may take over: Run reads every element of it before,
	// or when, it writes the same element of the output.
	InPlace []int
	// Values runs a node that makes or reads what is no tensor, or decides while it runs what its outputs
	// look like, in place of Run. It may return the tensors that it is given.
	Values func(w *Worker, in []Value) ([]Value, error)
}

// Call is a node that is being planned, with what is known of its inputs.
type Call struct {
	Node    *graph.Node
	Version int // of the operator set of its domain
	Kernels *kernels.Set
	Threads int

	in     []Spec
	node   *node
	step   *step
	late   bool // the values known are those of a run
	looked bool // and Plan looked at one
}

// errLater is what Plan returns when it needs a value that only a run has.
var errLater = errors.New("known when the program runs")

// N is the number of inputs, those left out at the end excluded.
func (c *Call) N() int { return len(c.in) }

// Has reports whether input i is there.
func (c *Call) Has(i int) bool {
	return i < len(c.in) && (c.in[i].Type != graph.Undefined || c.in[i].Kind != graph.KindTensor)
}

// Spec is all that is known of input i.
func (c *Call) Spec(i int) Spec {
	if i >= len(c.in) {
		return Spec{}
	}
	return c.in[i]
}

// Type is the type of input i, Undefined when it is left out.
func (c *Call) Type(i int) graph.DType { return c.Spec(i).Type }

// Shape is the shape of input i.
func (c *Call) Shape(i int) []int { return c.Spec(i).Shape }

// Elems is the number of elements of input i.
func (c *Call) Elems(i int) int { return graph.Elems(c.Shape(i)) }

// Wants reports whether somebody reads output i.
func (c *Call) Wants(i int) bool { return c.Node.Output(i) != nil }

// Value is the value of input i where it is known, otherwise nil: for those who do better with it. Who
// cannot do without it asks Need.
func (c *Call) Value(i int) *graph.Tensor {
	s := c.Spec(i)
	if s.Known != nil && c.late && !s.fixed {
		c.looked = true
	}
	return s.Known
}

// Const is the value of input i when it is the same at every run and for every shape: weights. nil otherwise.
func (c *Call) Const(i int) *graph.Tensor {
	if s := c.Spec(i); s.Const {
		return s.Known
	}
	return nil
}

// Settled is the value of input i when every run of this plan has the same.
func (c *Call) Settled(i int) *graph.Tensor {
	if s := c.Spec(i); !c.late || s.fixed {
		return s.Known
	}
	return nil
}

// Need is the value of input i, which is there, or the error with which Plan asks to be called again when
// the run has it.
func (c *Call) Need(i int) (*graph.Tensor, error) {
	if !c.Has(i) || c.Spec(i).Kind != graph.KindTensor {
		return nil, c.missing(i)
	}
	if t := c.Value(i); t != nil {
		return t, nil
	}
	return nil, errLater
}

// missing is the error when an input is left out that must be there.
func (c *Call) missing(i int) error { return c.Fault("input %d is missing", i) }

// Ints is the value of an integer input, as Need gives it.
func (c *Call) Ints(i int) ([]int, error) {
	t, err := c.Need(i)
	if err != nil {
		return nil, err
	}
	list, err := t.Ints()
	if err != nil {
		return nil, c.Fault("input %d: %w", i, err)
	}
	out := make([]int, len(list))
	for k, v := range list {
		out[k] = int(v)
	}
	return out, nil
}

// IntsOr is an integer list that old versions have as an attribute and new ones as input i; nil when it is
// neither.
func (c *Call) IntsOr(i int, attr string) ([]int, error) {
	if c.Has(i) {
		return c.Ints(i)
	}
	return c.Node.Ints(attr), nil
}

// Body is a subgraph of the node.
func (c *Call) Body(attr string) (*Body, error) {
	if b := c.step.bodies[attr]; b != nil {
		return b, nil
	}
	return nil, c.Fault("attribute %s, a graph, is missing", attr)
}

// Fits fails when bytes that Plan is about to allocate are more than the program may have.
func (c *Call) Fits(bytes int) error { return c.node.prog.fits(bytes) }

// Fault is an error of this node.
func (c *Call) Fault(format string, args ...any) error {
	return c.node.fault(fmt.Errorf(format, args...))
}

// Once keeps what is derived from constants of a node: make is called at the first plan only.
func Once[T any](c *Call, key string, make func() (T, error)) (T, error) {
	if v, ok := c.node.once[key]; ok {
		return v.(T), nil
	}
	v, err := make()
	if err == nil {
		c.node.once[key] = v
	}
	return v, err
}

// opKey is what a node says about its operator.
type opKey struct{ domain, name string }

var ops = map[opKey][]*Op{} // each list by falling Since

// register adds an operator. It panics on a duplicate, so order of initialisation never shows.
func register(op Op) {
	k := opKey{domain(op.Domain), op.Name}
	for _, o := range ops[k] {
		if o.Since == op.Since {
			panic(fmt.Sprintf("eval: %s is registered twice", op.Name))
		}
	}
	ops[k] = append(ops[k], &op)
	slices.SortFunc(ops[k], func(a, b *Op) int { return cmp.Compare(b.Since, a.Since) })
}

// domain is the short name of an operator domain.
func domain(s string) string {
	if s == "ai.onnx" {
		return ""
	}
	return s
}

// find is the operator of a node in a graph with a version of its domain, or nil.
func find(dom, name string, version int) *Op {
	for _, o := range ops[opKey{domain(dom), name}] {
		if o.Since <= version {
			return o
		}
	}
	return nil
}

// Operator is a line of the list of what is supported.
type Operator struct {
	Domain, Name string
	Since        []int // versions with entries of their own, rising; 0 is all
}

// Operators lists what is supported, sorted.
func Operators() []Operator {
	var list []Operator
	for k, entries := range ops {
		if k.domain == ownDomain {
			continue
		}
		o := Operator{Domain: k.domain, Name: k.name}
		for _, e := range entries {
			o.Since = append(o.Since, e.Since)
		}
		slices.Sort(o.Since)
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b Operator) int {
		return cmp.Or(cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// Supported reports whether there is an operator for a node in a graph with these operator sets.
func Supported(n *graph.Node, opset map[string]int) bool {
	return find(n.Domain, n.Op, version(opset, n.Domain)) != nil
}

// version is that of a domain in a graph.
func version(opset map[string]int, dom string) int {
	if v, ok := opset[domain(dom)]; ok {
		return v
	}
	if v, ok := opset["ai.onnx"]; ok && domain(dom) == "" {
		return v
	}
	return 1
}

// ErrOperator is the reason when a graph has operators that are not supported.
var ErrOperator = errors.New("operators that pare does not run")

// unsupported names operators that are missing, all of them.
func unsupported(missing map[string][]string) error {
	text := ""
	for _, op := range slices.Sorted(maps.Keys(missing)) {
		nodes := missing[op]
		if text != "" {
			text += "; "
		}
		text += op
		if len(nodes) > 1 {
			text += fmt.Sprintf(" (%d nodes, the first is %s)", len(nodes), nodes[0])
		} else {
			text += fmt.Sprintf(" (node %s)", nodes[0])
		}
	}
	return &fault.Error{
		Op: "eval", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%w: %s", ErrOperator, text)),
		Hint: "docs/operators.md has the list of what runs",
	}
}

// Options says how a program runs.
type Options struct {
	Threads int       // 0 is all cores
	ISA     cpu.Level // "" is the best one of this machine
	// Memory bounds the bytes of the arena and of packed weights; 0 is what the machine has, so that a file
	// which asks for more is refused and not the end of the process.
	Memory int64
	// Pool has the workers, and their number instead of Threads; nil starts goroutines for every large step.
	Pool *par.Pool
	// Observe is shown every tensor that a run computes, in order: for calibration and comparison layer
	// by layer. Nodes are then not fused. The tensor is valid during the call only.
	Observe func(v *graph.Value, t *graph.Tensor) error
	// Watch is shown the i-th output of the graph as soon as it is made, instead of keeping it to the end: more can
	// then be looked at than there is memory for. With pixels, the channels of an image lie together, whatever
	// its shape says. The tensor is valid during the call only.
	Watch func(i int, t *graph.Tensor, pixels bool) error
}
