package channels

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// layer is an operator with weights: its outputs are new channels, its inputs come together in each of them.
type layer struct {
	n       *graph.Node
	in, out []int // ids of the channels that it reads and makes; in is nil where they are not followed
	// own is said of depthwise layers: each output is made of one input and is of its unit.
	own    bool
	groups int
	// outAxis and inAxis are those of the weights.
	outAxis, inAxis int
}

// conv follows Conv and ConvTranspose.
func (t *tracer) conv(n *graph.Node) string {
	x, w, bias := n.In[0], n.Input(1), n.Input(2)
	in := t.at[x]
	if !weights(w) || rank(w) < 3 || rank(x) != rank(w) || in != nil && in.axis != 1 {
		return "has weights or inputs of an unusual form"
	}
	l := &layer{n: n, groups: n.Int("group", 1), outAxis: 0, inAxis: 1}
	s := w.Const.Shape
	if l.groups < 1 || s[0]%l.groups != 0 {
		return whyShapes
	}
	inputs, outputs := s[1]*l.groups, s[0]
	if n.Op == "ConvTranspose" {
		l.outAxis, l.inAxis = 1, 0
		inputs, outputs = s[0], s[1]*l.groups
	}
	if bias != nil && !cuttable(bias, 0, outputs) || in != nil && len(in.ids) != inputs || size(n.Out[0], 1) != outputs {
		return whyShapes
	}
	per := inputs / l.groups
	switch {
	case l.groups > 1 && per == 1:
		if in == nil {
			return "" // a channel of its own for each input, and those stay
		}
		l.own, l.in = true, in.ids
		for o := range outputs {
			l.out = append(l.out, in.ids[o/(outputs/inputs)])
		}
	default:
		l.out = t.u.fresh(outputs)
		if in != nil {
			l.in = in.ids
		}
		t.tie(l.out, l.groups)
		t.tie(l.in, l.groups)
	}
	t.layers = append(t.layers, l)
	t.at[n.Out[0]] = &label{1, l.out}
	t.edit(func(k *keeper) {
		// Channels of a group are those of the first: they are tied to those of the others.
		first := func(ids []int) []int { return ids[:len(ids)/l.groups] }
		switch {
		case l.own && n.Op == "Conv":
			k.cut(n, 1, 0, l.out)
		case l.own:
			k.cut(n, 1, 0, l.in)
		case n.Op == "Conv":
			k.cut(n, 1, 0, l.out)
			if l.in != nil {
				k.cut(n, 1, 1, first(l.in))
			}
		default:
			k.cut(n, 1, 1, first(l.out))
			if l.in != nil {
				k.cut(n, 1, 0, l.in)
			}
		}
		if bias != nil {
			k.cut(n, 2, 0, l.out)
		}
		if l.own {
			n.Attrs["group"] = graph.Attr{Kind: graph.AttrInt, Int: int64(len(k.list(l.in)))}
		}
	})
	return ""
}

// tie joins the channels at the same place of every group, so that groups stay equally large.
func (t *tracer) tie(ids []int, groups int) {
	per := len(ids) / groups
	for i, id := range ids {
		t.u.join(id, ids[i%max(per, 1)])
	}
}

// weights reports whether a value is a constant matrix, or stack of matrices, of float32.
func weights(v *graph.Value) bool {
	return v != nil && v.Const != nil && v.Const.Type == graph.Float32 && rank(v) >= 2 && cuttable(v, 0, v.Const.Shape[0])
}

// product follows Gemm, and MatMul by a matrix of weights.
func (t *tracer) product(n *graph.Node) string {
	x, w := n.In[0], n.Input(1)
	in := t.at[x]
	if !weights(w) || rank(w) != 2 {
		return "is a product of computed matrices"
	}
	l := &layer{n: n, groups: 1, outAxis: 1, inAxis: 0}
	if n.Op == "Gemm" && n.Int("transB", 0) != 0 {
		l.outAxis, l.inAxis = 0, 1
	}
	outputs, inputs := w.Const.Shape[l.outAxis], w.Const.Shape[l.inAxis]
	r := rank(n.Out[0])
	if r < 1 || size(n.Out[0], r-1) != outputs || n.Op == "Gemm" && n.Int("transA", 0) != 0 {
		return whyShapes
	}
	if in != nil && (in.axis != rank(x)-1 || len(in.ids) != inputs) {
		return "meets its weights along another axis"
	}
	bias := n.Input(2)
	if bias != nil && (bias.Const == nil || bias.Const.Type != graph.Float32 || rank(bias) > 0 && size(bias, rank(bias)-1) != 1 && !cuttable(bias, rank(bias)-1, outputs)) {
		return "adds what is computed"
	}
	l.out = t.u.fresh(outputs)
	if in != nil {
		l.in = in.ids
	}
	t.layers = append(t.layers, l)
	t.at[n.Out[0]] = &label{r - 1, l.out}
	t.edit(func(k *keeper) {
		k.cut(n, 1, l.outAxis, l.out)
		if l.in != nil {
			k.cut(n, 1, l.inAxis, l.in)
		}
		if a := rank(bias) - 1; a >= 0 && size(bias, a) != 1 {
			k.cut(n, 2, a, l.out)
		}
	})
	return ""
}

// columns are the places of a unit among the inputs of a layer.
func (l *layer) columns(u *units) map[int][]int {
	of := map[int][]int{}
	for i, id := range l.in {
		r := u.root(id)
		of[r] = append(of[r], i)
	}
	return of
}

// each calls f with every weight: the output and the input that it stands between, its place in the kernel and in
// the tensor.
func (l *layer) each(f func(out, in, tap, at int, w float32)) {
	w := l.n.In[1].Const
	s := w.Shape
	taps := graph.Elems(s[2:])
	for i, v := range graph.Of[float32](w) {
		first, second := i/taps/s[1], i/taps%s[1]
		if l.outAxis == 0 { // [outputs, inputs of a group]
			f(first, second+first/(s[0]/l.groups)*s[1], i%taps, i, v)
		} else { // [inputs, outputs of a group]
			f(second+first/(s[0]/l.groups)*s[1], first, i%taps, i, v)
		}
	}
}

// energy is the sum of f over the weights of each output, and of each input, of the layer.
func (l *layer) energy(f func(w float64) float64) (out, in []float64) {
	s := l.n.In[1].Const.Shape
	out, in = make([]float64, s[l.outAxis]), make([]float64, s[l.inAxis])
	if l.outAxis == 0 {
		in = make([]float64, s[1]*l.groups)
	} else {
		out = make([]float64, s[1]*l.groups)
	}
	l.each(func(o, c, _, _ int, w float32) {
		e := f(float64(w))
		out[o] += e
		in[c] += e
	})
	return out, in
}

// cuttable reports whether a value is a constant whose elements lie in memory, with so many along an axis.
func cuttable(v *graph.Value, axis, n int) bool {
	return v != nil && v.Const != nil && v.Const.Fill == nil && v.Const.Data != nil && v.Const.Type != graph.String &&
		v.Const.Type.Bytes(1)*v.Const.Elems() == len(v.Const.Data) && size(v, axis) == n && !slices.Contains(v.Const.Shape, 0)
}
