package qgraph

import (
	"strconv"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/ir/graph"
)

// builder writes the quantized network: a clone of the float one with Q and DQ nodes.
type builder struct {
	p      *placement
	g      *graph.Graph
	values map[*graph.Value]*graph.Value // of the float network -> of the clone
	nodes  map[*graph.Node]*graph.Node
	names  map[string]bool
	front  map[*graph.Node][]*graph.Node // nodes to go before one of the clone
	after  map[*graph.Node][]*graph.Node
	first  []*graph.Node // and before all of them
	// decoded is the value that readers of codes read, by the value of the float network.
	decoded map[*graph.Value]*graph.Value
	shared  map[string]*graph.Value // scales and zero points that several nodes use
}

// build makes the quantized network of a placement.
func build(p *placement, scales map[*graph.Value]calib.Affine, codes map[*graph.Node]*weights) *builder {
	b := &builder{
		p: p, names: map[string]bool{}, front: map[*graph.Node][]*graph.Node{}, after: map[*graph.Node][]*graph.Node{},
		decoded: map[*graph.Value]*graph.Value{}, nodes: map[*graph.Node]*graph.Node{}, shared: map[string]*graph.Value{},
	}
	b.g, b.values = p.g.Clone()
	for i, n := range p.g.Nodes {
		b.nodes[n] = b.g.Nodes[i]
	}
	b.collect(b.g)
	for _, v := range p.coded {
		b.encode(v, scales[p.head(v)])
	}
	for _, n := range p.g.Nodes {
		m := b.nodes[n]
		switch p.form[n] {
		case formLinear:
			if codes[n] != nil {
				b.weights(n, codes[n], scales[p.head(n.In[0])].Scale)
			}
		case formPoint:
			for i, v := range n.In {
				if v != nil && v.Const != nil && v.Const.Type == graph.Float32 && i < 2 && !isOp(n, "Resize", "Clip", "PRelu", "ReduceMean") {
					b.operand(m, i, v)
				}
			}
		case formFloat:
			if p.cfg.Recurrent && isOp(n, "LSTM", "GRU", "RNN") {
				b.recurrent(m)
			}
		}
	}
	var nodes []*graph.Node
	nodes = append(nodes, b.first...)
	for _, n := range b.g.Nodes {
		nodes = append(nodes, b.front[n]...)
		nodes = append(nodes, n)
		nodes = append(nodes, b.after[n]...)
	}
	b.g.Nodes = nodes
	return b
}

func (b *builder) collect(g *graph.Graph) {
	for _, v := range g.Inputs {
		b.names[v.Name] = true
	}
	for _, n := range g.Nodes {
		b.names[n.Name] = true
		for _, list := range [][]*graph.Value{n.In, n.Out} {
			for _, v := range list {
				if v != nil {
					b.names[v.Name] = true
				}
			}
		}
		for _, sub := range n.Graphs() {
			b.collect(sub)
		}
	}
}

func (b *builder) fresh(name string) string {
	base := name
	for i := 1; b.names[name]; i++ {
		name = base + "_" + strconv.Itoa(i)
	}
	b.names[name] = true
	return name
}

func (b *builder) constant(name string, t *graph.Tensor) *graph.Value {
	return &graph.Value{Name: b.fresh(name), Type: t.Type, Shape: graph.Fixed(t.Shape...), Const: t}
}

// encode puts a Q and a DQ behind a value, and makes its readers read what comes out.
func (b *builder) encode(old *graph.Value, a calib.Affine) {
	v := b.values[old]
	typ := b.p.cfg.activations()
	scale, zero := affineTensors(typ, []calib.Affine{a}, false)
	base := old.Name
	s, z := b.constant(base+"_scale", scale), b.constant(base+"_zero", zero)
	codes := &graph.Value{Name: b.fresh(base + "_q"), Type: typ, Shape: v.Shape}
	out := &graph.Value{Name: b.fresh(base + "_dq"), Type: graph.Float32, Shape: v.Shape}
	q := &graph.Node{Name: b.fresh(base + "_quantize"), Op: "QuantizeLinear", In: []*graph.Value{v, s, z}, Out: []*graph.Value{codes}}
	dq := &graph.Node{Name: b.fresh(base + "_dequantize"), Op: "DequantizeLinear", In: []*graph.Value{codes, s, z}, Out: []*graph.Value{out}}
	producer := b.p.x.Producer[old]
	if producer == nil {
		// An input of the network: who computes with floats goes on reading it.
		for n, m := range b.nodes {
			if f := b.p.form[n]; f != formFloat {
				swap(m.In, v, out)
			}
		}
		b.first = append(b.first, q, dq)
	} else {
		outputs := append([]*graph.Value(nil), b.g.Outputs...)
		b.g.Replace(v, out)
		if b.p.x.Output[old] {
			if b.p.cfg.Everything {
				v.Name, out.Name = out.Name, v.Name
			} else {
				b.g.Outputs = outputs
			}
		}
		m := b.nodes[producer]
		b.after[m] = append(b.after[m], q, dq)
	}
	b.decoded[old] = out
}

// replace changes the codes of a layer in a network that was built, bias included.
func (b *builder) replace(n *graph.Node, q *weights, in float32) {
	m := b.nodes[n]
	made := map[*graph.Value]*graph.Node{}
	for _, d := range b.g.Nodes {
		if isOp(d, "DequantizeLinear") {
			made[d.Out[0]] = d
		}
	}
	made[m.In[1]].In[0].Const = q.tensor(b.p.cfg.weights())
	if dq := made[m.Input(2)]; dq != nil {
		codes, _ := q.biasCodes(in)
		dq.In[0].Const = pack(graph.Int32, codes, []int{len(codes)})
	}
}

func swap(list []*graph.Value, old, other *graph.Value) {
	for i, v := range list {
		if v == old {
			list[i] = other
		}
	}
}

// weights puts the codes of a layer in the place of its constants.
func (b *builder) weights(n *graph.Node, q *weights, in float32) {
	m, cfg := b.nodes[n], b.p.cfg
	base := n.In[1].Name
	b.store(m, 1, base, cfg.weights(), q.tensor(cfg.weights()), q.each, len(q.each) > 1 || !cfg.PerTensor, q.l.axis)
	// A layer without a bias gets one where rounding may want it.
	if !q.l.hasBias() || n.Input(2) == nil && b.p.cfg.NoBias {
		return
	}
	name := base + "_bias"
	if v := n.Input(2); v != nil {
		name = v.Name
	}
	codes, scales := q.biasCodes(in)
	vector := true
	if cfg.PerTensor {
		scales, vector = scales[:1], false
	}
	for len(m.In) < 3 {
		m.In = append(m.In, nil)
	}
	b.store(m, 2, name, graph.Int32, pack(graph.Int32, codes, []int{len(codes)}), scales, vector, 0)
}

// store makes input i of a node the decoded form of a constant of codes.
func (b *builder) store(m *graph.Node, i int, base string, typ graph.DType, codes *graph.Tensor, each []calib.Affine, vector bool, axis int) {
	scale, zero := affineTensors(typ, each, vector)
	out := &graph.Value{Name: b.fresh(base + "_dq"), Type: graph.Float32, Shape: graph.Fixed(codes.Shape...)}
	dq := &graph.Node{
		Name: b.fresh(base + "_dequantize"), Op: "DequantizeLinear",
		In:  []*graph.Value{b.constant(base+"_q", codes), b.constant(base+"_scale", scale), b.constant(base+"_zero", zero)},
		Out: []*graph.Value{out},
	}
	if vector {
		dq.Attrs = map[string]graph.Attr{"axis": {Kind: graph.AttrInt, Int: int64(axis)}}
	}
	m.In[i] = out
	b.front[m] = append(b.front[m], dq)
}

// operand makes codes of a constant that is added or multiplied, over its own range.
func (b *builder) operand(m *graph.Node, i int, v *graph.Value) {
	grid := b.p.cfg.activationGrid()
	var lo, hi float64
	x := graph.Of[float32](v.Const)
	for _, e := range x {
		lo, hi = min(lo, float64(e)), max(hi, float64(e))
	}
	a := grid.Affine(lo, hi)
	codes := make([]int32, len(x))
	for k, e := range x {
		codes[k] = int32(grid.Quantize(a, e))
	}
	typ := b.p.cfg.activations()
	b.store(m, i, v.Name, typ, pack(typ, codes, v.Const.Shape), []calib.Affine{a}, false, 0)
}

// recurrent stores the weights of an LSTM, GRU or RNN, W and R of [directions, gates*hidden, in], as 8-bit
// codes with a scale per gate and unit. The network expands them before it computes with floats.
func (b *builder) recurrent(m *graph.Node) {
	for i := 1; i <= 2; i++ {
		v := m.Input(i)
		if v == nil || v.Const == nil || v.Const.Type != graph.Float32 || len(v.Const.Shape) != 3 || v.Const.Shape[0] != 1 {
			continue
		}
		rows, cols := v.Const.Shape[1], v.Const.Shape[2]
		grid := calib.Int8Sym
		x := graph.Of[float32](v.Const)
		each, codes := make([]calib.Affine, rows), make([]int32, len(x))
		for r := range rows {
			row := x[r*cols : (r+1)*cols]
			each[r], _ = bestScale(grid, row)
			for c, e := range row {
				codes[r*cols+c] = int32(grid.Quantize(each[r], e))
			}
		}
		b.store(m, i, v.Name, graph.Int8, pack(graph.Int8, codes, v.Const.Shape), each, true, 1)
	}
}

// bestScale is the scale of least squared error for a row, and that error.
func bestScale(grid calib.Grid, row []float32) (calib.Affine, float64) {
	var lo, hi float64
	for _, v := range row {
		lo, hi = min(lo, float64(v)), max(hi, float64(v))
	}
	var best calib.Affine
	least := -1.0
	for k := range 20 {
		f := 1 - 0.02*float64(k)
		a := grid.Affine(lo*f, hi*f)
		var sum float64
		for _, v := range row {
			d := float64(v - a.Dequantize(grid.Quantize(a, v)))
			sum += float64(d * d)
		}
		if least < 0 || sum < least {
			best, least = a, sum
		}
	}
	return best, least
}
