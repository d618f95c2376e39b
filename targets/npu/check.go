package npu

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/ir/graph"
)

// Finding is one thing that the processor does not take.
type Finding struct {
	Node    string `json:"node"`
	Rule    string `json:"rule"`
	Reason  string `json:"reason"`
	Nearest string `json:"nearest,omitempty"` // what would be legal
}

// String is the finding on one line.
func (f Finding) String() string {
	s := f.Node + ": " + f.Reason
	if f.Nearest != "" {
		s += "; " + f.Nearest
	}
	return s
}

// Names of rules, as findings have them.
const (
	RuleOperator    = "operator"    // the operator, or a form of it, does not run there
	RuleType        = "type"        // not on these codes or elements
	RuleWeights     = "weights"     // not with these weights
	RuleGranularity = "granularity" // scales along the wrong axis, or in blocks
	RuleSymmetry    = "symmetry"    // zero points where none may be
	RuleScale       = "scale"       // a scale that is no scale, or two where one is needed
	RuleShape       = "shape"       // dimensions that are not known, or none
	RuleRank        = "rank"
	RuleOpset       = "opset"
	RuleRelu        = "relu" // a clamp that its codes cannot do
)

// checker is one walk over a network.
type checker struct {
	r     *Rules
	g     *graph.Graph
	x     *graph.Index
	out   []Finding
	opset int
}

// Check lists what keeps the processor from running the network, in the order of its nodes. Types and
// shapes must have been written into the values, as ir.Network.Infer does: what is not known counts as
// dynamic.
func (r *Rules) Check(g *graph.Graph) []Finding {
	c := &checker{r: r, g: g, x: graph.NewIndex(g), opset: g.Opset[""]}
	if c.opset < r.Opset[0] || c.opset > r.Opset[1] {
		c.add("the network", RuleOpset, fmt.Sprintf("operator set %d", c.opset), fmt.Sprintf("use %d to %d", r.Opset[0], r.Opset[1]))
	}
	for _, v := range g.Inputs {
		c.shape("input "+v.Name, v)
	}
	for _, n := range g.Nodes {
		switch {
		case isCoder(n, "QuantizeLinear"), isCoder(n, "DequantizeLinear"):
			c.coder(n)
		default:
			c.node(n)
		}
	}
	return c.out
}

func (c *checker) add(node, rule, reason, nearest string) {
	c.out = append(c.out, Finding{node, rule, reason, nearest})
}

// shape reports whether a value has dimensions that the processor can take.
func (c *checker) shape(where string, v *graph.Value) bool {
	if v.Kind != graph.KindTensor {
		c.add(where, RuleType, "it is no tensor", "")
		return false
	}
	dims, known := v.Shape.Known()
	if v.Const != nil {
		dims, known = v.Const.Shape, true
	}
	switch {
	case !known && !c.r.Dynamic:
		c.add(where, RuleShape, fmt.Sprintf("the dimensions of %s are not known before it runs", v.Name), "fix them with --shape INPUT=1x3x224x224")
		return false
	case slices.Contains(dims, 0):
		c.add(where, RuleShape, v.Name+" has no elements", "")
		return false
	case len(dims) > c.r.Rank:
		c.add(where, RuleRank, fmt.Sprintf("%s has %d dimensions", v.Name, len(dims)), fmt.Sprintf("join some: %d are possible", c.r.Rank))
		return false
	}
	return true
}

// coder checks a QuantizeLinear or DequantizeLinear by itself.
func (c *checker) coder(n *graph.Node) {
	k := codingOf(n)
	typ := k.typ.String()
	bias := n.Op == "DequantizeLinear" && k.typ == graph.Int32
	switch {
	case bias && n.In[0].Const != nil:
	case n.In[0].Const != nil && slices.Contains(c.r.Constants, typ):
	case !slices.Contains(c.r.Codes, typ):
		c.add(n.Label(), RuleType, typ+" codes", "use "+strings.Join(c.r.Codes, ", "))
		return
	}
	switch {
	case !bias && n.Domain == "" && c.opset < c.r.Narrow && k.typ.Bits() != 8:
		c.add(n.Label(), RuleOpset, fmt.Sprintf("%s codes in operator set %d", typ, c.opset), fmt.Sprintf("use operator set %d, or QuantizeLinear and DequantizeLinear of com.microsoft", c.r.Narrow))
	case !k.known && n.Input(1) != nil && c.dynamic(n.In[1]):
	case !k.known:
		c.add(n.Label(), RuleScale, "its scale or zero point is no constant", "calibrate ahead: pare quantize --type int8")
	case !k.sound():
		c.add(n.Label(), RuleScale, "its scale is not a positive number", "calibrate again")
	case k.block > 0:
		c.add(n.Label(), RuleGranularity, fmt.Sprintf("scales for blocks of %d", k.block), "use one for each output channel")
	case len(k.scales) > 1 && (n.Op == "QuantizeLinear" || n.In[0].Const == nil):
		c.add(n.Label(), RuleGranularity, "activations with more than one scale", "use one for the tensor")
	case c.r.Symmetric && !bias && !k.symmetric():
		c.add(n.Label(), RuleSymmetry, "its zero point is not in the middle", "make activations and weights symmetric")
	case c.r.PowerOfTwo && !bias && !k.powers():
		c.add(n.Label(), RuleScale, "its scale is no power of two", "round scales to powers of two")
	}
}

// dynamic reports a scale that is made while the network runs, by an operator that the processor has.
func (c *checker) dynamic(scale *graph.Value) bool {
	p := c.x.Producer[scale]
	return p != nil && p.Op == "DynamicQuantizeLinear" && len(c.r.byOp[p.Op]) > 0
}

// node checks an operator with the coders around it.
func (c *checker) node(n *graph.Node) {
	name := n.Op
	if n.Domain != "" {
		name = n.Domain + "." + n.Op
	}
	forms := c.r.byOp[name]
	if types(forms) == "" {
		nearest := "keep it on the CPU, outside of what the NPU runs"
		if len(forms) > 0 && forms[0].Why != "" {
			nearest = forms[0].Why
		}
		c.add(n.Label(), RuleOperator, "the operator does not run there", nearest)
		return
	}
	for _, v := range n.In {
		if v != nil && v.Const == nil {
			if _, known := v.Shape.Known(); !known && !c.r.Dynamic {
				return // said where the dimensions were lost
			}
		}
	}
	for _, v := range n.Out {
		if v != nil && !c.shape(n.Label(), v) {
			return
		}
	}
	u := c.r.newUnit(c.x, n)
	if (n.Op == "Relu" || n.Op == "Clip") && len(n.In) > 0 {
		if b := c.x.Producer[n.In[0]]; len(u.out) == 1 && u.out[0].coding != nil && b != nil && clampOf(c.x, b) == n && c.r.ends(n, u.out[0].coding) && !isCoder(b, "DequantizeLinear") {
			return // what the codes of the node before it do
		}
	}
	var first *Finding // of the form that comes closest: the one that fails last
	depth := -1
	for _, f := range forms {
		at, bad := c.fits(u, f, forms)
		if bad == nil {
			return
		}
		if at > depth {
			first, depth = bad, at
		}
	}
	if f := c.clamped(u); f != nil {
		first = f
	}
	c.out = append(c.out, *first)
}

// clamped is the clamp behind a node that computes on codes up to there, when its codes reach further than it
// cuts: then the two cannot become one, and the node would have to run on floats.
func (c *checker) clamped(u *unit) *Finding {
	n := clampOf(c.x, u.n)
	if n == nil || len(u.in) == 0 || u.in[0].coding == nil {
		return nil
	}
	k := codedBy(c.x, n.Out[0])
	if k == nil || c.r.ends(n, k) {
		return nil
	}
	return &Finding{
		n.Label(), RuleRelu, fmt.Sprintf("the codes of its result reach further than it cuts, so that it cannot become one with %s", u.n.Label()),
		"use a zero point of " + strconv.FormatInt(lowest(k.typ), 10) + ", or code what it reads",
	}
}

// fits tries one form. It returns how far it came, and what was wrong there.
func (c *checker) fits(u *unit, f *Form, all []*Form) (depth int, bad *Finding) {
	no := func(depth int, rule, reason, nearest string) (int, *Finding) {
		return depth, &Finding{u.n.Label(), rule, reason, nearest}
	}
	typ, whole := u.typ()
	if !slices.Contains(f.Types, typ) {
		reason := "it does not run on " + typ
		if !whole {
			reason = "some of what it reads and makes is coded in one type and some is not, and it does not run on floats"
		}
		return no(0, RuleType, reason, "it runs on "+types(all))
	}
	for attr, allowed := range f.Attrs {
		if got := text(u.n, attr); !slices.Contains(allowed, got) {
			return no(1, RuleOperator, fmt.Sprintf("%s = %q", attr, got), fmt.Sprintf("use %q", allowed))
		}
	}
	if len(f.Rank) == 2 && len(u.n.In) > 0 && u.n.In[0] != nil {
		if s := u.n.In[0].Shape; s != nil && (len(*s) < f.Rank[0] || len(*s) > f.Rank[1]) {
			return no(2, RuleRank, fmt.Sprintf("%d dimensions", len(*s)), fmt.Sprintf("%d to %d are possible", f.Rank[0], f.Rank[1]))
		}
	}
	for _, p := range u.fixed {
		if slices.Contains(f.Varies, p.index) {
			return no(3, RuleOperator, fmt.Sprintf("input %d is a constant", p.index), "look it up on the CPU")
		}
		if !whole && (len(p.coding.scales) > 1 || p.coding.typ == graph.Int32) {
			return no(3, RuleType, "some of what it reads and makes is no code, so that it runs on floats, and its weights or bias cannot be expanded to those",
				"code its result with QuantizeLinear, of the type of its input")
		}
	}
	if rule, reason, nearest := f.second(u); rule != "" {
		return no(4, rule, reason, nearest)
	}
	if rule, reason, nearest := f.bias(u); rule != "" {
		return no(4, rule, reason, nearest)
	}
	if f.Same && whole {
		for _, a := range u.in[:min(1, len(u.in))] {
			for _, b := range u.out {
				if a.coding != nil && b.coding != nil && !a.coding.equal(b.coding) {
					return no(5, RuleScale, "it moves codes as they are, but its result has another scale or zero point than its input", "give both the scale of the input")
				}
			}
		}
	}
	return 0, nil
}

// second checks the second operand: weights, or another activation.
func (f *Form) second(u *unit) (rule, reason, nearest string) {
	if len(f.Weights) == 0 && len(f.With) == 0 {
		return "", "", ""
	}
	for _, p := range u.fixed {
		if p.index != 1 || len(f.Weights) == 0 {
			continue
		}
		k := p.coding
		typ, per := k.typ.String(), ""
		if len(k.scales) > 1 {
			per = "/channel"
		}
		rank := 0
		if p.v.Shape != nil {
			rank = len(*p.v.Shape)
		}
		switch {
		case !slices.Contains(f.Weights, typ) && !slices.Contains(f.Weights, typ+"/channel"):
			return RuleWeights, typ + " weights", "use " + strings.Join(f.Weights, ", ")
		case per != "" && (k.axis+rank)%max(rank, 1) != f.axis(u.n, rank):
			return RuleGranularity, fmt.Sprintf("the scales of its weights lie along axis %d", k.axis), fmt.Sprintf("output channels lie along axis %d", f.axis(u.n, rank))
		case !slices.Contains(f.Weights, typ+per):
			return RuleGranularity, fmt.Sprintf("%s weights with %s", typ, map[bool]string{true: "a scale for each channel", false: "one scale"}[per != ""]), "use " + strings.Join(f.Weights, ", ")
		case per != "" && !k.symmetric():
			return RuleSymmetry, "weights with a scale for each channel and zero points", "make them symmetric, or give them one scale"
		}
		return "", "", ""
	}
	if len(u.in) > 1 && u.in[1].index == 1 && u.in[1].coding != nil {
		if typ := u.in[1].coding.typ.String(); !slices.Contains(f.With, typ) {
			return RuleType, fmt.Sprintf("its second operand is coded as %s", typ), "use " + strings.Join(f.With, ", ")
		}
		return "", "", ""
	}
	if t, _ := u.typ(); t != "f32" && len(f.Weights) > 0 && u.n.Input(1) != nil && u.n.In[1].Const != nil {
		return RuleWeights, "its weights are floats", "code them too: " + strings.Join(f.Weights, ", ")
	}
	return "", "", ""
}

// bias checks a coded bias.
func (f *Form) bias(u *unit) (rule, reason, nearest string) {
	var weights, bias *coding
	for _, p := range u.fixed {
		switch p.index {
		case 1:
			weights = p.coding
		case 2:
			bias = p.coding
		}
	}
	if bias == nil {
		return "", "", ""
	}
	if typ := bias.typ.String(); len(f.Bias) > 0 && !slices.Contains(f.Bias, typ) {
		return RuleWeights, "a bias of " + typ, "use " + strings.Join(f.Bias, ", ")
	}
	if !f.Product || weights == nil || len(weights.scales) == 0 || len(u.in) == 0 || u.in[0].coding == nil || bias.typ != graph.Int32 || len(u.in[0].coding.scales) != 1 {
		return "", "", ""
	}
	for i, s := range bias.scales {
		w := weights.scales[min(i, len(weights.scales)-1)]
		if want := float64(u.in[0].coding.scales[0]) * float64(w); math.Abs(float64(s)-want) > 1e-3*want {
			return RuleScale, "the scale of its bias is not that of its input times that of its weights", "code the bias with their product"
		}
	}
	return "", "", ""
}

// axis of the output channels of the weights.
func (f *Form) axis(n *graph.Node, rank int) int {
	switch {
	case n.Op == "Gemm" && n.Int("transB", 0) == 0:
		return 1
	case f.Axis < 0:
		return f.Axis + rank
	}
	return f.Axis
}

// text is an attribute as rules spell it, "" when the node has none.
func text(n *graph.Node, name string) string {
	a, ok := n.Attrs[name]
	if !ok {
		return ""
	}
	switch a.Kind {
	case graph.AttrInt:
		return strconv.FormatInt(a.Int, 10)
	case graph.AttrString:
		return a.String
	case graph.AttrFloat:
		return strconv.FormatFloat(float64(a.Float), 'g', -1, 32)
	case graph.AttrInts:
		return strings.Trim(strings.ReplaceAll(fmt.Sprint(a.Ints), " ", ","), "[]")
	}
	return "of another kind"
}
