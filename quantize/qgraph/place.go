package qgraph

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/ir/graph"
)

// form is how a node can run on integers.
type form int

const (
	formFloat   form = iota
	formLinear       // weights are constant
	formProduct      // a MatMul of two activations
	formPoint        // reads and makes codes, each with a scale of its own
	formPass         // moves codes: one scale in and out
	formClamp        // Relu and Clip: what the codes' range can do
)

// pointOps read all their float inputs as codes.
var pointOps = []string{
	"Add", "Sub", "Mul", "Div", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "Tanh", "Softmax", "LeakyRelu", "HardSigmoid",
	"HardSwish", "PRelu", "Relu", "Clip", "Resize", "Max", "Min", "ReduceMean", "Gelu", "Elu",
}

// passOps hand on the codes of their first input.
var passOps = []string{
	"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "MaxPool", "GlobalMaxPool", "Split", "Pad", "Expand", "Identity",
	"DepthToSpace", "SpaceToDepth", "Tile",
}

// fixedScale is the range of operators whose results are known to lie in it, as hardware wants it said:
// [0, 1) and [-1, 1).
var fixedScale = map[string][2]float64{"Sigmoid": {0, 1}, "Softmax": {0, 1}, "HardSigmoid": {0, 1}, "Tanh": {-1, 1}}

// placement says what runs on integers and which values carry codes.
type placement struct {
	g      *graph.Graph
	x      *graph.Index
	cfg    Config
	form   map[*graph.Node]form
	layers map[*graph.Node]*layer
	// coded are the values that are made codes, in the order in which they are made.
	coded []*graph.Value
	is    map[*graph.Value]bool
	// clamped are nodes that a range takes the place of, by the value that they read.
	clamped map[*graph.Value]*graph.Node
	parent  map[*graph.Value]*graph.Value // groups that share a scale
	fixed   map[*graph.Value]calib.Affine // by the head of the group
	kept    []Kept
}

// Kept is a node that stays float though it has an integer form.
type Kept struct {
	Node, Reason string
}

// place decides for a graph whose types and shapes are known. float are nodes that a measurement wants to
// stay float.
func place(g *graph.Graph, cfg Config, float map[*graph.Node]bool) *placement {
	p := &placement{
		g: g, x: graph.NewIndex(g), cfg: cfg, form: map[*graph.Node]form{}, layers: map[*graph.Node]*layer{}, is: map[*graph.Value]bool{},
		clamped: map[*graph.Value]*graph.Node{}, parent: map[*graph.Value]*graph.Value{}, fixed: map[*graph.Value]calib.Affine{},
	}
	for _, n := range g.Nodes {
		f := p.formOf(n)
		if f != formFloat && (float[n] || cfg.Keep.Match(n)) {
			p.kept = append(p.kept, Kept{n.Label(), "asked for"})
			f = formFloat
		}
		p.form[n] = f
	}
	p.useless()
	for _, n := range g.Nodes {
		p.read(n)
	}
	for _, v := range g.Inputs {
		if p.is[v] {
			p.coded = append(p.coded, v)
		}
	}
	for _, n := range g.Nodes {
		p.write(n)
		for _, v := range n.Out {
			if v != nil && p.is[v] {
				p.coded = append(p.coded, v)
			}
		}
	}
	p.share()
	return p
}

// real reports whether a value is an activation of float32.
func real(v *graph.Value) bool {
	return v != nil && v.Kind == graph.KindTensor && v.Type == graph.Float32 && v.Const == nil
}

// formOf is what a node could be.
func (p *placement) formOf(n *graph.Node) form {
	if n.Domain != "" || len(n.In) == 0 || !real(n.In[0]) && !isOp(n, "Add", "Mul", "Concat", "Sub", "Div") || n.Output(0) == nil || n.Output(0).Type != graph.Float32 {
		return formFloat
	}
	switch {
	case slices.Contains(linearOps, n.Op):
		if l := newLayer(n); l != nil {
			p.layers[n] = l
			return formLinear
		}
		if n.Op == "MatMul" && real(n.In[1]) && p.cfg.Everything {
			return formProduct // elsewhere attention is a small part of the work, and 8 bits of its scores cost much
		}
	case isOp(n, "Relu", "Clip") && p.clamps(n):
		return formClamp
	case isOp(n, "Resize") && n.Str("mode", "nearest") == "nearest":
		return formPass
	case isOp(n, "Pad") && (n.Str("mode", "constant") != "constant" || !zeroPad(n)):
	case isOp(n, "MaxPool") && n.Output(1) != nil:
	case slices.Contains(passOps, n.Op):
		return formPass
	case slices.Contains(pointOps, n.Op):
		// One operand may be a constant; two make one, which folding takes care of.
		if slices.ContainsFunc(n.In[:min(2, len(n.In))], real) {
			return formPoint
		}
	}
	return formFloat
}

func zeroPad(n *graph.Node) bool {
	v := n.Input(2)
	if v == nil {
		return true
	}
	return v.Const != nil && v.Const.Type == graph.Float32 && v.Const.Elems() == 1 && graph.Of[float32](v.Const)[0] == 0
}

// clamps reports whether the range of the codes can do what the node does: it is the only reader of the
// result of a node that makes codes, and cuts where the codes end.
func (p *placement) clamps(n *graph.Node) bool {
	before := p.x.Producer[n.In[0]]
	if before == nil || p.x.Only(n.In[0]) != n {
		return false
	}
	switch p.form[before] {
	case formLinear, formProduct, formPoint:
	default:
		return false
	}
	lo, _ := clampRange(n)
	return lo == 0 && (!p.cfg.SymmetricActivations || p.cfg.PowerOfTwo)
}

// clampRange is what a Relu or Clip with constant bounds cuts at.
func clampRange(n *graph.Node) (lo, hi float64) {
	const none = 1e38
	if n.Op == "Relu" {
		return 0, none
	}
	bound := func(i int, attr string, def float64) float64 {
		v := n.Input(i)
		switch {
		case v == nil && n.Has(attr):
			return float64(n.Float(attr, 0))
		case v == nil:
			return def
		case v.Const != nil && v.Const.Type == graph.Float32 && v.Const.Elems() == 1:
			return float64(graph.Of[float32](v.Const)[0])
		}
		return -2 * none // not known: no clamp that a range can do
	}
	lo, hi = bound(1, "min", -none), bound(2, "max", none)
	if hi <= 0 {
		return -none, none
	}
	return lo, hi
}

// useless makes nodes float that integers would not help: pointwise ones whose results no integer node
// reads, and those that no integer node feeds.
func (p *placement) useless() {
	if p.cfg.Everything {
		return
	}
	wanted := map[*graph.Value]bool{}
	for _, n := range slices.Backward(p.g.Nodes) {
		f := p.form[n]
		useful := f == formLinear || f == formProduct || slices.ContainsFunc(n.Out, func(v *graph.Value) bool { return wanted[v] })
		if !useful && f != formClamp {
			p.form[n] = formFloat
			continue
		}
		if useful && f != formFloat {
			for i, v := range n.In {
				if real(v) && (i == 0 || f != formPass) {
					wanted[v] = true
				}
			}
		}
	}
	made := map[*graph.Value]bool{}
	for _, n := range p.g.Nodes {
		switch p.form[n] {
		case formPoint:
			if !p.gains(n) || slices.ContainsFunc(n.In, func(v *graph.Value) bool { return real(v) && !made[v] }) {
				p.form[n] = formFloat
				continue
			}
		case formPass, formClamp:
			if !made[n.In[0]] {
				p.form[n] = formFloat
				continue
			}
		case formFloat:
			continue
		}
		for _, v := range n.Out {
			made[v] = true
		}
	}
}

// gainOps are worth codes between layers: they keep the range of what they read, or nearly so.
var gainOps = []string{
	"Add", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "PRelu", "Relu", "Clip", "Resize", "Max", "Min", "HardSwish",
}

// gains reports whether a pointwise node is worth codes. Arithmetic is not: in the parts that a normalization
// or GELU was taken to, powers and reciprocals span ranges that 8 bits cannot. A gate is, sigmoid(x) * y.
func (p *placement) gains(n *graph.Node) bool {
	gate := func(n *graph.Node) bool { return isOp(n, "Sigmoid", "HardSigmoid") }
	switch {
	case n.Op == "Add" && p.bias(n):
		return false // or its sums would be rounded before and after
	case slices.Contains(gainOps, n.Op):
		return true
	case gate(n):
		return isOp(p.x.Only(n.Out[0]), "Mul")
	}
	return n.Op == "Mul" && slices.ContainsFunc(n.In, func(v *graph.Value) bool { return gate(p.x.Producer[v]) })
}

// bias reports whether a node adds constants to a product that has no room for a bias.
func (p *placement) bias(n *graph.Node) bool {
	for i, v := range n.In {
		if maker := p.x.Producer[v]; len(n.In) == 2 && isOp(maker, "MatMul") && p.x.Only(v) == n && n.In[1-i] != nil && n.In[1-i].Const != nil {
			return true
		}
	}
	return false
}

func (p *placement) code(v *graph.Value) { p.is[v] = true }

// read marks the inputs of a node as codes.
func (p *placement) read(n *graph.Node) {
	switch p.form[n] {
	case formLinear:
		p.code(n.In[0])
	case formProduct, formPoint:
		for i, v := range n.In {
			if real(v) && (i < 2 || isOp(n, "Concat", "Max", "Min")) {
				p.code(v)
			}
		}
	case formPass:
		p.code(n.In[0])
	}
}

// write marks the results of a node as codes.
func (p *placement) write(n *graph.Node) {
	v := n.Output(0)
	switch p.form[n] {
	case formFloat:
		return
	case formClamp:
		if before := p.x.Producer[n.In[0]]; p.form[before] == formFloat {
			p.form[n] = formFloat
			return
		}
		p.clamped[n.In[0]] = n
		delete(p.is, n.In[0])
		p.coded = slices.DeleteFunc(p.coded, func(w *graph.Value) bool { return w == n.In[0] })
		if p.leaves(n, v) {
			p.code(v)
		}
		return
	case formPass:
		for _, v := range n.Out {
			if v != nil && v.Type == graph.Float32 && p.leaves(n, v) {
				p.code(v)
			}
		}
		return
	}
	if p.leaves(n, v) {
		p.code(v)
	}
}

// leaves reports whether a result of an integer node is made codes: products are handed on as floats to who
// wants floats, everything else would run on floats without codes behind it.
func (p *placement) leaves(n *graph.Node, v *graph.Value) bool {
	if p.is[v] || p.cfg.Everything {
		return true
	}
	if len(p.x.Readers[v]) == 0 {
		return false // an output of the network
	}
	if isOp(n, "Relu", "Clip") {
		n = p.x.Producer[n.In[0]]
	}
	return !isOp(n, "Gemm", "MatMul")
}

// head of the group that shares a scale with v.
func (p *placement) head(v *graph.Value) *graph.Value {
	for p.parent[v] != nil {
		v = p.parent[v]
	}
	return v
}

func (p *placement) join(v, w *graph.Value) {
	if a, b := p.head(v), p.head(w); a != b {
		p.parent[b] = a
	}
}

// share groups values that have one scale, and fixes those that operators demand.
func (p *placement) share() {
	for _, n := range p.g.Nodes {
		switch f := p.form[n]; {
		case f == formPass:
			for _, v := range n.Out {
				if v != nil && p.is[v] {
					p.join(n.In[0], v)
				}
			}
		case f == formPoint && (n.Op == "Concat" && p.cfg.ShareConcat || isOp(n, "Max", "Min")):
			for _, v := range n.In {
				if real(v) && p.is[n.Out[0]] {
					p.join(n.Out[0], v)
				}
			}
		}
	}
	if p.cfg.SymmetricActivations {
		return
	}
	grid := p.cfg.activationGrid()
	codes := float64(grid.Max - grid.Min + 1)
	for _, n := range p.g.Nodes {
		r, ok := fixedScale[n.Op]
		if v := n.Output(0); ok && p.form[n] == formPoint && p.is[v] {
			s := (r[1] - r[0]) / codes
			p.fixed[p.head(v)] = calib.Affine{Scale: float32(s), Zero: grid.Min - int(r[0]/s)}
		}
	}
}

// describe says what became of the nodes, for reports.
func (p *placement) describe() (integer, float int) {
	for _, n := range p.g.Nodes {
		if p.form[n] == formFloat {
			float++
		} else {
			integer++
		}
	}
	return integer, float
}

// check fails when nothing would be quantized.
func (p *placement) check() error {
	for _, f := range p.form {
		if f == formLinear || f == formProduct {
			return nil
		}
	}
	return fmt.Errorf("no node of the network has weights to quantize: %d nodes", len(p.g.Nodes))
}
