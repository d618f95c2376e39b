package qgraph

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// layer is a linear operator with constant weights: what quantization is about. Seen as matrices, it has
// groups of outputs; each output is a row of cols weights that meets as many elements of the input.
type layer struct {
	n      *graph.Node
	w      *graph.Tensor // float32
	bias   []float32     // per output; zeros where the node has none
	op     string
	groups int
	outs   int // outputs of all groups
	cols   int // weights of an output
	// axis of the weights along which outputs lie; scales of a ConvTranspose with groups are shared by
	// outputs at the same place of each group.
	axis   int
	transB bool
}

// newLayer reads a node as a layer; nil when it is none that can be quantized.
func newLayer(n *graph.Node) *layer {
	if n.Domain != "" || len(n.In) < 2 || n.In[0] == nil || n.In[1] == nil || n.In[1].Const == nil || n.Output(0) == nil {
		return nil
	}
	w := n.In[1].Const
	if w.Type != graph.Float32 || w.Fill != nil || len(w.Shape) < 2 || w.Elems() == 0 || n.In[0].Const != nil {
		return nil
	}
	l := &layer{n: n, w: w, op: n.Op, groups: 1}
	s := w.Shape
	switch n.Op {
	case "Conv":
		l.groups = n.Int("group", 1)
		l.outs, l.cols = s[0], graph.Elems(s[1:])
	case "ConvTranspose":
		l.groups = n.Int("group", 1)
		if l.groups < 1 || s[0]%l.groups != 0 {
			return nil
		}
		l.axis, l.outs, l.cols = 1, s[1]*l.groups, s[0]/l.groups*graph.Elems(s[2:])
	case "Gemm":
		if len(s) != 2 || n.Int("transA", 0) != 0 || n.Float("alpha", 1) != 1 || n.Float("beta", 1) != 1 {
			return nil // rewrite.Simplify moves factors into the constants
		}
		l.transB = n.Int("transB", 0) != 0
		l.axis, l.outs, l.cols = 1, s[1], s[0]
		if l.transB {
			l.axis, l.outs, l.cols = 0, s[0], s[1]
		}
	case "MatMul":
		if len(s) != 2 {
			return nil
		}
		l.axis, l.outs, l.cols = 1, s[1], s[0]
	default:
		return nil
	}
	if l.groups < 1 || l.outs%l.groups != 0 || !l.readBias() {
		return nil
	}
	return l
}

func (l *layer) readBias() bool {
	l.bias = make([]float32, l.outs)
	b := l.n.Input(2)
	if b == nil {
		return true
	}
	if b.Const == nil || b.Const.Type != graph.Float32 {
		return false
	}
	x := graph.Of[float32](b.Const)
	if len(x) != l.outs && len(x) != 1 || len(x) == l.outs && len(b.Const.Shape) > 1 && b.Const.Shape[len(b.Const.Shape)-1] != l.outs {
		return false
	}
	for i := range l.bias {
		l.bias[i] = x[i%len(x)]
	}
	return true
}

// hasBias reports whether the operator can carry a bias.
func (l *layer) hasBias() bool { return l.op != "MatMul" }

// row copies the weights of an output, in the order in which a patch of the input meets them: input channel,
// then place in the kernel.
func (l *layer) row(dst []float32, out int) {
	w := graph.Of[float32](l.w)
	l.each(out, func(col, at int) { dst[col] = w[at] })
}

// each calls fn with every column of an output and where its weight lies.
func (l *layer) each(out int, fn func(col, at int)) {
	switch {
	case l.op == "Conv" || l.transB:
		for c := range l.cols {
			fn(c, out*l.cols+c)
		}
	case l.op == "ConvTranspose": // [in, outs/groups, kernel]
		per := l.w.Shape[1]
		kernel := graph.Elems(l.w.Shape[2:])
		first := out / per * (l.w.Shape[0] / l.groups)
		for c := range l.cols {
			in, k := c/kernel, c%kernel
			fn(c, ((first+in)*per+out%per)*kernel+k)
		}
	default: // [in, outs]
		for c := range l.cols {
			fn(c, c*l.outs+out)
		}
	}
}

// inputs is the number of input channels of the layer.
func (l *layer) inputs() int {
	if l.op == "ConvTranspose" {
		return l.w.Shape[0]
	}
	return l.cols / l.kernel() * l.groups
}

// kernel is the number of weights between an input channel and an output.
func (l *layer) kernel() int {
	if l.op == "Conv" || l.op == "ConvTranspose" {
		return graph.Elems(l.w.Shape[2:])
	}
	return 1
}

// input is the input channel of a column of an output.
func (l *layer) input(out, col int) int {
	per := l.outs / l.groups
	return out/per*(l.inputs()/l.groups) + col/l.kernel()
}

// scales is the number of scales that per-channel quantization gives the weights, and scaleOf the one of an
// output.
func (l *layer) scales() int { return l.w.Shape[l.axis] }

func (l *layer) scaleOf(out int) int { return out % l.scales() }

// linearOps are the operators that layers can be.
var linearOps = []string{"Conv", "ConvTranspose", "Gemm", "MatMul"}

func isOp(n *graph.Node, ops ...string) bool {
	return n != nil && n.Domain == "" && slices.Contains(ops, n.Op)
}
