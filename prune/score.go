package prune

import (
	"context"
	"math"
	"slices"
	"sort"

	"github.com/pare-dev/pare/ir"
)

// Scores of the parts of a layer. Lower ones go first.
const (
	ScoreActivation = "activation" // root of the mean square of what a part hands on, times the norm of the weights that read it
	ScoreFit        = "fit"        // what the layer loses without the part when those that stay are fitted
	ScoreMagnitude  = "magnitude"  // norms of its weights, each relative to the mean of its matrix
	ScoreTaylor     = "taylor"     // |gradient x weight|: what the loss changes by in the first order
	ScoreFisher     = "fisher"     // mean square over sequences of the same sum: the diagonal of the Fisher matrix
)

// part is the columns of a layer that go or stay together, with the rows that make them.
type parts struct {
	reads []float32 // [rows, n] weights of the layer that reads them
	rows  int
	unit  int         // columns a part
	makes []makesPart // matrices whose rows make them
}

// makesPart is a matrix, and how many of its rows make one part.
type makesPart struct {
	w    *ir.Tensor
	unit int
}

// activation scores parts by what the layer makes of them.
func (p *parts) activation(m *moments) []float64 {
	norm := p.columns(m.n)
	score := make([]float64, m.n/p.unit)
	for c, v := range norm {
		score[c/p.unit] += float64(v * m.energy[c])
	}
	for i, v := range score {
		score[i] = math.Sqrt(v)
	}
	return score
}

// columns are the squared norms of the columns of the layer.
func (p *parts) columns(n int) []float64 {
	norm := make([]float64, n)
	for r := range p.rows {
		for c, v := range p.reads[r*n:][:n] {
			norm[c] += float64(float64(v) * float64(v))
		}
	}
	return norm
}

// magnitude scores parts by their weights alone.
func (p *parts) magnitude(ctx context.Context, n int) ([]float64, error) {
	score := make([]float64, n/p.unit)
	add := func(squares []float64) {
		var mean float64
		for i, v := range squares {
			squares[i] = math.Sqrt(v)
			mean += squares[i] / float64(len(squares))
		}
		if mean > 0 {
			for i, v := range squares {
				score[i] += v / mean
			}
		}
	}
	of := make([]float64, n/p.unit)
	for c, v := range p.columns(n) {
		of[c/p.unit] += v
	}
	add(of)
	for _, m := range p.makes {
		of := make([]float64, n/p.unit)
		err := ir.EachBand(ctx, m.w, bandBytes, func(b ir.Band, x []float32) error {
			cols := m.w.Cols()
			for r := b.Lo; r < b.Hi; r++ {
				for _, v := range x[(r-b.Lo)*cols:][:cols] {
					of[r/m.unit] += float64(float64(v) * float64(v))
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		add(of)
	}
	return score, nil
}

// best are the parts with the highest scores, sorted; of equal ones the later, as elsewhere in pruning.
func best(score []float64, stay int) []int {
	order := others(nil, len(score))
	sort.SliceStable(order, func(a, b int) bool { return score[order[a]] < score[order[b]] })
	keep := slices.Clone(order[len(order)-stay:])
	slices.Sort(keep)
	return keep
}

// spread lists the columns of parts.
func spread(parts []int, unit int) []int {
	out := make([]int, 0, len(parts)*unit)
	for _, p := range parts {
		for i := range unit {
			out = append(out, p*unit+i)
		}
	}
	return out
}
