package channels

import (
	"context"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// stage runs a graph over samples in pieces, so that nodes further on may change after those before them have run.
// Between pieces it keeps what is still to be read.
type stage struct {
	net  ir.Network
	g    *graph.Graph
	next int // the first node that has not run
	kept []map[*graph.Value]*graph.Tensor
}

func newStage(net ir.Network, g *graph.Graph, samples []ir.Sample) *stage {
	s := &stage{net: net, g: g, kept: make([]map[*graph.Value]*graph.Tensor, len(samples))}
	for i, sample := range samples {
		s.kept[i] = map[*graph.Value]*graph.Tensor{}
		for _, v := range g.Inputs {
			if t := sample[v.Name]; t != nil {
				s.kept[i][v] = t
			}
		}
	}
	return s
}

// to runs the nodes before one, and keeps a value that is wanted beside those that are needed later.
func (s *stage) to(ctx context.Context, end int, want ...*graph.Value) error {
	made, read, later := map[*graph.Value]bool{}, map[*graph.Value]bool{}, map[*graph.Value]bool{}
	for _, v := range want {
		later[v] = true
	}
	for _, v := range s.g.Outputs {
		later[v] = true
	}
	for i, n := range s.g.Nodes {
		if i < s.next {
			continue
		}
		for v := range graph.Reads(n) {
			if i < end {
				read[v] = true
			} else {
				later[v] = true
			}
		}
		for _, v := range n.Out {
			if i < end && v != nil {
				made[v] = true
			}
		}
	}
	piece := graph.Graph{Name: s.g.Name, Opset: s.g.Opset}
	if end > s.next {
		piece.Nodes = s.g.Nodes[s.next:end]
		s.next = end
	}
	if len(piece.Nodes) > 0 {
		for _, v := range s.values() {
			if read[v] && !made[v] {
				piece.Inputs = append(piece.Inputs, v)
			}
		}
		for _, n := range piece.Nodes {
			for _, v := range n.Out {
				if v != nil && later[v] {
					piece.Outputs = append(piece.Outputs, v)
				}
			}
		}
		if err := s.run(ctx, &piece); err != nil {
			return err
		}
	}
	for _, kept := range s.kept {
		for v := range kept {
			if !later[v] {
				delete(kept, v)
			}
		}
	}
	return nil
}

// values are those that are kept, in the order of the graph.
func (s *stage) values() (list []*graph.Value) {
	seen := map[*graph.Value]bool{}
	take := func(v *graph.Value) {
		if v != nil && !seen[v] && s.kept[0][v] != nil {
			seen[v] = true
			list = append(list, v)
		}
	}
	for _, v := range s.g.Inputs {
		take(v)
	}
	for _, n := range s.g.Nodes {
		for _, v := range n.Out {
			take(v)
		}
	}
	return list
}

// run computes a piece for every sample.
func (s *stage) run(ctx context.Context, piece *graph.Graph) error {
	if len(piece.Outputs) == 0 {
		return nil
	}
	run, err := s.net.Open(ctx, piece, piece.Outputs)
	if err != nil {
		return err
	}
	defer run.Close()
	for _, kept := range s.kept {
		if err := ctx.Err(); err != nil {
			return err
		}
		in := ir.Sample{}
		for _, v := range piece.Inputs {
			in[v.Name] = kept[v]
		}
		out, err := run.Run(ctx, in)
		if err != nil {
			return err
		}
		for k, v := range piece.Outputs {
			c := graph.New(out[k].Type, out[k].Shape...)
			copy(c.Data, out[k].Data)
			copy(c.Strings, out[k].Strings)
			kept[v] = c
		}
	}
	return run.Close()
}
