package eval

import (
	"fmt"

	"github.com/pare-dev/pare/ir/graph"
)

// Operators that ONNX Runtime's optimizer and quantizer make of several: they are taken apart again.
func init() {
	for name, op := range map[string]struct {
		inputs int
		fn     func(p *parts) error
	}{
		"FusedMatMul":             {2, fusedMatMul},
		"FusedGemm":               {2, func(p *parts) error { return activated(p, "Gemm", -1) }},
		"FusedConv":               {2, func(p *parts) error { return activated(p, "Conv", 3) }},
		"QGemm":                   {6, qGemm},
		"MatMulIntegerToFloat":    {4, matMulIntegerToFloat},
		"DynamicQuantizeMatMul":   {3, dynamicQuantizeMatMul},
		"QLinearAveragePool":      {4, qLinearAveragePool},
		"QLinearSoftmax":          {4, qLinearSoftmax},
		"QLinearWhere":            {8, qLinearWhere},
		"QLinearConv":             {8, nhwcQLinearConv},
		"NhwcMaxPool":             {1, nhwcMaxPool},
		"EmbedLayerNormalization": {1, embedLayerNorm},
		"DynamicQuantizeLSTM":     {3, dynamicQuantizeLSTM},
	} {
		register(Op{Domain: msDomain, Name: name, Inputs: op.inputs, Parts: op.fn})
	}
	register(Op{Name: "SimplifiedLayerNormalization", Inputs: 2, Parts: simplifiedNorm})
}

// fusedMatMul is a product of matrices that may be turned first, times a number.
func fusedMatMul(p *parts) error {
	if p.Int("transBatchA", 0) != 0 || p.Int("transBatchB", 0) != 0 {
		return fmt.Errorf("turned batches (transBatchA, transBatchB) are not supported")
	}
	y := p.op("MatMul", nil, p.turned(0, "transA"), p.turned(1, "transB"))
	if alpha := p.Float("alpha", 1); alpha != 1 {
		y = p.own("Scale", settings{"by": alpha}, y)
	}
	p.result(0, y)
	return nil
}

// turned is an input whose rows and columns change places if an attribute says so.
func (p *parts) turned(input int, attr string) *graph.Value {
	if p.Int(attr, 0) != 0 {
		return p.own("Turn", settings{"how": "rows"}, p.Input(input))
	}
	return p.Input(input)
}

// activated is a layer with a function behind it, and for convolutions a sum before that.
func activated(p *parts, layer string, sum int) error {
	names, inputs := []string{"alpha", "beta", "transA", "transB"}, []*graph.Value{p.Input(0), p.Input(1), p.Input(2)}
	if layer == "Conv" {
		names = []string{"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"}
	}
	y := p.made("", layer, partsVersion, 1, p.passed(names...), inputs...)[0]
	if sum > 0 && p.Input(sum) != nil {
		y = p.op("Add", nil, y, p.Input(sum))
	}
	// parameters are one list for Conv, and attributes of their own for Gemm
	params := p.Attrs["activation_params"].Floats
	param := func(i int, attr string, def float32) float32 {
		if i < len(params) {
			return params[i]
		}
		return p.Float(attr, def)
	}
	switch fn := p.Str("activation", ""); fn {
	case "":
	case "Relu", "Tanh", "Sigmoid", "Softplus", "Softsign":
		y = p.op(fn, nil, y)
	case "LeakyRelu", "Elu", "ThresholdedRelu":
		def := float32(1)
		if fn == "LeakyRelu" {
			def = 0.01
		}
		y = p.op(fn, settings{"alpha": param(0, "activation_alpha", def)}, y)
	case "HardSigmoid":
		y = p.op(fn, settings{"alpha": param(0, "activation_alpha", 0.2), "beta": param(1, "activation_beta", 0.5)}, y)
	case "Clip":
		if len(params) != 2 {
			return fmt.Errorf("activation Clip with %d parameters", len(params))
		}
		y = p.made("", "Clip", 6, 1, settings{"min": params[0], "max": params[1]}.list(), y)[0]
	default:
		return fmt.Errorf("activation %q", fn)
	}
	p.result(0, y)
	return nil
}

// integerProduct is a product of codes as numbers: their integer product times both scales, plus a bias.
func (p *parts) integerProduct(a, b, scaleA, scaleB, zeroA, zeroB, bias *graph.Value) *graph.Value {
	y := p.op("Cast", settings{"to": int(graph.Float32)}, p.op("MatMulInteger", nil, a, b, zeroA, zeroB))
	y = p.op("Mul", nil, y, p.op("Mul", nil, scaleA, scaleB))
	if bias != nil {
		y = p.op("Add", nil, y, bias)
	}
	return y
}

func matMulIntegerToFloat(p *parts) error {
	p.result(0, p.integerProduct(p.Input(0), p.Input(1), p.Input(2), p.Input(3), p.Input(4), p.Input(5), p.Input(6)))
	return nil
}

// dynamicQuantizeMatMul gives the left side codes first, in the range that it has.
func dynamicQuantizeMatMul(p *parts) error {
	q := p.made("", "DynamicQuantizeLinear", partsVersion, 3, nil, p.Input(0))
	p.result(0, p.integerProduct(q[0], p.Input(1), q[1], p.Input(2), q[2], p.Input(3), p.Input(4)))
	return nil
}

// qGemm is a product of codes plus an integer bias; as codes again when it has a scale for them.
func qGemm(p *parts) error {
	sum := p.op("MatMulInteger", nil, p.turned(0, "transA"), p.turned(3, "transB"), p.Input(2), p.Input(5))
	if p.Input(6) != nil {
		sum = p.op("Add", nil, sum, p.Input(6))
	}
	scale := p.op("Mul", nil, p.Input(1), p.Input(4))
	if alpha := p.Float("alpha", 1); alpha != 1 {
		scale = p.own("Scale", settings{"by": alpha}, scale)
	}
	if p.Input(7) != nil { // one factor for both scales, as kernels of integers have it
		scale = p.op("Div", nil, scale, p.Input(7))
	}
	y := p.op("Mul", nil, p.op("Cast", settings{"to": int(graph.Float32)}, sum), scale)
	if p.Input(7) != nil {
		y = p.op("QuantizeLinear", nil, y, constFloat(1), p.Input(8))
	}
	p.result(0, y)
	return nil
}

// decoded are the numbers that the codes of an input mean; its scale and zero point follow it.
func (p *parts) decoded(input int) *graph.Value {
	return p.op("DequantizeLinear", nil, p.Input(input), p.Input(input+1), p.Input(input+2))
}

// encoded makes a value the result, as codes of the scale at an input and the zero point behind it.
func (p *parts) encoded(v *graph.Value, scale int) {
	p.result(0, p.op("QuantizeLinear", nil, v, p.Input(scale), p.Input(scale+1)))
}

func qLinearAveragePool(p *parts) error {
	x := p.decoded(0)
	last := p.Int("channels_last", 0) != 0
	if last {
		x = p.own("Turn", settings{"how": "first"}, x)
	}
	x = p.made("", "AveragePool", partsVersion, 1, p.passed("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"), x)[0]
	if last {
		x = p.own("Turn", settings{"how": "last"}, x)
	}
	p.encoded(x, 3)
	return nil
}

// qLinearSoftmax says itself which operator set's Softmax it is.
func qLinearSoftmax(p *parts) error {
	v := p.Int("opset", 0)
	if v < 1 {
		return fmt.Errorf("operator set %d", v)
	}
	p.encoded(p.made("", "Softmax", v, 1, p.passed("axis"), p.decoded(0))[0], 3)
	return nil
}

func qLinearWhere(p *parts) error {
	p.encoded(p.op("Where", nil, p.Input(0), p.decoded(1), p.decoded(4)), 7)
	return nil
}

// nhwcQLinearConv is the QLinearConv that ONNX Runtime writes into optimized files, with channels last.
func nhwcQLinearConv(p *parts) error {
	last, in := p.Int("channels_last", 0) != 0, append([]*graph.Value{}, p.In...)
	if last {
		in[0] = p.own("Turn", settings{"how": "first"}, in[0])
	}
	y := p.made("", "QLinearConv", partsVersion, 1, p.passed("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"), in...)[0]
	if last {
		y = p.own("Turn", settings{"how": "last"}, y)
	}
	p.result(0, y)
	return nil
}

func nhwcMaxPool(p *parts) error {
	y := p.own("Turn", settings{"how": "first"}, p.Input(0))
	y = p.made("", "MaxPool", partsVersion, 1, p.passed("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"), y)[0]
	p.result(0, p.own("Turn", settings{"how": "last"}, y))
	return nil
}

// simplifiedNorm is RMSNormalization under its older name.
func simplifiedNorm(p *parts) error {
	if p.Output(1) != nil {
		return fmt.Errorf("its second output is not supported")
	}
	p.result(0, p.made("", "RMSNormalization", partsVersion, 1, p.passed("axis", "epsilon", "stash_type"), p.Input(0), p.Input(1))[0])
	return nil
}

// Inputs of EmbedLayerNormalization.
const (
	embedIDs = iota
	embedSegments
	embedWords
	embedPositions
	embedSegmentTable
	embedGamma
	embedBeta
	embedMask
	embedPositionIDs
)

// embedLayerNorm adds the vectors of words, positions and segments, and normalizes the sums.
func embedLayerNorm(p *parts) error {
	if err := p.needs(embedWords, embedPositions, embedGamma, embedBeta); err != nil {
		return err
	}
	sum := p.op("Gather", nil, p.Input(embedWords), p.Input(embedIDs))
	if ids := p.Input(embedPositionIDs); ids != nil {
		sum = p.op("Add", nil, sum, p.op("Gather", nil, p.Input(embedPositions), ids))
	} else {
		n := p.op("Shape", settings{"start": 1, "end": 2}, p.Input(embedIDs))
		sum = p.op("Add", nil, sum, p.op("Slice", nil, p.Input(embedPositions), constInts(0), n, constInts(0)))
	}
	if ids, table := p.Input(embedSegments), p.Input(embedSegmentTable); ids != nil && table != nil {
		sum = p.op("Add", nil, sum, p.op("Gather", nil, table, ids))
	}
	p.result(0, p.op("LayerNormalization", settings{"epsilon": p.Float("epsilon", 1e-12)}, sum, p.Input(embedGamma), p.Input(embedBeta)))
	if p.Output(1) != nil { // how many tokens of each text count
		mask := p.Input(embedMask)
		if mask == nil {
			mask = p.op("Mul", nil, p.Input(embedIDs), &graph.Value{Const: graph.From(graph.Int32, []int32{0})})
		}
		p.result(1, p.op("ReduceSum", settings{"keepdims": 0}, mask, constInts(1)))
	}
	p.result(2, sum)
	return nil
}

// Inputs of DynamicQuantizeLSTM; up to the peepholes they are those of LSTM.
const (
	dqWScale = inP + 1 + iota
	dqWZero
	dqRScale
	dqRZero
)

// dynamicQuantizeLSTM is an LSTM whose weights are codes of 8 bits, [directions, inputs, gates], and whose inputs
// and states become codes before each product.
func dynamicQuantizeLSTM(p *parts) error {
	if err := p.needs(dqWScale, dqRScale); err != nil {
		return err
	}
	dirs := int64(1)
	if p.Str("direction", "forward") == "bidirectional" {
		dirs = 2
	}
	flat := constInts(dirs, 1, -1)
	weights := func(codes, scale, zero *graph.Value) *graph.Value {
		w := p.op("Cast", settings{"to": int(graph.Float32)}, codes)
		if zero != nil {
			w = p.op("Sub", nil, w, p.op("Cast", settings{"to": int(graph.Float32)}, p.op("Reshape", nil, zero, flat)))
		}
		return p.own("Turn", settings{"how": "rows"}, p.op("Mul", nil, w, p.op("Reshape", nil, scale, flat)))
	}
	q := p.made("", "DynamicQuantizeLinear", partsVersion, 3, nil, p.Input(inX))
	x := p.op("DequantizeLinear", nil, q[0], q[1], q[2])
	in := []*graph.Value{x, weights(p.Input(inW), p.Input(dqWScale), p.Input(dqWZero)), weights(p.Input(inR), p.Input(dqRScale), p.Input(dqRZero))}
	for i := inB; i <= inP; i++ {
		in = append(in, p.Input(i))
	}
	outs := p.made(ownDomain, "CodedLSTM", partsVersion, 3,
		p.passed("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget"), in...)
	for i, v := range outs {
		p.result(i, v)
	}
	return nil
}
