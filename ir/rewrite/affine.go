package rewrite

import (
	"math"

	"github.com/pare-dev/pare/ir/graph"
)

// affine folds y = x*scale + shift, with constants per channel, into the layer that makes x. Batch
// normalization is such a map, as is adding a bias or multiplying by a gain.
func (c *rewriter) affine() (int, error) {
	changed := 0
	for _, n := range c.g.Nodes {
		if c.gone[n] || n.Domain != "" {
			continue
		}
		if n.Op == "Gemm" && c.factors(n) {
			changed++
			continue
		}
		for i, x := range n.In {
			if x == nil || x.Const != nil || i > 1 {
				continue
			}
			layer := c.x.Producer[x]
			if !is(layer, "Conv", "ConvTranspose", "Gemm", "MatMul") || c.gone[layer] || c.x.Only(x) != n || len(layer.Out) != 1 {
				continue
			}
			if c.fold(layer, n, i) {
				changed++
				break
			}
		}
	}
	return changed, nil
}

// factors moves alpha and beta of a Gemm into its constants.
func (c *rewriter) factors(n *graph.Node) bool {
	alpha, beta := n.Float("alpha", 1), n.Float("beta", 1)
	if alpha == 1 && (beta == 1 || n.Input(2) == nil) {
		return false
	}
	l, ok := c.linear(n)
	if !ok {
		return false
	}
	scale := make([]float64, l.out)
	for i := range scale {
		scale[i] = float64(alpha)
	}
	w := l.scaled(scale)
	if !finite(graph.Of[float32](w)) || !finite(l.bias) {
		return false
	}
	if w != l.w {
		c.read(n, 1, c.constant(n.In[1].Name, w))
	}
	if n.Input(2) != nil {
		c.read(n, 2, c.constant(biasName(n), graph.From(graph.Float32, l.bias, l.out)))
	}
	delete(n.Attrs, "alpha")
	delete(n.Attrs, "beta")
	return true
}

// layer is a linear operator with its weights.
type layer struct {
	n      *graph.Node
	w      *graph.Tensor
	out    int // output channels
	bias   []float32
	groups int // of ConvTranspose
}

// linear reads the weights of a layer that are constant and float32.
func (c *rewriter) linear(n *graph.Node) (*layer, bool) {
	l := &layer{n: n, w: c.known(n.Input(1))}
	if l.w == nil || l.w.Type != graph.Float32 || l.w.Fill != nil || len(l.w.Shape) < 2 || l.w.Elems() == 0 {
		return nil, false
	}
	switch n.Op {
	case "Conv":
		l.out = l.w.Shape[0]
	case "ConvTranspose":
		l.groups = max(n.Int("group", 1), 1)
		l.out = l.w.Shape[1] * l.groups
		if l.w.Shape[0]%l.groups != 0 {
			return nil, false
		}
	case "Gemm":
		if len(l.w.Shape) != 2 {
			return nil, false
		}
		l.out = l.w.Shape[1]
		if n.Int("transB", 0) != 0 {
			l.out = l.w.Shape[0]
		}
	case "MatMul":
		if len(l.w.Shape) != 2 {
			return nil, false
		}
		l.out = l.w.Shape[1]
	}
	l.bias = make([]float32, l.out)
	if n.Op == "MatMul" || n.Input(2) == nil {
		return l, true
	}
	b := c.known(n.In[2])
	if b == nil {
		return nil, false
	}
	each, ok := perChannel(b, l.out, len(b.Shape)-1, len(b.Shape))
	if !ok {
		return nil, false
	}
	beta := float32(1)
	if n.Op == "Gemm" {
		beta = n.Float("beta", 1)
	}
	for i, v := range each {
		l.bias[i] = v * beta
	}
	return l, true
}

// fold puts the map of node m, which reads the layer's output as input side, into the layer.
func (c *rewriter) fold(n, m *graph.Node, side int) bool {
	l, ok := c.linear(n)
	if !ok {
		return false
	}
	scale, shift, ok := c.affineOf(m, side, l)
	if !ok {
		return false
	}
	bias, any := make([]float32, l.out), false
	for i := range bias {
		bias[i] = float32(float64(l.bias[i])*scale[i] + shift[i])
		any = any || bias[i] != 0
	}
	if n.Op == "MatMul" && any {
		if rank(n.In[0]) != 2 {
			return false // there is no bias for stacks of matrices
		}
		n.Op, n.Attrs = "Gemm", map[string]graph.Attr{}
	}
	if n.Op == "Gemm" && n.Float("alpha", 1) != 1 {
		return false // factors comes first
	}
	w := l.scaled(scale)
	if !finite(bias) || !finite(graph.Of[float32](w)) {
		return false
	}
	if w != l.w {
		c.read(n, 1, c.constant(n.In[1].Name, w))
	}
	if any || n.Input(2) != nil {
		c.read(n, 2, c.constant(biasName(n), graph.From(graph.Float32, bias, l.out)))
		delete(n.Attrs, "beta")
	}
	c.takeOver(n, m)
	return true
}

func biasName(n *graph.Node) string {
	if v := n.Input(2); v != nil {
		return v.Name
	}
	return n.In[1].Name + "_bias"
}

// scaled are the weights with every output channel multiplied, the same tensor when nothing changes.
func (l *layer) scaled(scale []float64) *graph.Tensor {
	same := true
	for _, s := range scale {
		same = same && s == 1
	}
	if same {
		return l.w
	}
	src, out := graph.Of[float32](l.w), graph.New(graph.Float32, l.w.Shape...)
	dst := graph.Of[float32](out)
	for i := range dst {
		dst[i] = float32(float64(src[i]) * scale[l.channel(i)])
	}
	return out
}

// channel is the output channel that weight i belongs to.
func (l *layer) channel(i int) int {
	s := l.w.Shape
	switch {
	case l.n.Op == "ConvTranspose": // [in, out/groups, ...]
		inner := graph.Elems(s[2:])
		in := i / (inner * s[1])
		return in/(s[0]/l.groups)*s[1] + i/inner%s[1]
	case l.n.Op == "Conv", l.n.Op == "Gemm" && l.n.Int("transB", 0) != 0:
		return i / graph.Elems(s[1:])
	}
	return i % s[1] // [in, out]
}

// affineOf reads a node as a map per channel of its input side.
func (c *rewriter) affineOf(m *graph.Node, side int, l *layer) (scale, shift []float64, ok bool) {
	scale, shift = make([]float64, l.out), make([]float64, l.out)
	for i := range scale {
		scale[i] = 1
	}
	if m.Op == "BatchNormalization" {
		return scale, shift, side == 0 && c.batchNorm(m, scale, shift)
	}
	if !is(m, "Add", "Sub", "Mul", "Div") || len(m.In) != 2 {
		return nil, nil, false
	}
	t := c.known(m.In[1-side])
	if t == nil || side == 1 && m.Op == "Div" {
		return nil, nil, false
	}
	// Channels of a convolution are axis 1 of its output, those of a product the last.
	dims, axis := len(l.w.Shape), 1
	if is(l.n, "Gemm", "MatMul") {
		axis = dims - 1
		if l.n.Op == "MatMul" {
			// A vector's product has one dimension; of unknown ones, that many are certain.
			dims = max(rank(l.n.In[0]), 1)
			axis = dims - 1
		}
	}
	if len(t.Shape) > dims {
		return nil, nil, false // the result has more dimensions than the layer's
	}
	each, ok := perChannel(t, l.out, axis-(dims-len(t.Shape)), len(t.Shape))
	if !ok {
		return nil, nil, false
	}
	for i, v := range each {
		k := float64(v)
		switch m.Op {
		case "Add":
			shift[i] = k
		case "Mul":
			scale[i] = k
		case "Div":
			scale[i] = 1 / k
		case "Sub":
			if shift[i] = -k; side == 1 {
				scale[i], shift[i] = -1, k
			}
		}
	}
	return scale, shift, true
}

// batchNorm is y = (x-mean)*gain/sqrt(variance+epsilon) + beta, in double precision. One that trains, or
// that keeps statistics per element (opset 8 and before), is left alone.
func (c *rewriter) batchNorm(m *graph.Node, scale, shift []float64) bool {
	if len(m.In) != 5 || m.Int("training_mode", 0) != 0 || m.Int("spatial", 1) != 1 || !c.alone(m) {
		return false
	}
	var p [4][]float32
	for i := range p {
		t := c.known(m.In[i+1])
		if t == nil || t.Type != graph.Float32 || t.Elems() != len(scale) {
			return false
		}
		p[i] = graph.Of[float32](t)
	}
	eps := float64(m.Float("epsilon", 1e-5))
	for i := range scale {
		scale[i] = float64(p[0][i]) / math.Sqrt(float64(p[3][i])+eps)
		shift[i] = float64(p[1][i]) - float64(p[2][i])*scale[i]
	}
	return true
}

// perChannel reads a tensor that is constant along all axes but one: channels values, or one for all.
func perChannel(t *graph.Tensor, channels, axis, dims int) ([]float32, bool) {
	if t.Type != graph.Float32 || t.Fill != nil {
		return nil, false
	}
	x := graph.Of[float32](t)
	out := make([]float32, channels)
	if len(x) == 1 {
		for i := range out {
			out[i] = x[0]
		}
		return out, true
	}
	if len(x) != channels || axis < 0 || axis >= dims || t.Shape[axis] != channels {
		return nil, false
	}
	copy(out, x)
	return out, true
}
