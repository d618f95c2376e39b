package qgraph

import (
	"context"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// walker runs a graph in pieces over a fixed set of samples, so that nodes further on may change after the
// ones before them have run. Every node runs once per sample; between pieces, the values that are still to
// be read are kept.
type walker struct {
	net     ir.Network
	g       *graph.Graph
	maker   map[*graph.Value]*graph.Node
	done    map[*graph.Node]bool
	samples []ir.Sample
	kept    []map[*graph.Value]*graph.Tensor // by sample
	want    []*graph.Value
	fetch   []*graph.Value
	run     ir.NetworkRun
	inputs  []*graph.Value
}

func newWalker(net ir.Network, g *graph.Graph, samples []ir.Sample) *walker {
	w := &walker{net: net, g: g, maker: graph.NewIndex(g).Producer, done: map[*graph.Node]bool{}, samples: samples}
	w.kept = make([]map[*graph.Value]*graph.Tensor, len(samples))
	for i, s := range samples {
		w.kept[i] = map[*graph.Value]*graph.Tensor{}
		for _, v := range g.Inputs {
			if t := s[v.Name]; t != nil {
				w.kept[i][v] = t
			}
		}
	}
	return w
}

// to makes the piece ready that computes some values; step then runs it, a sample at a time.
func (w *walker) to(ctx context.Context, want []*graph.Value) error {
	need := map[*graph.Node]bool{}
	var mark func(v *graph.Value)
	mark = func(v *graph.Value) {
		n := w.maker[v]
		if n == nil || w.done[n] || need[n] {
			return
		}
		need[n] = true
		for r := range graph.Reads(n) {
			mark(r)
		}
	}
	for _, v := range want {
		mark(v)
	}
	piece := graph.Graph{Opset: w.g.Opset, Name: w.g.Name}
	made, read, later := map[*graph.Value]bool{}, map[*graph.Value]bool{}, map[*graph.Value]bool{}
	for _, n := range w.g.Nodes {
		switch {
		case need[n]:
			piece.Nodes = append(piece.Nodes, n)
			for v := range graph.Reads(n) {
				read[v] = true
			}
			for _, v := range n.Out {
				made[v] = v != nil
			}
		case !w.done[n]:
			for v := range graph.Reads(n) {
				later[v] = true
			}
		}
	}
	wanted := map[*graph.Value]bool{}
	for _, v := range want {
		wanted[v] = true
	}
	w.fetch = nil
	for _, n := range piece.Nodes {
		for _, v := range n.Out {
			if v != nil && (later[v] || wanted[v]) {
				w.fetch = append(w.fetch, v)
			}
		}
	}
	w.inputs = nil
	take := func(v *graph.Value) {
		if v != nil && read[v] && !made[v] && (v.Const == nil || w.kept[0][v] != nil) {
			w.inputs = append(w.inputs, v)
			read[v] = false
		}
	}
	for _, v := range w.g.Inputs {
		take(v)
	}
	for _, n := range w.g.Nodes {
		for _, v := range n.Out {
			take(v)
		}
	}
	piece.Inputs, piece.Outputs = w.inputs, w.fetch
	for _, k := range w.kept {
		for v := range k {
			if !later[v] && !wanted[v] && !w.isInput(v) {
				delete(k, v)
			}
		}
	}
	w.want = want
	for n := range need {
		w.done[n] = true
	}
	if len(piece.Nodes) == 0 {
		w.run = nil
		return nil
	}
	var err error
	w.run, err = w.net.Open(ctx, &piece, w.fetch)
	return err
}

// isInput reports whether this piece reads v.
func (w *walker) isInput(v *graph.Value) bool {
	for _, i := range w.inputs {
		if i == v {
			return true
		}
	}
	return false
}

// step runs the piece on sample i and gives the values that were wanted, valid until the next piece.
func (w *walker) step(ctx context.Context, i int) ([]*graph.Tensor, error) {
	kept := w.kept[i]
	if w.run != nil {
		in := ir.Sample{}
		for _, v := range w.inputs {
			in[v.Name] = kept[v]
		}
		t, err := w.run.Run(ctx, in)
		if err != nil {
			return nil, err
		}
		for k, v := range w.fetch {
			c := graph.New(t[k].Type, t[k].Shape...)
			copy(c.Data, t[k].Data)
			kept[v] = c
		}
	}
	out := make([]*graph.Tensor, len(w.want))
	for k, v := range w.want {
		if out[k] = kept[v]; out[k] == nil {
			out[k] = v.Const
		}
	}
	return out, nil
}

// close ends a piece.
func (w *walker) close() error {
	if w.run == nil {
		return nil
	}
	err := w.run.Close()
	w.run = nil
	return err
}
