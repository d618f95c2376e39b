package formats

import (
	"errors"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/lower"
)

// asGraph is the model as one with a graph: text encoders are written as the operators that compute them.
func asGraph(m *ir.Model, o WriteOptions) (*ir.Model, []string, error) {
	switch {
	case m.Graph != nil && (o.Opset != 0 || o.Pooled):
		return nil, nil, &fault.Error{
			File: m.Path, Op: "onnx", Err: fault.As(fault.ErrMisuse, errors.New("the operator set and the embeddings can be chosen when a text encoder becomes a graph: this is one")),
		}
	case m.Graph != nil:
		return m, nil, nil
	case m.Encoder == nil:
		return nil, nil, &fault.Error{
			File: m.Path, Op: "onnx", Err: fault.As(fault.ErrRefused, fmt.Errorf("%w: the model is no graph of operators", ErrInexact)),
			Hint: "write a Hugging Face folder or GGUF instead",
		}
	}
	g, err := lower.Encoder(m, lower.Options{Opset: o.Opset, Pooled: o.Pooled})
	if err != nil {
		return nil, nil, err
	}
	made := m.Clone()
	made.Graph = g
	var notes []string
	widened, first := 0, ""
	for _, t := range m.Tensors() {
		switch {
		case t.Role == ir.RoleUnknown || t.Role == ir.RolePooler || t.Role == ir.RolePoolerBias:
			notes = append(notes, fmt.Sprintf("%s is no part of the network that makes hidden states and is left out", t.Name))
		case t.Type != storage.F32:
			if widened++; widened == 1 {
				first = t.Name
			}
		}
	}
	if widened > 0 {
		notes = append(notes, fmt.Sprintf("%d tensors (the first is %s) are written as f32, the type that the graph computes with", widened, first))
	}
	return made, notes, nil
}
