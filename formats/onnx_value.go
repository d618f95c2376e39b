package formats

import (
	"fmt"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/ir/graph"
)

// ONNXValue reads a value that was saved on its own, as ONNX's test data are: a TensorProto, a SequenceProto of
// tensors, or an OptionalProto of either. list holds one tensor, or the elements of a sequence; some is false
// for an optional value that is not there.
func ONNXValue(b []byte, kind graph.Kind) (list []*graph.Tensor, some bool, err error) {
	switch kind {
	case graph.KindTensor:
		p := &onnx.TensorProto{}
		if err := onnx.Unmarshal(b, p); err != nil {
			return nil, false, err
		}
		list, err = valueTensors([]*onnx.TensorProto{p})
		return list, true, err
	case graph.KindSequence:
		p := &onnx.SequenceProto{}
		if err := onnx.Unmarshal(b, p); err != nil {
			return nil, false, err
		}
		list, err = valueSequence(p)
		return list, true, err
	case graph.KindOptional, graph.KindOptionalSequence:
		p := &onnx.OptionalProto{}
		if err := onnx.Unmarshal(b, p); err != nil {
			return nil, false, err
		}
		switch {
		case p.TensorValue != nil && kind == graph.KindOptional:
			list, err = valueTensors([]*onnx.TensorProto{p.TensorValue})
			return list, true, err
		case p.SequenceValue != nil && kind == graph.KindOptionalSequence:
			list, err = valueSequence(p.SequenceValue)
			return list, true, err
		case p.TensorValue == nil && p.SequenceValue == nil && p.SparseTensorValue == nil && p.MapValue == nil && p.OptionalValue == nil:
			return nil, false, nil
		}
	}
	return nil, false, onnx.ErrValue
}

func valueSequence(p *onnx.SequenceProto) ([]*graph.Tensor, error) {
	if t := p.GetElemType(); t != int32(onnx.SequenceProto_TENSOR) && t != int32(onnx.SequenceProto_UNDEFINED) {
		return nil, fmt.Errorf("%w: a sequence of elements of kind %d", onnx.ErrValue, t)
	}
	return valueTensors(p.TensorValues)
}

func valueTensors(list []*onnx.TensorProto) ([]*graph.Tensor, error) {
	var nowhere onnx.File // everything is in the messages
	out := make([]*graph.Tensor, len(list))
	for i, p := range list {
		d, err := nowhere.Data(p)
		if err != nil {
			return nil, inTensor(p.GetName(), err)
		}
		out[i] = graphTensor(d)
	}
	return out, nil
}
