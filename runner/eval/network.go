package eval

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// Network runs graphs for passes: it is the ir.Network of this package.
type Network struct {
	Options
	// Shapes are those of inputs that a graph leaves open, by name, as samples have them; those that are
	// missing count as 1.
	Shapes map[string][]int
}

var _ ir.Network = (*Network)(nil)

// Infer plans the graph and writes what the plan knows into its values. Open dimensions of inputs are
// tried with several sizes: a dimension is known when it is the same with all of them.
func (e *Network) Infer(ctx context.Context, g *graph.Graph) error {
	p, err := Compile(g, Options{Threads: 1, ISA: e.ISA, Memory: e.Memory})
	if err != nil {
		return err
	}
	first, open, err := e.probe(p, g, func(n int) int { return n })
	if err != nil {
		return err
	}
	list := []map[*graph.Value]Spec{first}
	if open {
		for _, size := range []func(int) int{func(n int) int { return n + 1 }, func(int) int { return 1 }} {
			if err := ctx.Err(); err != nil {
				return err
			}
			if m, _, err := e.probe(p, g, size); err == nil {
				list = append(list, m)
			}
		}
	}
	for v, s := range first {
		if v.Const != nil || s.Kind != graph.KindTensor || s.Later || s.Type == graph.Undefined {
			continue
		}
		v.Type = s.Type
		v.Shape = agreed(v, list, open && len(list) == 1)
	}
	return nil
}

// probe plans with the sizes of inputs that size makes of the usual ones, and says whether any was open.
func (e *Network) probe(p *Program, g *graph.Graph, size func(int) int) (specs map[*graph.Value]Spec, open bool, err error) {
	shapes, named := map[string][]int{}, map[string]int{}
	for _, v := range g.Inputs {
		if v.Kind != graph.KindTensor {
			continue
		}
		given := e.Shapes[v.Name]
		if v.Shape == nil {
			if given != nil {
				shapes[v.Name] = given
			}
			open = true
			continue
		}
		dims := make([]int, len(*v.Shape))
		for i, d := range *v.Shape {
			if dims[i] = d.Size; d.Size >= 0 {
				continue
			}
			open = true
			usual := 1
			if i < len(given) {
				usual = given[i]
			}
			n, ok := named[d.Name]
			if !ok || d.Name == "" {
				n = size(usual)
				named[d.Name] = n
			}
			dims[i] = n
		}
		shapes[v.Name] = dims
	}
	specs, err = p.Specs(shapes)
	return specs, open, err
}

// agreed is the shape that all probes have in common; names that a value has stay.
func agreed(v *graph.Value, list []map[*graph.Value]Spec, unsure bool) *graph.Shape {
	dims := list[0][v].Shape
	shape := make(graph.Shape, len(dims))
	for i, d := range dims {
		shape[i] = graph.Dim{Size: d}
		same := !unsure
		for _, m := range list {
			s := m[v]
			if s.Later || len(s.Shape) != len(dims) {
				return nil
			}
			same = same && s.Shape[i] == d
		}
		if v.Shape != nil && len(*v.Shape) == len(dims) {
			if old := (*v.Shape)[i]; old.Size >= 0 || !same {
				shape[i] = old
				continue
			}
		}
		if !same {
			shape[i] = graph.Dim{Size: -1}
		}
	}
	return &shape
}

// Evaluate computes a node of constants.
func (e *Network) Evaluate(n *graph.Node, opset map[string]int, in []*graph.Tensor) ([]*graph.Tensor, error) {
	m := *n
	m.In, m.Out = make([]*graph.Value, len(in)), make([]*graph.Value, len(n.Out))
	for i, t := range in {
		if t == nil {
			continue
		}
		if t.Data == nil && t.Strings == nil && graph.Elems(t.Shape) > 0 {
			// Only the shape counts: elements would be computed with, if there were any to compute with.
			if n.Op != "Shape" {
				return nil, fmt.Errorf("%s of a tensor without elements in memory", n.Op)
			}
			t = graph.New(t.Type, t.Shape...)
		}
		m.In[i] = &graph.Value{Name: fmt.Sprintf("in%d", i), Type: t.Type, Shape: graph.Fixed(t.Shape...), Const: t}
	}
	g := &graph.Graph{Nodes: []*graph.Node{&m}, Opset: opset}
	for i, v := range n.Out {
		if v != nil {
			m.Out[i] = &graph.Value{Name: fmt.Sprintf("out%d", i)}
			g.Outputs = append(g.Outputs, m.Out[i])
		}
	}
	memory := e.Memory
	if memory <= 0 {
		memory = machineMemory() / 4 // it is one constant of many
	}
	p, err := Compile(g, Options{Threads: 1, ISA: e.ISA, Memory: memory})
	if err != nil {
		return nil, err
	}
	vals, err := p.Run(context.Background())
	if err != nil {
		return nil, err
	}
	out := make([]*graph.Tensor, len(n.Out))
	k := 0
	for i, v := range n.Out {
		if v == nil {
			continue
		}
		if vals[k].Tensor == nil {
			return nil, &fault.Error{Tensor: v.Name, Op: "eval", Err: errNoTensor}
		}
		// Results lie in an arena that the next run overwrites.
		t := graph.New(vals[k].Tensor.Type, vals[k].Tensor.Shape...)
		copy(t.Data, vals[k].Tensor.Data)
		copy(t.Strings, vals[k].Tensor.Strings)
		out[i] = t
		k++
	}
	return out, nil
}

// Open compiles a graph whose outputs are the values that are wanted.
func (e *Network) Open(ctx context.Context, g *graph.Graph, want []*graph.Value) (ir.NetworkRun, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	view := *g
	r := &networkRun{at: make([]int, len(want))}
	seen := map[*graph.Value]int{}
	view.Outputs = nil
	for i, v := range want {
		k, ok := seen[v]
		if !ok {
			k = len(view.Outputs)
			seen[v] = k
			view.Outputs = append(view.Outputs, v)
		}
		r.at[i] = k
	}
	var err error
	r.p, err = Compile(&view, e.Options)
	return r, err
}

// Watch compiles a graph whose outputs are shown as they are made.
func (e *Network) Watch(ctx context.Context, g *graph.Graph, want []*graph.Value, see func(i int, t *graph.Tensor, pixels bool) error) (ir.NetworkRun, error) {
	watching := *e
	seen := map[*graph.Value]int{}
	var outputs [][]int // places in want, by output as Open numbers them
	for i, v := range want {
		k, ok := seen[v]
		if !ok {
			k = len(outputs)
			seen[v] = k
			outputs = append(outputs, nil)
		}
		outputs[k] = append(outputs[k], i)
	}
	watching.Options.Watch = func(k int, t *graph.Tensor, pixels bool) error {
		for _, i := range outputs[k] {
			if err := see(i, t, pixels); err != nil {
				return err
			}
		}
		return nil
	}
	run, err := watching.Open(ctx, g, want)
	if r, ok := run.(*networkRun); ok {
		r.at = nil // nothing is handed over in the end
	}
	return run, err
}

// networkRun is a program whose outputs a pass has chosen.
type networkRun struct {
	p  *Program
	at []int // which output a wanted value is
}

// Run computes one sample. Inputs of the sample that the graph does not have any more are ignored: they
// were bound to constants.
func (r *networkRun) Run(ctx context.Context, sample ir.Sample) ([]*graph.Tensor, error) {
	var list []Value
	for _, v := range r.p.Inputs() {
		t := sample[v.Name]
		if t == nil && v.Const == nil {
			return nil, &fault.Error{Tensor: v.Name, Op: "eval", Err: fault.As(fault.ErrMisuse, errMissing), Hint: "every sample gives all inputs of the network"}
		}
		if t == nil {
			list = append(list, Value{})
		} else {
			list = append(list, Of(t))
		}
	}
	vals, err := r.p.Run(ctx, list...)
	if err != nil {
		return nil, err
	}
	out := make([]*graph.Tensor, len(r.at))
	for i, k := range r.at {
		if out[i] = vals[k].Tensor; out[i] == nil {
			return nil, &fault.Error{Tensor: r.p.Graph.Outputs[k].Name, Op: "eval", Err: errNoTensor}
		}
	}
	return out, nil
}

// Close has nothing to give back.
func (r *networkRun) Close() error { return nil }
