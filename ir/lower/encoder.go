package lower

import (
	"errors"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// Options says what a graph is like.
type Options struct {
	// Opset is the version of the operator set, 17 or more; 0 is 17. From 20 on there is an operator for GELU.
	Opset int
	// Pooled adds the output sentence_embedding: the states of a text pooled and normalised as the model asks for.
	Pooled bool
}

// Versions of the operator set that graphs can be written in.
const (
	MinOpset = 17 // the first with LayerNormalization
	MaxOpset = 23
	// GeluOpset is the first with an operator for GELU.
	GeluOpset = 20
)

// ErrOpset is the reason when a version of the operator set is none that graphs are written in.
var ErrOpset = errors.New("operator set")

// Names of inputs and outputs, as exporters of Hugging Face models have them.
const (
	InputIDs  = "input_ids"          // int64 [batch, sequence]
	InputMask = "attention_mask"     // int64 [batch, sequence]: 1 for tokens, 0 for padding, which stands at the end
	InputType = "token_type_ids"     // int64 [batch, sequence], where the model has types of tokens
	Hidden    = "last_hidden_state"  // float32 [batch, sequence, hidden]
	Sentence  = "sentence_embedding" // float32 [batch, hidden]
)

// Encoder is the network of a text encoder. It fails with ir.ErrNoEncoder, or with what is wrong with the model's tensors.
func Encoder(m *ir.Model, opt Options) (*graph.Graph, error) {
	if err := m.CannotEncode(); err != nil {
		return nil, &fault.Error{File: m.Path, Op: "onnx", Err: err}
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	if opt.Opset == 0 {
		opt.Opset = MinOpset
	}
	if opt.Opset < MinOpset || opt.Opset > MaxOpset {
		return nil, &fault.Error{
			File: m.Path, Op: "onnx", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%w %d", ErrOpset, opt.Opset)),
			Hint: fmt.Sprintf("text encoders are written in %d to %d", MinOpset, MaxOpset),
		}
	}
	b := &builder{m: m, e: m.Encoder, opset: opt.Opset, shared: map[string]*graph.Value{}}
	b.g = &graph.Graph{Name: m.Arch, Opset: map[string]int{"": opt.Opset}}
	b.encoder(opt.Pooled)
	return b.g, nil
}

// encoder writes the whole network.
func (b *builder) encoder(pooled bool) {
	e := b.e
	ids, mask := b.input(InputIDs), b.input(InputMask)
	b.scope = "embeddings"
	x := b.node("words", "Gather", nil, b.rows(ir.RoleEmbedding, 0), ids)
	switch {
	case e.Types > 1:
		x = b.node("with_types", "Add", nil, x, b.node("types", "Gather", nil, b.rows(ir.RoleTokenType, 0), b.input(InputType)))
	case e.Types == 1:
		x = b.node("with_types", "Add", nil, x, b.rows(ir.RoleTokenType, 0))
	}
	length := b.node("length", "Shape", attrs{"start": 1, "end": 2}, ids)
	positions := b.node("positions", "Slice", nil, b.rows(ir.RolePosition, e.PositionBase), b.ints("zero", 0), length, b.ints("zero", 0))
	x = b.node("with_positions", "Add", nil, x, positions)
	x = b.norm("norm", x, -1, ir.RoleEmbedNorm, ir.RoleEmbedNormBias)

	// what is added to the scores: 0 where there is a token, and the least number of float32 where there is padding
	b.scope = "mask"
	real := b.node("float", "Cast", attrs{"to": int(graph.Float32)}, b.node("unsqueezed", "Unsqueeze", nil, mask, b.ints("heads_and_queries", 1, 2)))
	ahead := b.node("scores", "Mul", nil, b.node("padding", "Sub", nil, b.number("one", 1), real), b.number("least", -math.MaxFloat32))

	for l := range e.Layers {
		b.scope = fmt.Sprintf("layer.%d", l)
		x = b.norm("attention.norm", b.node("attention.sum", "Add", nil, b.attention(x, ahead, l), x), l, ir.RoleAttnPostNorm, ir.RoleAttnPostNormBias)
		up := b.activation(b.dense("mlp.up", x, l, ir.RoleMLPUp, ir.RoleMLPUpBias))
		down := b.dense("mlp.down", up, l, ir.RoleMLPDown, ir.RoleMLPDownBias)
		x = b.norm("mlp.norm", b.node("mlp.sum", "Add", nil, down, x), l, ir.RoleMLPPostNorm, ir.RoleMLPPostNormBias)
	}
	b.output(x, Hidden, graph.Dim{Size: -1, Name: "batch"}, graph.Dim{Size: -1, Name: "sequence"}, graph.Dim{Size: e.Hidden})
	if pooled {
		b.scope = "pooling"
		b.output(b.pool(x, mask), Sentence, graph.Dim{Size: -1, Name: "batch"}, graph.Dim{Size: e.Hidden})
	}
}

// attention is o(softmax(q k^T / sqrt(size) + mask) v), every head with its part of the columns.
func (b *builder) attention(x, mask *graph.Value, l int) *graph.Value {
	e := b.e
	heads := b.ints("split_heads", 0, 0, int64(e.Heads), int64(e.HeadDim()))
	part := func(name string, weight, bias ir.Role, perm ...int64) *graph.Value {
		y := b.dense("attention."+name, x, l, weight, bias)
		y = b.node("attention."+name+".heads", "Reshape", nil, y, heads)
		return b.node("attention."+name+".turned", "Transpose", attrs{"perm": perm}, y)
	}
	q := part("query", ir.RoleAttnQ, ir.RoleAttnQBias, 0, 2, 1, 3)
	k := part("key", ir.RoleAttnK, ir.RoleAttnKBias, 0, 2, 3, 1)
	v := part("value", ir.RoleAttnV, ir.RoleAttnVBias, 0, 2, 1, 3)
	s := b.node("attention.products", "MatMul", nil, q, k)
	s = b.node("attention.scaled", "Mul", nil, s, b.number("scale", float32(1/math.Sqrt(float64(e.HeadDim())))))
	s = b.node("attention.masked", "Add", nil, s, mask)
	s = b.node("attention.weights", "Softmax", attrs{"axis": -1}, s)
	y := b.node("attention.mixed", "MatMul", nil, s, v)
	y = b.node("attention.back", "Transpose", attrs{"perm": []int64{0, 2, 1, 3}}, y)
	y = b.node("attention.joined", "Reshape", nil, y, b.ints("join_heads", 0, 0, int64(e.Hidden)))
	return b.dense("attention.output", y, l, ir.RoleAttnO, ir.RoleAttnOBias)
}

// activation is the function of the MLP, in operators where the version of the set has none for it.
func (b *builder) activation(x *graph.Value) *graph.Value {
	const name = "mlp.activation"
	step := func(part, op string, in ...*graph.Value) *graph.Value { return b.node(name+"."+part, op, nil, in...) }
	half := func(inner *graph.Value) *graph.Value {
		y := step("shifted", "Add", inner, b.number("one", 1))
		return step("half", "Mul", step("product", "Mul", x, y), b.number("half", 0.5))
	}
	switch {
	case b.e.Activation == ir.ReLU:
		return b.node(name, "Relu", nil, x)
	case b.e.Activation == ir.GELUTanh && b.opset >= GeluOpset:
		return b.node(name, "Gelu", attrs{"approximate": "tanh"}, x)
	case b.e.Activation == ir.GELUTanh:
		cube := step("cube", "Mul", step("square", "Mul", x, x), x)
		inner := step("inner", "Add", x, step("part", "Mul", cube, b.number("gelu_cubic", 0.044715)))
		return half(step("tanh", "Tanh", step("inner_scaled", "Mul", inner, b.number("sqrt_2_over_pi", float32(math.Sqrt(2/math.Pi))))))
	case b.opset >= GeluOpset:
		return b.node(name, "Gelu", nil, x)
	}
	return half(step("erf", "Erf", step("scaled", "Div", x, b.number("sqrt_2", math.Sqrt2))))
}

// pool makes one vector of a text's states, and of length 1 when the model asks for that.
func (b *builder) pool(x, mask *graph.Value) *graph.Value {
	e := b.e
	var y *graph.Value
	if e.Pooling == ir.PoolCLS {
		y = b.node("first", "Gather", attrs{"axis": 1}, x, b.constant("first_token", graph.From(graph.Int64, []int64{0})))
	} else {
		real := b.node("float", "Cast", attrs{"to": int(graph.Float32)}, b.node("unsqueezed", "Unsqueeze", nil, mask, b.ints("each_element", 2)))
		if e.Pooling == ir.PoolMax {
			off := b.node("padding", "Mul", nil, b.node("empty", "Sub", nil, b.number("one", 1), real), b.number("least", -math.MaxFloat32))
			y = b.reduce("largest", "ReduceMax", 18, b.node("tokens", "Add", nil, b.node("states", "Mul", nil, x, real), off), 1, false)
		} else {
			sum := b.reduce("sum", "ReduceSum", 13, b.node("states", "Mul", nil, x, real), 1, false)
			count := b.reduce("count", "ReduceSum", 13, real, 1, false)
			// 1e-9 is what sentence models put in place of no token at all
			y = b.node("mean", "Div", nil, sum, b.node("some", "Max", nil, count, b.number("least_count", 1e-9)))
		}
	}
	if e.Normalize {
		length := b.reduce("length", "ReduceL2", 18, y, -1, true)
		y = b.node("normalized", "Div", nil, y, b.node("some_length", "Max", nil, length, b.number("least_length", 1e-12)))
	}
	return y
}
