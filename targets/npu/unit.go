package npu

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// coding is how a value is coded: what QuantizeLinear or DequantizeLinear says.
type coding struct {
	typ    graph.DType
	scales []float32
	zeros  []int64 // nil: all zero
	axis   int
	block  int
	known  bool // scale and zero point are constants of types that can be read
}

// codingOf reads a QuantizeLinear or DequantizeLinear.
func codingOf(n *graph.Node) coding {
	c := coding{axis: n.Int("axis", 1), block: n.Int("block_size", 0), typ: graph.Uint8}
	scale, zero := n.Input(1), n.Input(2)
	switch {
	case n.Op == "DequantizeLinear" && n.Input(0) != nil:
		c.typ = n.In[0].Type
		if n.In[0].Const != nil {
			c.typ = n.In[0].Const.Type
		}
	case zero != nil:
		c.typ = zero.Type
		if zero.Const != nil {
			c.typ = zero.Const.Type
		}
	case n.Has("output_dtype") && n.Int("output_dtype", 0) != 0:
		c.typ = graph.DType(n.Int("output_dtype", 0)) //nolint:gosec // numbered alike, and any number is looked up
	case n.Output(0) != nil && n.Out[0].Type != graph.Undefined:
		c.typ = n.Out[0].Type
	}
	if scale == nil || scale.Const == nil || scale.Const.Type != graph.Float32 {
		return c
	}
	c.scales = graph.Of[float32](scale.Const)
	c.known = true
	if zero == nil {
		return c
	}
	if zero.Const == nil {
		c.known = false
		return c
	}
	c.zeros, c.known = zeros(zero.Const)
	return c
}

// zeros reads zero points; those of 4 bits lie two in a byte.
func zeros(t *graph.Tensor) ([]int64, bool) {
	switch t.Type {
	case graph.Int4, graph.Uint4:
		out := make([]int64, t.Elems())
		if len(t.Data) < t.Type.Bytes(len(out)) {
			return nil, false
		}
		for i := range out {
			v := int64(t.Data[i/2] >> (4 * (i % 2)) & 15)
			if t.Type == graph.Int4 && v > 7 {
				v -= 16
			}
			out[i] = v
		}
		return out, true
	}
	z, err := t.Ints()
	return z, err == nil
}

// sound reports whether every scale is a positive finite number.
func (c *coding) sound() bool {
	for _, s := range c.scales {
		if v := float64(s); !(v > 0) || math.IsInf(v, 0) {
			return false
		}
	}
	return true
}

// middle is the zero point of symmetric codes.
func middle(t graph.DType) int64 {
	switch t {
	case graph.Uint8:
		return 128
	case graph.Uint16:
		return 32768
	case graph.Uint4:
		return 8
	}
	return 0
}

// lowest is the least code of a type.
func lowest(t graph.DType) int64 {
	switch t {
	case graph.Int8:
		return -128
	case graph.Int16:
		return -32768
	case graph.Int4:
		return -8
	}
	return 0
}

// symmetric reports whether all zero points are in the middle.
func (c *coding) symmetric() bool {
	if c.zeros == nil {
		return middle(c.typ) == 0
	}
	return !slices.ContainsFunc(c.zeros, func(z int64) bool { return z != middle(c.typ) })
}

// equal reports whether two values share a scale and zero point.
func (c *coding) equal(d *coding) bool {
	zero := func(x *coding) int64 {
		if len(x.zeros) == 0 {
			return 0
		}
		return x.zeros[0]
	}
	return c.typ == d.typ && len(c.scales) == 1 && len(d.scales) == 1 && c.scales[0] == d.scales[0] && zero(c) == zero(d)
}

// powers reports whether all scales are powers of two.
func (c *coding) powers() bool {
	for _, s := range c.scales {
		if f, _ := math.Frexp(float64(s)); f != .5 {
			return false
		}
	}
	return true
}

// unit is a node with how its inputs and outputs are coded.
type unit struct {
	n *graph.Node
	// in are the inputs that change with the network's input: coded ones have a coding.
	in []port
	// fixed are the constant inputs that are codes.
	fixed []port
	out   []port
}

// port is an input or output of a unit.
type port struct {
	index  int
	v      *graph.Value
	coding *coding // nil: not coded
}

func isCoder(n *graph.Node, op string) bool {
	return n != nil && n.Op == op && (n.Domain == "" || n.Domain == "com.microsoft") && len(n.In) > 1 && n.In[0] != nil
}

// newUnit looks at a node and the coders around it.
func (r *Rules) newUnit(x *graph.Index, n *graph.Node) *unit {
	u := &unit{n: n}
	for i, v := range n.In {
		if v == nil || v.Const != nil {
			continue
		}
		p := port{index: i, v: v}
		if d := x.Producer[v]; isCoder(d, "DequantizeLinear") {
			c := codingOf(d)
			p.coding = &c
			if d.In[0].Const != nil {
				u.fixed = append(u.fixed, p)
				continue
			}
		}
		u.in = append(u.in, p)
	}
	for i, v := range n.Out {
		if v == nil || v.Type != graph.Float32 && v.Type != graph.Undefined {
			continue
		}
		p := port{index: i, v: v}
		p.coding = codedBy(x, v)
		if c := clampOf(x, n); p.coding == nil && c != nil && i == 0 {
			if k := codedBy(x, c.Out[0]); k != nil && r.ends(c, k) {
				p.coding = k // the clamp is what the codes' end does
			}
		}
		u.out = append(u.out, p)
	}
	return u
}

// codedBy is the coding of a value that nobody but a QuantizeLinear reads, or nil.
func codedBy(x *graph.Index, v *graph.Value) *coding {
	q := x.Only(v)
	if !isCoder(q, "QuantizeLinear") || q.In[0] != v {
		return nil
	}
	c := codingOf(q)
	return &c
}

// clampOf is the Relu or Clip that alone reads the result of a node, or nil.
func clampOf(x *graph.Index, n *graph.Node) *graph.Node {
	if n.Output(0) == nil {
		return nil
	}
	c := x.Only(n.Out[0])
	if c == nil || c.Op != "Relu" && c.Op != "Clip" || c.In[0] != n.Out[0] || c.Output(0) == nil {
		return nil
	}
	return c
}

// ends reports whether a Relu or Clip becomes part of the layer before it.
func (r *Rules) ends(n *graph.Node, k *coding) bool { return r.Clamps || ends(n, k) }

// ends reports whether codes can hold nothing that a Relu or Clip would cut.
func ends(n *graph.Node, k *coding) bool {
	if !k.known || len(k.scales) != 1 {
		return false
	}
	zero := int64(0)
	if len(k.zeros) > 0 {
		zero = k.zeros[0]
	}
	low := lowest(k.typ)
	high := low + int64(1)<<k.typ.Bits() - 1
	least, most := float64(low-zero)*float64(k.scales[0]), float64(high-zero)*float64(k.scales[0])
	if n.Op == "Relu" {
		return least >= 0
	}
	const slack = 1e-3 // a bound of 6 and 255 steps of 6/255 are the same
	lo, cuts := bound(n, 1, "min")
	if cuts && least < lo-slack {
		return false
	}
	hi, cuts := bound(n, 2, "max")
	return !cuts || most <= hi*(1+slack)
}

// bound of a Clip, by input or attribute; cuts is false when there is none. What is not known cuts anywhere.
func bound(n *graph.Node, i int, attr string) (at float64, cuts bool) {
	v := n.Input(i)
	switch {
	case v == nil && n.Has(attr):
		return float64(n.Float(attr, 0)), true
	case v == nil:
		return 0, false
	case v.Const != nil && v.Const.Type == graph.Float32 && v.Const.Elems() == 1 && len(v.Const.Data) >= 4:
		return float64(graph.Of[float32](v.Const)[0]), true
	}
	return math.NaN(), true
}

// typ is what the node computes on. whole is false when some of it is coded and some is not, or in several
// types: then it computes on floats.
func (u *unit) typ() (typ string, whole bool) {
	coded, floats := "", false
	mixed := false
	look := func(ports []port) {
		for _, p := range ports {
			switch {
			case p.coding != nil && coded != "" && coded != p.coding.typ.String():
				mixed = true
			case p.coding != nil:
				coded = p.coding.typ.String()
			case p.v.Type == graph.Float32:
				floats = true
			}
		}
	}
	look(u.in[:min(1, len(u.in))])
	look(u.out)
	second := coded
	look(u.in[min(1, len(u.in)):])
	if coded != "" && !floats && !mixed {
		return coded, true
	}
	if coded != "" && !floats && len(u.in) == 2 && u.n.Op == "MatMul" && u.in[0].coding != nil { // two codes, each in its type
		first := u.in[0].coding.typ.String()
		if len(u.out) == 1 && u.out[0].coding != nil && u.out[0].coding.typ.String() == first && second == first {
			return first, true
		}
	}
	if coded != "" {
		return "f32", false
	}
	elem := graph.Undefined // floats before what decides among them
	for _, v := range u.n.In {
		if v != nil && (elem == graph.Undefined || v.Type.Float() && !elem.Float()) {
			elem = v.Type
		}
	}
	if elem == graph.Undefined {
		elem = graph.Float32
	}
	return elem.String(), true
}
