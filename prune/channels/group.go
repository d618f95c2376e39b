package channels

import (
	"fmt"
	"slices"
	"strings"
)

// group are the units that the same layers make. Which of them go is chosen among themselves, how many go is
// chosen among all groups.
type group struct {
	makers []*layer // layers whose outputs they are, depthwise ones left out
	units  []int    // roots, in the order of the channels
	free   []int    // those that may go
	why    string   // why the others may not
	// order are the free units, those that matter least first; cost[i] is what it costs when i of them go.
	order []int
	cost  []float64
	touch []touch
	kept  []int // numbers of units that may stay, from all to the fewest
}

// touch says how many channels of a layer go with the units of a group.
type touch struct {
	layer   int
	out     bool  // of its outputs; else of its inputs
	removed []int // [i]: when i units of the order went
}

// grouped sorts the units of a trace into groups, in the order of the layers.
func (t *tracer) grouped() []*group {
	var groups []*group
	of := map[int]*group{}
	seen := map[int]bool{}
	for _, l := range t.layers {
		if l.own {
			continue
		}
		for _, id := range l.out {
			g := of[t.u.group(id)]
			if g == nil {
				g = &group{}
				of[t.u.group(id)] = g
				groups = append(groups, g)
			}
			if !slices.Contains(g.makers, l) {
				g.makers = append(g.makers, l)
			}
			r := t.u.root(id)
			if seen[r] {
				continue
			}
			seen[r] = true
			g.units = append(g.units, r)
			if why := t.u.pinned(r); why == "" {
				g.free = append(g.free, r)
			} else if g.why == "" {
				g.why = why
			}
		}
	}
	return groups
}

// name is that of the layers that make the channels.
func (g *group) name() string {
	var names []string
	for _, l := range g.makers {
		name := l.n.Name
		if name == "" {
			name = l.n.Out[0].Name
		}
		names = append(names, name)
	}
	if len(names) > 3 {
		names = append(names[:2], fmt.Sprintf("%d more", len(names)-2))
	}
	return strings.Join(names, ", ")
}

// spare keeps the last unit of every value: what is split off, sliced or picked from the channels of a group has one
// left, whatever it is worth, since what reads it cannot read nothing.
func (t *tracer) spare(groups []*group) {
	of := map[int][]int{} // the values that a unit is in
	var left []int        // units of each of them
	for _, l := range t.at {
		mine := map[int]bool{}
		for _, id := range l.ids {
			if r := t.u.root(id); !mine[r] {
				mine[r] = true
				of[r] = append(of[r], len(left))
			}
		}
		left = append(left, len(mine))
	}
	for _, g := range groups {
		order, cost := g.order[:0:0], []float64{0}
		for i, r := range g.order {
			if slices.ContainsFunc(of[r], func(v int) bool { return left[v] == 1 }) {
				if g.why == "" && i+1 < len(g.order) {
					g.why = "it is the last of a part"
				}
				continue
			}
			for _, v := range of[r] {
				left[v]--
			}
			order, cost = append(order, r), append(cost, g.cost[i+1])
		}
		g.order, g.cost = order, cost
	}
}

// steps finds how many units may stay: multiples that kernels like, which are halved for groups that have fewer
// than eight of them, and not fewer than a share.
func (g *group) steps(multiple int, floor float64) {
	n := len(g.units)
	for multiple > 1 && n < 8*multiple {
		multiple /= 2
	}
	least := max(int(floor*float64(n)+0.999), n-len(g.order), 1)
	g.kept = []int{n}
	for k := (n - 1) / multiple * multiple; k >= least && k > 0; k -= multiple {
		g.kept = append(g.kept, k)
	}
}

// reach fills in how the layers shrink with the group, once the order is known.
func (g *group) reach(u *units, layers []*layer) {
	g.touch = nil
	place := map[int]int{}
	for i, r := range g.order {
		place[r] = i
	}
	for i, l := range layers {
		for _, side := range []struct {
			ids []int
			out bool
		}{{l.out, true}, {l.in, false}} {
			removed, any := make([]int, len(g.order)+1), false
			for _, id := range side.ids {
				if p, ok := place[u.root(id)]; ok {
					removed[p+1]++
					any = true
				}
			}
			if !any {
				continue
			}
			for k := range g.order {
				removed[k+1] += removed[k]
			}
			g.touch = append(g.touch, touch{i, side.out, removed})
		}
	}
}
