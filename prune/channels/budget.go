package channels

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// Measure is what a budget counts.
type Measure int

// The measures.
const (
	FLOPs      Measure = iota // multiplications of layers with weights
	Parameters                // their weights and biases
	Bytes                     // the same in bytes
	Ratio                     // channels of every group alike
)

// Budget is how much of a network stays.
type Budget struct {
	Measure Measure
	// Keep is the share that stays, in (0, 1); of Parameters and Bytes it may be the number that may stay.
	Keep float64
}

// ErrBudget is the reason when a budget cannot be met.
var ErrBudget = errors.New("the budget cannot be met")

// Size is what the layers with weights of a network cost.
type Size struct {
	FLOPs      int64 `json:"flops"` // multiplications for one sample
	Parameters int64 `json:"parameters"`
	Channels   int   `json:"channels"`
}

// scale counts what layers cost when they have so many channels.
type scale struct {
	layers []*layer
	uses   []float64 // how often each weight is multiplied
	outs   []int
	ins    []int
}

// newScale takes the sizes of values from a graph of known shapes, by name.
func newScale(t *tracer, shapes map[string][]int) (*scale, error) {
	s := &scale{layers: t.layers}
	for _, l := range t.layers {
		v := l.n.Out[0]
		if l.n.Op == "ConvTranspose" {
			v = l.n.In[0]
		}
		shape := shapes[v.Name]
		if len(shape) == 0 {
			return nil, &fault.Error{Tensor: v.Name, Op: "prune.channels", Err: fmt.Errorf("the shape of %s is not known before it runs", v.Name), Hint: "fix the shapes of the inputs: --shape NAME=1x3x224x224"}
		}
		axis := len(shape) - 1
		if len(l.n.In[1].Const.Shape) > 2 {
			axis = 1
		}
		s.uses = append(s.uses, float64(graph.Elems(shape))/float64(max(shape[axis], 1)))
		in := l.n.In[1].Const.Shape[l.inAxis]
		if l.inAxis == 1 {
			in *= l.groups
		}
		s.outs, s.ins = append(s.outs, len(l.out)), append(s.ins, in)
	}
	return s, nil
}

// of is what one layer costs.
func (s *scale) of(i int, m Measure) float64 {
	l := s.layers[i]
	weights := float64(s.outs[i]) * float64(graph.Elems(l.n.In[1].Const.Shape[2:]))
	if !l.own {
		weights *= float64(s.ins[i]) / float64(l.groups)
	}
	if m == FLOPs {
		return weights * s.uses[i]
	}
	if l.n.Input(2) != nil {
		weights += float64(s.outs[i])
	}
	if m == Bytes {
		weights *= float64(l.n.In[1].Const.Type.Bytes(1))
	}
	return weights
}

func (s *scale) total(m Measure) (sum float64) {
	for i := range s.layers {
		sum += s.of(i, m)
	}
	return sum
}

func (s *scale) size() Size {
	z := Size{FLOPs: int64(s.total(FLOPs)), Parameters: int64(s.total(Parameters))}
	for i, l := range s.layers {
		if !l.own {
			z.Channels += s.outs[i]
		}
	}
	return z
}

// move takes a group from one number of removed units to another.
func (s *scale) move(g *group, from, to int) {
	for _, c := range g.touch {
		k := c.removed[to] - c.removed[from]
		if c.out {
			s.outs[c.layer] -= k
		} else {
			s.ins[c.layer] -= k
		}
	}
}

// saving is what a network gets cheaper when a group moves.
func (s *scale) saving(g *group, from, to int, m Measure) float64 {
	sum := func() (v float64) {
		last := -1
		for _, c := range g.touch { // ordered by layer
			if c.layer != last {
				v += s.of(c.layer, m)
				last = c.layer
			}
		}
		return v
	}
	before := sum()
	s.move(g, from, to)
	after := sum()
	s.move(g, to, from)
	return before - after
}

// choose finds how many units of each group go: always the step that costs least for what it saves, until the
// budget holds. Costs of a group grow faster than the number of its units, so no group goes alone.
func choose(ctx context.Context, groups []*group, s *scale, b Budget) ([]int, error) {
	at := make([]int, len(groups)) // in group.kept
	gone := func(i, k int) int { return len(groups[i].units) - groups[i].kept[k] }
	if b.Measure == Ratio {
		for i, g := range groups {
			for at[i]+1 < len(g.kept) && float64(g.kept[at[i]]) > math.Ceil(b.Keep*float64(len(g.units))-1e-9) &&
				math.Abs(float64(g.kept[at[i]+1])-b.Keep*float64(len(g.units))) <= math.Abs(float64(g.kept[at[i]])-b.Keep*float64(len(g.units))) {
				at[i]++
			}
			s.move(g, 0, gone(i, at[i]))
		}
		return counts(groups, at), nil
	}
	whole := s.total(b.Measure)
	limit := b.Keep * whole
	if b.Keep > 1 {
		limit = b.Keep
	}
	for now := whole; now > limit; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		best, least, gain := -1, math.Inf(1), 0.0
		for i, g := range groups {
			if at[i]+1 >= len(g.kept) {
				continue
			}
			from, to := gone(i, at[i]), gone(i, at[i]+1)
			saved := s.saving(g, from, to, b.Measure)
			if saved <= 0 {
				continue
			}
			if c := (g.cost[to] - g.cost[from]) / saved; c < least {
				best, least, gain = i, c, saved
			}
		}
		if best < 0 {
			return nil, &fault.Error{
				Op: "prune.channels", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%w: %.1f %% is the least that may stay", ErrBudget, 100*now/whole)),
				Hint: "a smaller --floor or --multiple, or other --skip, lets more go",
			}
		}
		s.move(groups[best], gone(best, at[best]), gone(best, at[best]+1))
		at[best]++
		now -= gain
	}
	if err := improve(ctx, groups, at, s, b.Measure, limit); err != nil {
		return nil, err
	}
	return counts(groups, at), nil
}

// reach of the exchange that follows the greedy choice, in steps of a group, how often it is repeated, and how many
// pairs of groups are looked at in all: every round looks at each with each.
const (
	exchange  = 8
	exchanges = 100
	pairs     = 1 << 20
)

// improve gives groups back what the last steps took too much, and exchanges steps of two groups, as long as the
// budget holds and the costs fall.
func improve(ctx context.Context, groups []*group, at []int, s *scale, m Measure, limit float64) error {
	gone := func(i, k int) int { return len(groups[i].units) - groups[i].kept[k] }
	cost := func(i, k int) float64 { return groups[i].cost[gone(i, k)] }
	move := func(i, to int) {
		s.move(groups[i], gone(i, at[i]), gone(i, to))
		at[i] = to
	}
	for range min(exchanges, pairs/max(len(groups)*len(groups), 1)) {
		now := s.total(m)
		type pair struct{ up, upTo, down, downTo int }
		best, most := pair{}, 1e-12
		for i := range groups {
			if err := ctx.Err(); err != nil {
				return err
			}
			was := at[i]
			for k := max(was-exchange, 0); k < was; k++ {
				gain := cost(i, was) - cost(i, k)
				more := -s.saving(groups[i], gone(i, was), gone(i, k), m)
				if now+more <= limit && gain > most {
					best, most = pair{i, k, -1, 0}, gain
				}
				move(i, k)
				for j := range groups {
					for l := at[j] + 1; j != i && l <= at[j]+exchange && l < len(groups[j].kept); l++ {
						g := gain - (cost(j, l) - cost(j, at[j]))
						if g > most && now+more-s.saving(groups[j], gone(j, at[j]), gone(j, l), m) <= limit {
							best, most = pair{i, k, j, l}, g
						}
					}
				}
				move(i, was)
			}
		}
		if most <= 1e-12 {
			return nil
		}
		move(best.up, best.upTo)
		if best.down >= 0 {
			move(best.down, best.downTo)
		}
	}
	return nil
}

func counts(groups []*group, at []int) []int {
	out := make([]int, len(groups))
	for i, g := range groups {
		out[i] = len(g.units) - g.kept[at[i]]
	}
	return out
}
