package eval

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// wider is the type in which an operator that knows few types computes with elements of type t.
func (o *Op) wider(t graph.DType) graph.DType {
	if o.Narrow && (t != graph.BFloat16 || !o.BF16) {
		switch t {
		case graph.Float16, graph.BFloat16, graph.F8E4M3FN, graph.F8E4M3FNUZ, graph.F8E5M2, graph.F8E5M2FNUZ,
			graph.F8E8M0, graph.F4E2M1:
			return graph.Float32
		}
	}
	if o.Unpack {
		switch t {
		case graph.Int4, graph.Int2:
			return graph.Int8
		case graph.Uint4, graph.Uint2, graph.F4E2M1:
			return graph.Uint8
		}
	}
	return t
}

// adapter stands between a node and an operator that does not know the types of the node's tensors: it
// widens inputs before each run and narrows outputs after it, in scratch memory.
type adapter struct {
	step    Step
	in, out []*convert // nil where nothing changes
	ins     []*graph.Tensor
	outs    []*graph.Tensor
}

// convert is one tensor in two types.
type convert struct {
	wide  graph.Tensor // its elements lie in scratch, or are those of a constant
	fixed bool         // wide has its elements already
}

// plan asks the operator for a step, through an adapter where its types are too narrow for it.
func (n *node) plan(c *Call) (Step, error) {
	inner := *c
	inner.in = slices.Clone(c.in)
	back := map[graph.DType]graph.DType{} // which type an output gets back
	a := &adapter{in: make([]*convert, len(c.in))}
	for i, s := range c.in {
		wide := n.op.wider(s.Type)
		if wide == s.Type || s.Kind != graph.KindTensor {
			continue
		}
		if _, ok := back[wide]; !ok {
			back[wide] = s.Type
		}
		cv := &convert{wide: graph.Tensor{Type: wide, Shape: s.Shape}}
		a.in[i] = cv
		inner.in[i].Type = wide
		if s.Known == nil {
			continue
		}
		widen := func() (*graph.Tensor, error) {
			t := graph.New(wide, s.Shape...)
			recode(t, s.Known)
			return t, nil
		}
		var known *graph.Tensor
		if s.Const {
			known, _ = Once(c, fmt.Sprintf("wide %d", i), widen)
		} else {
			known, _ = widen()
		}
		cv.wide, cv.fixed, inner.in[i].Known = *known, true, known
	}
	st, err := n.op.Plan(&inner)
	c.looked = c.looked || inner.looked
	if err != nil || len(back) == 0 {
		return st, err
	}
	return a.wrap(n.op, st, back)
}

// wrap is the step in the node's own types.
func (a *adapter) wrap(op *Op, st Step, back map[graph.DType]graph.DType) (Step, error) {
	a.step = st
	outer := Step{Out: slices.Clone(st.Out)}
	a.out = make([]*convert, len(st.Out))
	for i, s := range st.Out {
		narrow, ok := back[s.Type]
		if !ok || s.Kind != graph.KindTensor || s.Later || slices.Contains(op.Wide, i) {
			continue
		}
		outer.Out[i].Type = narrow
		if s.Known != nil {
			t := graph.New(narrow, s.Shape...)
			recode(t, s.Known)
			outer.Out[i].Known = t
			continue
		}
		a.out[i] = &convert{wide: graph.Tensor{Type: s.Type, Shape: s.Shape}}
	}
	switch {
	case st.Values != nil:
		return Step{}, fmt.Errorf("eval: %s: Narrow and Unpack do not go with Values", op.Name)
	case st.Alias: // the bytes are those of the input, whatever their type
		outer.Alias = true
		return outer, nil
	case st.Run == nil:
		return outer, nil
	}
	outer.Scratch = round(st.Scratch)
	for _, cv := range slices.Concat(a.in, a.out) {
		if cv != nil && !cv.fixed {
			outer.Scratch += round(cv.wide.Type.Bytes(cv.wide.Elems()))
		}
	}
	a.ins, a.outs = make([]*graph.Tensor, len(a.in)), make([]*graph.Tensor, len(a.out))
	outer.Run = a.run
	return outer, nil
}

func (a *adapter) run(w *Worker, in, out []*graph.Tensor) error {
	scratch := w.Scratch
	rest := scratch[round(a.step.Scratch):]
	place := func(cv *convert) {
		n := cv.wide.Type.Bytes(cv.wide.Elems())
		cv.wide.Data, rest = rest[:n:n], rest[round(n):]
	}
	for i, t := range in {
		cv := a.in[i]
		if a.ins[i] = t; cv == nil || t == nil {
			continue
		}
		if !cv.fixed {
			place(cv)
			recode(&cv.wide, t)
		}
		a.ins[i] = &cv.wide
	}
	for i, t := range out {
		cv := a.out[i]
		if a.outs[i] = t; cv == nil || t == nil {
			continue
		}
		place(cv)
		a.outs[i] = &cv.wide
	}
	w.Scratch = scratch[:a.step.Scratch]
	if err := a.step.Run(w, a.ins[:len(in)], a.outs[:len(out)]); err != nil {
		return err
	}
	for i, t := range out {
		if t != nil && a.out[i] != nil {
			recode(t, &a.out[i].wide)
		}
	}
	return nil
}

// round is n up to the alignment of tensors.
func round(n int) int { return (n + graph.Align - 1) / graph.Align * graph.Align }
