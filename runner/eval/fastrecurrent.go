package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	joins["LSTM"] = joinRecurrent
	joins["GRU"] = joinRecurrent
}

// quickLayer is a recurrent layer of the usual kind: forward, sigmoid and tanh, constant weights.
type quickLayer struct {
	*recurrent
	inputs, states *kernels.Conv
	wide, state    kernels.Windows
	rows           int // gates of all kinds
}

// joinRecurrent packs the weights of a recurrent layer of the usual kind, and ends each step in one kernel.
func joinRecurrent(f *fast, i int, s *step) (*step, int) {
	at := func(k int) int {
		if k < len(s.in) {
			return s.in[k]
		}
		return -1
	}
	w, rec := f.constant(at(inW)), f.constant(at(inR))
	bias := f.constant(at(inB))
	kind := lstmKind
	if s.node.Op == "GRU" {
		kind = gruKind
	}
	x := f.p.specs[s.in[0]]
	n := s.node
	if w == nil || rec == nil || at(inB) >= 0 && bias == nil || at(inLens) >= 0 || at(inP) >= 0 || x.Type != graph.Float32 ||
		n.Str("direction", "forward") != "forward" || n.Float("clip", 0) != 0 || n.Int("layout", 0) != 0 || n.Int("input_forget", 0) != 0 ||
		kind.gates == 3 && n.Int("linear_before_reset", 0) == 0 {
		return nil, 0
	}
	if acts := n.Attrs["activations"].Strings; len(acts) > 0 && !slices.Equal(acts, kind.acts) {
		return nil, 0
	}
	hidden := f.p.specs[at(inR)].Shape[2]
	q := &quickLayer{recurrent: &recurrent{cellKind: kind, seq: x.Shape[0], batch: x.Shape[1], in: x.Shape[2], hidden: hidden, dirs: 1}, rows: kind.gates * hidden}
	if q.seq == 0 || q.batch == 0 || q.in == 0 {
		return nil, 0
	}
	type packed struct{ inputs, states *kernels.Conv }
	set := n.prog.worker.Kernels
	v, _ := Once(&Call{node: n}, "cells", func() (packed, error) {
		first, second := make([]float32, q.rows), make([]float32, q.rows)
		if bias != nil {
			copy(first, bias[:q.rows])
			copy(second, bias[q.rows:])
		}
		return packed{set.NewDense(q.rows, q.in, true, w, first), set.NewDense(q.rows, hidden, true, rec, second)}, nil
	})
	q.inputs, q.states = v.inputs, v.states
	q.wide, q.state = q.inputs.Windows(0, q.in, 0), q.states.Windows(0, hidden, 0)
	t := again(s, q.run)
	t.InPlace = nil
	t.Scratch = 4 * (q.seq*q.batch*q.rows + q.batch*q.rows + 2*q.batch*hidden)
	return t, i
}

func (q *quickLayer) run(w *Worker, in, out []*graph.Tensor) error {
	room := elems[float32](&graph.Tensor{Type: graph.Float32, Data: w.Scratch})
	take := func(n int) []float32 {
		part := room[:n]
		room = room[n:]
		return part
	}
	size := q.batch * q.hidden
	products, sums, h, c := take(q.seq*q.batch*q.rows), take(q.batch*q.rows), take(size), take(size)
	get := func(list []*graph.Tensor, i int) []float32 {
		if i < len(list) && list[i] != nil {
			return elems[float32](list[i])
		}
		return nil
	}
	clear(h)
	clear(c)
	copy(h, get(in, inH))
	lstm := q.gates == 4
	if lstm {
		copy(c, get(in, inC))
	}
	all := kernels.NewImage(products, 1, q.seq*q.batch, q.rows)
	q.inputs.Run(all, get(in, inX), q.wide, kernels.Linear)
	y := get(out, 0)
	for t := range q.seq {
		from := kernels.NewImage(products[t*q.batch*q.rows:], 1, q.batch, q.rows)
		to, finish := kernels.NewImage(sums, 1, q.batch, q.rows), kernels.Linear
		if lstm {
			finish.Add = &from
		}
		q.states.Run(to, h, q.state, finish)
		for b := range q.batch {
			state, gates := h[b*q.hidden:(b+1)*q.hidden], sums[b*q.rows:(b+1)*q.rows]
			if lstm {
				cell := c[b*q.hidden : (b+1)*q.hidden]
				w.Kernels.LSTM(state, cell, gates, cell)
			} else {
				w.Kernels.GRU(state, from.Data[b*q.rows:(b+1)*q.rows], gates, state)
			}
		}
		if y != nil {
			copy(y[t*size:(t+1)*size], h)
		}
	}
	copy(get(out, 1), h)
	if lstm {
		copy(get(out, 2), c)
	}
	return nil
}
