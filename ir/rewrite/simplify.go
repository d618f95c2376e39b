package rewrite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// Evaluate computes a node whose inputs are all known; nil stands for inputs that are left out.
type Evaluate func(n *graph.Node, opset map[string]int, in []*graph.Tensor) ([]*graph.Tensor, error)

// Options of Simplify.
type Options struct {
	// Evaluate computes constants ahead; nil leaves nodes of constants as they are.
	Evaluate Evaluate
	// MaxFold bounds the bytes of a constant that is made by a node which enlarges its inputs, such as
	// Expand: 0 means 1 MiB. Smaller results than inputs are always welcome.
	MaxFold int
	// MaxTotal bounds the bytes of all constants that are made: 0 means 1 GiB. What would be more stays as it is.
	MaxTotal int
	// Skip names rules that are left out.
	Skip []string
}

// Change is how often a rule was applied.
type Change struct {
	Rule  string `json:"rule"`
	Count int    `json:"count"`
}

// rule is one rewriting: it looks through the nodes of one graph and says how many places it changed.
type rule struct {
	name, doc string
	apply     func(c *rewriter) (int, error)
}

// rules in the order in which they are tried.
var rules = []rule{
	{"constants", "nodes whose inputs are known are computed ahead", (*rewriter).constants},
	{"branches", "an If whose condition is known becomes its branch", (*rewriter).branches},
	{"identities", "nodes that hand on what they read go away; chains of shapes and orders become one", (*rewriter).identities},
	{"duplicates", "nodes that compute the same from the same are one", (*rewriter).duplicates},
	{"twins", "constants of the same bytes in several graphs, such as the branches of an If, are one", (*rewriter).twins},
	{"pads", "padding with what a convolution or a pool pads with moves into it", (*rewriter).pads},
	{"affine", "batch normalization, and constants per channel that are added or multiplied, move into the layer before", (*rewriter).affine},
	{"dead", "nodes whose results nobody reads go away", (*rewriter).dead},
}

// Rules lists the rules with half a sentence each, in order.
func Rules() (names, docs []string) {
	for _, r := range rules {
		names, docs = append(names, r.name), append(docs, r.doc)
	}
	return names, docs
}

// rounds bounds how often all rules are tried: each round makes the graph smaller or folds a place, so more
// means that two rules undo each other.
const rounds = 200

// ErrEndless is a bug of ours: two rules undo each other.
var ErrEndless = errors.New("the rewrites do not come to an end")

// Simplify applies every rule until none finds anything, to the graph and its subgraphs. The graph is
// changed in place: Clone it to keep the original.
func Simplify(ctx context.Context, g *graph.Graph, opt Options) ([]Change, error) {
	names, _ := Rules()
	for _, s := range opt.Skip {
		if !slices.Contains(names, s) {
			return nil, &fault.Error{Op: "rewrite", Err: fault.As(fault.ErrMisuse, fmt.Errorf("no rule is called %q: they are %v", s, names))}
		}
	}
	if opt.MaxFold == 0 {
		opt.MaxFold = 1 << 20
	}
	if opt.MaxTotal == 0 {
		opt.MaxTotal = 1 << 30
	}
	total := make([]Change, len(rules))
	c := &rewriter{root: g, opt: opt, names: newNames(g), opset: g.Opset}
	for range rounds {
		changed := 0
		for i, r := range rules {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if slices.Contains(opt.Skip, r.name) {
				continue
			}
			n, err := c.everywhere(g, r)
			if err != nil {
				return nil, &fault.Error{Op: "rewrite." + r.name, Err: err}
			}
			total[i] = Change{r.name, total[i].Count + n}
			changed += n
		}
		if changed == 0 {
			if err := g.Check(); err != nil {
				return nil, &fault.Error{Op: "rewrite", Err: err}
			}
			return slices.DeleteFunc(total, func(c Change) bool { return c.Count == 0 }), nil
		}
	}
	return nil, &fault.Error{Op: "rewrite", Err: ErrEndless}
}

// rewriter is at work on one graph, the model's own or a body.
type rewriter struct {
	root  *graph.Graph
	g     *graph.Graph
	x     *graph.Index
	opt   Options
	names *names
	opset map[string]int
	gone  map[*graph.Node]bool // nodes that a rule has done away with in this pass
	made  int                  // bytes of the constants that were computed
}

// everywhere applies a rule to a graph and the graphs in it, innermost first.
func (c *rewriter) everywhere(g *graph.Graph, r rule) (int, error) {
	total := 0
	for _, n := range g.Nodes {
		for _, sub := range n.Graphs() {
			k, err := c.everywhere(sub, r)
			if err != nil {
				return 0, err
			}
			total += k
		}
	}
	c.g, c.x, c.gone = g, graph.NewIndex(g), map[*graph.Node]bool{}
	k, err := r.apply(c)
	if len(c.gone) > 0 {
		g.Nodes = slices.DeleteFunc(g.Nodes, func(n *graph.Node) bool { return c.gone[n] })
	}
	return total + k, err
}

// is reports whether n is an operator of ai.onnx.
func is(n *graph.Node, ops ...string) bool {
	return n != nil && n.Domain == "" && slices.Contains(ops, n.Op)
}

// forward makes the readers of v read w, which has the same value, and keeps the names of outputs. It says no
// when v is an output of the graph that w cannot stand for: w would need two names, or is no result of a node.
func (c *rewriter) forward(v, w *graph.Value) bool {
	if c.x.Output[v] {
		if c.x.Output[w] || c.x.Producer[w] == nil || v.Kind != w.Kind {
			return false
		}
		v.Name, w.Name = w.Name, v.Name
		if w.Type == graph.Undefined {
			w.Type = v.Type
		}
		if w.Shape == nil {
			w.Shape = v.Shape
		}
		c.x.Output[w] = true
		delete(c.x.Output, v)
	}
	c.g.Replace(v, w)
	c.x.Readers[w] = append(c.x.Readers[w], c.x.Readers[v]...)
	delete(c.x.Readers, v)
	return true
}

// drop takes a node away whose outputs nobody reads any more.
func (c *rewriter) drop(n *graph.Node) {
	c.gone[n] = true
	for v := range graph.Reads(n) {
		if i := slices.Index(c.x.Readers[v], n); i >= 0 {
			c.x.Readers[v] = slices.Delete(slices.Clone(c.x.Readers[v]), i, i+1)
		}
	}
	for _, v := range n.Out {
		if v != nil {
			delete(c.x.Producer, v)
		}
	}
}

// takeOver gives the output of a node that goes away to the node before it: last is the only reader of the
// output of first.
func (c *rewriter) takeOver(first, last *graph.Node) {
	c.drop(last)
	first.Out[0] = last.Out[0]
	c.x.Producer[first.Out[0]] = first
}

// read keeps the index current when input i of a node changes.
func (c *rewriter) read(n *graph.Node, i int, v *graph.Value) {
	for len(n.In) <= i {
		n.In = append(n.In, nil)
	}
	if old := n.In[i]; old != nil {
		if k := slices.Index(c.x.Readers[old], n); k >= 0 {
			c.x.Readers[old] = slices.Delete(slices.Clone(c.x.Readers[old]), k, k+1)
		}
	}
	n.In[i] = v
	c.x.Readers[v] = append(c.x.Readers[v], n)
}

// constant makes a new constant named after another value.
func (c *rewriter) constant(name string, t *graph.Tensor) *graph.Value {
	return &graph.Value{Name: c.names.fresh(name), Type: t.Type, Shape: graph.Fixed(t.Shape...), Const: t}
}

// known is the value of v when it never depends on the inputs; defaults of inputs may be replaced.
func (c *rewriter) known(v *graph.Value) *graph.Tensor {
	if v == nil || v.Const == nil || slices.Contains(c.g.Inputs, v) {
		return nil
	}
	return v.Const
}

// shape of a value where it is known.
func shape(v *graph.Value) ([]int, bool) {
	if v == nil {
		return nil, false
	}
	if v.Const != nil {
		return v.Const.Shape, true
	}
	return v.Shape.Known()
}

// rank of a value, -1 where it is not known.
func rank(v *graph.Value) int {
	switch {
	case v == nil:
		return -1
	case v.Const != nil:
		return len(v.Const.Shape)
	case v.Shape == nil:
		return -1
	}
	return len(*v.Shape)
}

// names makes names that nothing else in the model has.
type names struct {
	taken map[string]bool
	next  map[string]int // where the last search for a name ended: many may want one
}

func newNames(g *graph.Graph) *names {
	n := &names{map[string]bool{}, map[string]int{}}
	n.collect(g)
	return n
}

func (s *names) collect(g *graph.Graph) {
	add := func(list []*graph.Value) {
		for _, v := range list {
			if v != nil {
				s.taken[v.Name] = true
			}
		}
	}
	add(g.Inputs)
	add(g.Outputs)
	for _, n := range g.Nodes {
		add(n.In)
		add(n.Out)
		s.taken[n.Name] = true
		for _, sub := range n.Graphs() {
			s.collect(sub)
		}
	}
}

// fresh is base, or base with a number behind it.
func (s *names) fresh(base string) string {
	name := base
	for s.taken[name] {
		s.next[base]++
		name = base + "_" + strconv.Itoa(s.next[base])
	}
	s.taken[name] = true
	return name
}
