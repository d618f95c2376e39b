package eval

import (
	"fmt"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Domain: msDomain, Name: "Attention", Inputs: 2, Parts: selfAttention})
	register(Op{Domain: msDomain, Name: "QAttention", Inputs: 5, Parts: quantizedAttention})
}

// selfAttention is com.microsoft's Attention: one product makes queries, keys and values.
func selfAttention(p *parts) error {
	y := p.op("MatMul", nil, p.Input(0), p.Input(1))
	if p.Input(2) != nil {
		y = p.op("Add", nil, y, p.Input(2))
	}
	if p.Input(6) != nil {
		return fmt.Errorf("a past in a shared buffer is not supported")
	}
	return p.attend(y, p.Input(3), p.Input(4), p.Input(5))
}

// quantizedAttention is the same with a product of codes.
func quantizedAttention(p *parts) error {
	return p.attend(p.integerProduct(p.Input(0), p.Input(1), p.Input(3), p.Input(4), p.Input(6), p.Input(7), p.Input(2)), p.Input(5), p.Input(8), nil)
}

// attend goes on from queries, keys and values that lie behind each other in the last dimension.
func (p *parts) attend(y, mask, past, bias *graph.Value) error {
	if p.Int("do_rotary", 0) != 0 || p.Int("past_present_share_buffer", 0) != 0 {
		return fmt.Errorf("do_rotary and past_present_share_buffer are not supported")
	}
	in := []*graph.Value{y}
	a := settings{"axis": -1}
	if sizes := p.Ints("qkv_hidden_sizes"); len(sizes) == 0 {
		a["num_outputs"] = 3
	} else if len(sizes) == 3 {
		in = append(in, constInts(int64(sizes[0]), int64(sizes[1]), int64(sizes[2])))
	} else {
		return fmt.Errorf("qkv_hidden_sizes %v", sizes)
	}
	qkv := p.made("", "Split", partsVersion, 3, a.list(), in...)
	var keys, values *graph.Value
	if past != nil {
		keys, values = p.op("Gather", nil, past, constIndex(0)), p.op("Gather", nil, past, constIndex(1))
	}
	outs := p.made(msDomain, "MultiHeadAttention", 1, 3, p.passed("num_heads", "mask_filter_value", "scale", "unidirectional"),
		qkv[0], qkv[1], qkv[2], nil, mask, bias, keys, values)
	p.result(0, outs[0])
	if p.Output(1) != nil {
		p.result(1, p.op("Concat", settings{"axis": 0}, p.op("Unsqueeze", nil, outs[1], constInts(0)), p.op("Unsqueeze", nil, outs[2], constInts(0))))
	}
	return nil
}

// constIndex is a constant index.
func constIndex(v int64) *graph.Value {
	return &graph.Value{Const: graph.From(graph.Int64, []int64{v})}
}
