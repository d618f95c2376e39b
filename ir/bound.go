package ir

import (
	"errors"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// bound ties a constant of the graph to its handle, as both were when the model was read.
type bound struct {
	name  string
	data  Source
	value *graph.Tensor
}

// ErrBothChanged is the reason when one pass replaced the handle of a constant and another the constant.
var ErrBothChanged = errors.New("the weight was changed in the catalogue and in the graph")

// Bind adds the handle of a constant of the graph to the catalogue. Passes that work on weights replace the
// handle, passes that work on the graph replace the constant; whoever writes the model asks Bound which.
func (m *Model) Bind(v *graph.Value, t *Tensor) error {
	if err := m.Add(t); err != nil {
		return err
	}
	if m.bound == nil {
		m.bound = map[*graph.Value]bound{}
	}
	m.bound[v] = bound{t.Name, t.Data, v.Const}
	return nil
}

// Bound is the handle of a constant when a pass has replaced it since the model was read, and nil when the
// bytes of the constant itself count: it has no handle, or one that nobody touched.
func (m *Model) Bound(v *graph.Value) (*Tensor, error) {
	b, ok := m.bound[v]
	if !ok {
		return nil, nil
	}
	t := m.Find(b.name)
	switch {
	case t == nil || t.Data == b.data && t.Scheme == nil:
		return nil, nil
	case v.Const != b.value:
		return nil, &fault.Error{File: m.Path, Tensor: b.name, Err: ErrBothChanged}
	}
	return t, nil
}

// cloneGraph gives a clone a graph of its own; the bytes of constants are shared.
func (m *Model) cloneGraph() {
	if m.Graph == nil {
		return
	}
	g, values := m.Graph.Clone()
	old := m.bound
	m.Graph, m.bound = g, make(map[*graph.Value]bound, len(old))
	for v, b := range old {
		if w, ok := values[v]; ok {
			m.bound[w] = b
		}
	}
}
