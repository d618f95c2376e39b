package eval

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir/graph"
)

// Program is a graph that can run. Its runs follow one another; calls from several goroutines wait for each
// other.
type Program struct {
	Graph *graph.Graph

	opt    Options
	code   *code
	worker *Worker
	mu     sync.Mutex
	plans  []*plan // the latest first
	mem    []byte  // the arena of whichever plan runs
	vals   []Value // inputs of the run under way
	specs  []Spec
	ledger ledger
}

// programPlans bounds the plans that a program keeps, for different shapes.
const programPlans = 8

// Compile makes a graph ready to run. The graph must not change while the program is in use.
func Compile(g *graph.Graph, opt Options) (*Program, error) {
	if opt.Memory <= 0 {
		opt.Memory = machineMemory()
	}
	p := &Program{Graph: g, opt: opt, ledger: ledger{limit: opt.Memory}}
	threads := par.Threads(opt.Threads)
	if opt.Pool != nil {
		threads = opt.Pool.Threads()
	}
	p.worker = &Worker{Kernels: kernels.For(opt.ISA), Threads: threads, pool: opt.Pool, ctx: context.Background()}
	if err := g.Check(); err != nil {
		return nil, &fault.Error{Op: "eval", Err: err}
	}
	cc := &compiler{prog: p, opset: g.Opset, missing: map[string][]string{}}
	code, err := cc.code(g)
	if err != nil {
		return nil, &fault.Error{Op: "eval", Err: err}
	}
	if len(cc.missing) > 0 {
		return nil, unsupported(cc.missing)
	}
	if len(code.captures) > 0 {
		return nil, &fault.Error{Tensor: code.values[code.captures[0]].Name, Op: "eval", Err: graph.ErrNobody}
	}
	p.code = code
	return p, nil
}

// machineMemory is what a program may take when nobody says.
func machineMemory() int64 {
	if n := proc.TotalMemory(); n > 0 {
		return n
	}
	return 64 << 30 // a system that does not tell
}

// fits fails when so many bytes more are more memory than the program may have.
func (p *Program) fits(bytes int) error { return p.ledger.fits(bytes) }

// Inputs are the inputs that a caller gives, in order: those of the graph that have no default, then those
// that have one and may be left out.
func (p *Program) Inputs() []*graph.Value { return inputs(p.Graph) }

func inputs(g *graph.Graph) []*graph.Value {
	var list, defaults []*graph.Value
	for _, v := range g.Inputs {
		if v.Const == nil {
			list = append(list, v)
		} else {
			defaults = append(defaults, v)
		}
	}
	return append(list, defaults...)
}

// Prepare plans for inputs of certain shapes ahead of the first run. Dimensions that a graph fixes need not
// be given: shapes has those of the inputs, by name, that it leaves open.
func (p *Program) Prepare(shapes map[string][]int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	specs, err := p.inputSpecs(shapes)
	if err != nil {
		return err
	}
	_, err = p.plan(specs)
	return err
}

// inputSpecs are those of the graph's inputs, with shapes for those that have none.
func (p *Program) inputSpecs(shapes map[string][]int) ([]Spec, error) {
	specs := make([]Spec, len(p.Graph.Inputs))
	for i, v := range p.Graph.Inputs {
		if v.Const != nil {
			specs[i] = knownSpec(p.code.defaults[i])
			specs[i].Const = true
			continue
		}
		if v.Kind != graph.KindTensor {
			specs[i] = Spec{Kind: v.Kind, Type: v.Type}
			continue
		}
		shape, ok := shapes[v.Name]
		if !ok {
			if shape, ok = v.Shape.Known(); !ok {
				return nil, &fault.Error{
					Tensor: v.Name, Op: "eval", Err: fault.As(fault.ErrMisuse, errOpenShape),
					Hint: "give the input's dimensions",
				}
			}
		}
		specs[i] = Out(v.Type, shape...)
		if err := fits(v, specs[i]); err != nil {
			return nil, err
		}
	}
	return specs, nil
}

// Specs tells what is known of the values of the graph, subgraphs excluded, when its inputs have these
// shapes: shape inference.
func (p *Program) Specs(shapes map[string][]int) (map[*graph.Value]Spec, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in, err := p.inputSpecs(shapes)
	if err != nil {
		return nil, err
	}
	pl, err := p.plan(in)
	if err != nil {
		return nil, err
	}
	all := make(map[*graph.Value]Spec, len(pl.specs))
	for i, v := range p.code.values {
		all[v] = pl.specs[i]
	}
	return all, nil
}

// Arena is the bytes that values share in the plan that ran last.
func (p *Program) Arena() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.plans) == 0 {
		return 0
	}
	return p.plans[0].size
}

// plan finds or makes the plan for inputs.
func (p *Program) plan(specs []Spec) (*plan, error) {
	for i, pl := range p.plans {
		if samePlan(pl.ins, specs) {
			if i > 0 {
				copy(p.plans[1:i+1], p.plans[:i])
				p.plans[0] = pl
			}
			return pl, nil
		}
	}
	if err := sameNames(p.Graph, specs); err != nil {
		return nil, err
	}
	pl, err := p.code.newPlan(specs, nil)
	if err != nil {
		return nil, err
	}
	if len(p.plans) == programPlans {
		p.plans[programPlans-1].drop()
	}
	p.plans = append([]*plan{pl}, p.plans[:min(len(p.plans), programPlans-1)]...)
	return pl, nil
}

// samePlan is sameSpecs, and the same defaults.
func samePlan(a, b []Spec) bool {
	return slices.EqualFunc(a, b, func(x, y Spec) bool { return x.same(y) && x.Const == y.Const })
}

// Run executes the program on inputs, in the order of Inputs; those with defaults may be left out. The
// values it returns are valid until the next run, and not to be written to.
func (p *Program) Run(ctx context.Context, in ...Value) ([]Value, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.Graph
	if p.vals == nil {
		p.vals, p.specs = make([]Value, len(g.Inputs)), make([]Spec, len(g.Inputs))
	}
	vals, specs := p.vals, p.specs
	required := 0
	for _, v := range g.Inputs {
		if v.Const == nil {
			required++
		}
	}
	if len(in) < required || len(in) > len(g.Inputs) {
		return nil, &fault.Error{Op: "eval", Err: fault.As(fault.ErrMisuse, errCount(len(in), required))}
	}
	next, byDefault := 0, required
	for i, v := range g.Inputs {
		at := next
		if v.Const != nil {
			at = byDefault
			byDefault++
		} else {
			next++
		}
		if at < len(in) && (v.Const == nil || in[at].Given()) {
			vals[i] = in[at]
			specs[i] = in[at].actual()
			specs[i].Known = nil
			if err := fits(v, specs[i]); err != nil {
				return nil, err
			}
			continue
		}
		d := p.code.defaults[i]
		vals[i] = Of(d)
		specs[i] = knownSpec(d)
		specs[i].Const = true
	}
	pl, err := p.plan(specs)
	if err != nil {
		return nil, err
	}
	p.ledger.begin()
	if len(p.mem) < pl.size {
		p.ledger.give(len(p.mem))
		p.mem = nil
		if err := p.ledger.take(pl.size); err != nil {
			return nil, err
		}
		p.mem = graph.Aligned(pl.size)
	}
	pl.attach(p.mem[:pl.size:pl.size])
	p.worker.ctx = ctx
	return pl.run(p.worker, vals, nil)
}

// RunMap is Run with tensors by name.
func (p *Program) RunMap(ctx context.Context, in map[string]*graph.Tensor) (map[string]*graph.Tensor, error) {
	var list []Value
	used := 0
	for _, v := range p.Inputs() {
		t := in[v.Name]
		if t == nil && v.Const == nil {
			return nil, &fault.Error{Tensor: v.Name, Op: "eval", Err: fault.As(fault.ErrMisuse, errMissing)}
		}
		if t == nil {
			list = append(list, Value{})
			continue
		}
		used++
		list = append(list, Of(t))
	}
	if used < len(in) {
		for name := range in {
			if !slices.ContainsFunc(p.Graph.Inputs, func(v *graph.Value) bool { return v.Name == name }) {
				return nil, &fault.Error{Tensor: name, Op: "eval", Err: fault.As(fault.ErrMisuse, errStranger)}
			}
		}
	}
	vals, err := p.Run(ctx, list...)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*graph.Tensor, len(vals))
	for i, v := range p.Graph.Outputs {
		if vals[i].Tensor == nil {
			return nil, &fault.Error{Tensor: v.Name, Op: "eval", Err: errNoTensor}
		}
		out[v.Name] = vals[i].Tensor
	}
	return out, nil
}

// fits compares what is given with what the graph declares.
func fits(v *graph.Value, s Spec) error {
	wrong := func(format string, args ...any) error {
		return &fault.Error{Tensor: v.Name, Op: "eval", Err: fault.As(fault.ErrMisuse, fmt.Errorf(format, args...))}
	}
	if v.Kind != s.Kind {
		// a tensor will do where the graph has an optional one
		if v.Kind == graph.KindOptional && s.Kind == graph.KindTensor || v.Kind == graph.KindOptionalSequence && s.Kind == graph.KindSequence {
			return nil
		}
		return wrong("kind %d where the graph has %d", s.Kind, v.Kind)
	}
	if s.Kind != graph.KindTensor {
		return nil
	}
	if v.Type != graph.Undefined && v.Type != s.Type {
		return wrong("type %s where the graph has %s", s.Type, v.Type)
	}
	if err := graph.CheckShape(s.Shape); err != nil {
		return wrong("%w", err)
	}
	if v.Shape == nil {
		return nil
	}
	ok := len(*v.Shape) == len(s.Shape)
	for i := 0; ok && i < len(s.Shape); i++ {
		ok = (*v.Shape)[i].Size < 0 || (*v.Shape)[i].Size == s.Shape[i]
	}
	if !ok {
		return wrong("shape %s where the graph has %s", shapeText(s.Shape), declared(v.Shape))
	}
	return nil
}

// sameNames verifies that a dimension with a name has one size in all inputs.
func sameNames(g *graph.Graph, specs []Spec) error {
	var names map[string]int
	for i, v := range g.Inputs {
		if v.Shape == nil || len(*v.Shape) != len(specs[i].Shape) {
			continue
		}
		for k, d := range *v.Shape {
			if d.Size >= 0 || d.Name == "" {
				continue
			}
			if names == nil {
				names = map[string]int{}
			}
			size := specs[i].Shape[k]
			if old, ok := names[d.Name]; ok && old != size {
				return &fault.Error{
					Tensor: v.Name, Op: "eval",
					Err: fault.As(fault.ErrMisuse, fmt.Errorf("dimension %s is %d here and %d in another input", d.Name, size, old)),
				}
			}
			names[d.Name] = size
		}
	}
	return nil
}

// declared is a shape with names where it has them: "nx3x?x?".
func declared(shape *graph.Shape) string {
	parts := make([]string, len(*shape))
	for i, d := range *shape {
		switch {
		case d.Size >= 0:
			parts[i] = strconv.Itoa(d.Size)
		case d.Name != "":
			parts[i] = d.Name
		default:
			parts[i] = "?"
		}
	}
	return strings.Join(parts, "x")
}

func shapeText(shape []int) string {
	return strings.Join(strings.Fields(strings.Trim(fmt.Sprint(shape), "[]")), "x")
}

func errMemory(want, limit int64) error {
	return &fault.Error{
		Op: "eval", Err: fault.As(fault.ErrBudget, fmt.Errorf("values take %s, %s are allowed", human.Bytes(want), human.Bytes(limit))),
		Hint: "give more memory, or smaller inputs",
	}
}

func errCount(have, want int) error {
	return fmt.Errorf("%w: %d, the graph has %d", errInputs, have, want)
}
