package qgraph

import (
	"context"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// Dynamic makes layers products of integers whose activations get their range while the network runs
// (DynamicQuantizeLinear, MatMulInteger, ConvInteger): no calibration is needed. Weights have a scale per
// output.
type Dynamic struct {
	// Unsigned stores weights as u8 around 128, which every processor multiplies exactly; without it they
	// are s8. Convolutions are unsigned in any case: runtimes have nothing else.
	Unsigned bool
	// SevenBits holds signed weights to [-64, 63], for processors without VNNI.
	SevenBits bool
	// Convolutions are quantized, too. Runtimes are slow at it.
	Convolutions bool
	Least        int      // weights below which a layer stays float; 0 is 1024
	Keep         Patterns // of nodes that stay float
}

// Apply gives the changed network, whose constants are folded and whose operator set is 11 or newer (see
// Prepare); g stays as it is.
func (d Dynamic) Apply(ctx context.Context, g *graph.Graph) (*graph.Graph, *WeightReport, error) {
	if g.Opset[""] < 11 {
		return nil, nil, &fault.Error{Op: "quantize.dynamic", Err: fault.As(fault.ErrMisuse, fmt.Errorf("operator set %d has no dynamic quantization: 11 has", g.Opset[""]))}
	}
	if err := d.Keep.check(g); err != nil {
		return nil, nil, err
	}
	out, _ := g.Clone()
	r := &WeightReport{}
	b := &builder{g: out, names: map[string]bool{}}
	b.collect(out)
	ranged := map[*graph.Value][3]*graph.Value{} // codes, scale and zero point of an activation
	var nodes []*graph.Node
	for _, n := range out.Nodes {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		l, why := d.layer(n)
		if l == nil {
			if why != "" {
				r.Kept = append(r.Kept, Kept{n.Label(), why})
			}
			nodes = append(nodes, n)
			continue
		}
		made := d.change(b, n, l, ranged)
		nodes = append(nodes, made...)
		r.Changed++
		r.Before += int64(4 * l.w.Elems())
		r.After += int64(l.w.Elems() + 4*l.outs)
	}
	if r.Changed == 0 {
		return nil, nil, &fault.Error{Op: "quantize.dynamic", Err: fault.As(fault.ErrMisuse, fmt.Errorf("no layer has constant float32 weights that are large enough")), Hint: "layers that convolve need ranges from samples: --type uint8 with --calibration"}
	}
	out.Nodes = nodes
	return out, r, out.Check()
}

// layer is the node as a layer, or why it stays float.
func (d Dynamic) layer(n *graph.Node) (*layer, string) {
	if !isOp(n, linearOps...) {
		return nil, ""
	}
	least := d.Least
	if least == 0 {
		least = 1024
	}
	if d.Keep.Match(n) {
		return nil, "asked for"
	}
	l := newLayer(n)
	switch {
	case l == nil:
		return nil, "weights are no constant of float32"
	case n.Op == "ConvTranspose":
		return nil, "there is no integer operator"
	case n.Op == "Conv" && !d.Convolutions:
		return nil, "a convolution"
	case l.w.Elems() < least:
		return nil, "small"
	}
	return l, ""
}

// change makes the nodes that compute a layer on integers. The sums of products come out as int32 and are
// scaled by the activation's scale times that of each output.
func (d Dynamic) change(b *builder, n *graph.Node, l *layer, ranged map[*graph.Value][3]*graph.Value) []*graph.Node {
	var nodes []*graph.Node
	base, x := n.In[1].Name, n.In[0]
	value := func(name string, typ graph.DType) *graph.Value {
		return &graph.Value{Name: b.fresh(name), Type: typ}
	}
	add := func(kind, op string, out *graph.Value, attrs map[string]graph.Attr, in ...*graph.Value) *graph.Value {
		nodes = append(nodes, &graph.Node{Name: b.fresh(n.Name + "_" + kind), Op: op, In: in, Out: []*graph.Value{out}, Attrs: attrs})
		return out
	}
	a, ok := ranged[x]
	if !ok {
		a = [3]*graph.Value{value(x.Name+"_q", graph.Uint8), value(x.Name+"_scale", graph.Float32), value(x.Name+"_zero", graph.Uint8)}
		nodes = append(nodes, &graph.Node{Name: b.fresh(x.Name + "_quantize"), Op: "DynamicQuantizeLinear", In: []*graph.Value{x}, Out: a[:]})
		ranged[x] = a
	}
	cfg := Config{SevenBits: d.SevenBits}
	if d.Unsigned || n.Op == "Conv" {
		cfg = Config{Weights: graph.Uint8}
	}
	q := newWeights(l, cfg, 1)
	codes := q.tensor(cfg.weights())
	scales := make([]float32, l.outs)
	shape := []int{l.outs}
	for o := range scales {
		scales[o] = q.scale(o).Scale
	}
	attrs := map[string]graph.Attr{}
	op := "MatMulInteger"
	if n.Op == "Conv" {
		op, attrs = "ConvInteger", n.Attrs
		shape = append([]int{1, l.outs}, slices.Repeat([]int{1}, len(l.w.Shape)-2)...)
	} else if l.transB {
		codes = transposed(codes)
	}
	zero := b.constant(base+"_zero", pack(cfg.weights(), []int32{int32(q.each[0].Zero)}, nil))
	sums := add("product", op, value(n.Out[0].Name+"_sums", graph.Int32), attrs, a[0], b.constant(base+"_q", codes), a[2], zero)
	real := add("cast", "Cast", value(n.Out[0].Name+"_cast", graph.Float32), map[string]graph.Attr{"to": {Kind: graph.AttrInt, Int: int64(graph.Float32)}}, sums)
	scale := add("scales", "Mul", value(base+"_scales", graph.Float32), nil, a[1], b.constant(base+"_scale", graph.From(graph.Float32, scales, shape...)))
	out := n.Out[0]
	bias := n.Input(2)
	if bias != nil {
		out = value(out.Name+"_product", graph.Float32)
	}
	y := add("scale", "Mul", out, nil, real, scale)
	if bias != nil {
		add("bias", "Add", n.Out[0], nil, y, b.constant(bias.Name, graph.From(graph.Float32, append([]float32(nil), l.bias...), shape...)))
	}
	return nodes
}

// transposed is a matrix of bytes with its axes exchanged.
func transposed(t *graph.Tensor) *graph.Tensor {
	rows, cols := t.Shape[0], t.Shape[1]
	out := graph.New(t.Type, cols, rows)
	for r := range rows {
		for c := range cols {
			out.Data[c*rows+r] = t.Data[r*cols+c]
		}
	}
	return out
}
