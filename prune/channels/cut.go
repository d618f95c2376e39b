package channels

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/pare-dev/pare/ir/graph"
)

// keeper knows what stays, and cuts nodes accordingly.
type keeper struct {
	u     *units
	gone  map[int]bool // by root
	opset int
	made  map[string]*graph.Value // constants that several nodes share
	taken map[string]int          // names of values
	was   map[*graph.Value]string // what a constant that was made is called in the original
}

// list are the places of the ids that stay.
func (k *keeper) list(ids []int) []int {
	keep := make([]int, 0, len(ids))
	for i, id := range ids {
		if !k.gone[k.u.root(id)] {
			keep = append(keep, i)
		}
	}
	return keep
}

// apply cuts all that a trace followed: constants, attributes and the shapes of values.
func (t *tracer) apply(gone map[int]bool) *keeper {
	k := &keeper{u: &t.u, gone: gone, opset: t.g.Opset[""], made: map[string]*graph.Value{}, taken: map[string]int{}, was: map[*graph.Value]string{}}
	for _, n := range t.g.Nodes {
		for _, list := range [][]*graph.Value{n.In, n.Out} {
			for _, v := range list {
				if v != nil {
					k.taken[v.Name]++
				}
			}
		}
	}
	for _, do := range t.edits {
		do(k)
	}
	for v, l := range t.at {
		if v.Const == nil && v.Shape != nil {
			(*v.Shape)[l.axis].Size = len(k.list(l.ids))
		}
	}
	return k
}

// cut takes what goes out of an axis of a constant input.
func (k *keeper) cut(n *graph.Node, input, axis int, ids []int) {
	keep := k.list(ids)
	if len(keep) == len(ids) {
		return
	}
	v := n.In[input]
	key := fmt.Sprintf("%p %d %v", v, axis, keep)
	if k.made[key] == nil {
		k.made[key] = k.constant(v, slice(v.Const, axis, keep))
	}
	n.In[input] = k.made[key]
}

// constant is a new value in place of an old one, with a name of its own where others may go on reading that.
func (k *keeper) constant(old *graph.Value, t *graph.Tensor) *graph.Value {
	v := *old
	v.Const, v.Type, v.Shape = t, t.Type, graph.Fixed(t.Shape...)
	v.Name = k.fresh(old.Name + "_cut")
	k.was[&v] = old.Name
	if name, ok := k.was[old]; ok {
		k.was[&v] = name
	}
	return &v
}

// rename gives constants the names that they have in the original, where nothing else has them any more: weights are
// found by them.
func (k *keeper) rename(g *graph.Graph) {
	left := map[string]bool{}
	values(g, func(v *graph.Value) { left[v.Name] = true })
	values(g, func(v *graph.Value) {
		if name, ok := k.was[v]; ok && !left[name] {
			left[name], v.Name = true, name
		}
	})
}

// values visits all that a graph and the bodies of its nodes have, in order; what several nodes have, again.
func values(g *graph.Graph, visit func(v *graph.Value)) {
	all := func(list []*graph.Value) {
		for _, v := range list {
			if v != nil {
				visit(v)
			}
		}
	}
	all(g.Inputs)
	for _, n := range g.Nodes {
		all(n.In)
		all(n.Out)
		for _, body := range n.Graphs() {
			values(body, visit)
		}
	}
	all(g.Outputs)
}

func (k *keeper) fresh(name string) string {
	base := name
	for i := 1; k.taken[name] > 0; i++ {
		name = base + "_" + strconv.Itoa(i)
	}
	k.taken[name]++
	return name
}

// ints sets a list of integers: an attribute until the operator set that made it an input.
func (k *keeper) ints(n *graph.Node, input int, attr string, since int, list []int64) {
	if attr != "" && k.opset < since {
		if n.Attrs == nil {
			n.Attrs = map[string]graph.Attr{}
		}
		n.Attrs[attr] = graph.Attr{Kind: graph.AttrInts, Ints: list}
		return
	}
	t := graph.From(graph.Int64, list, len(list))
	base := &graph.Value{Name: n.Out[0].Name + "_" + attr}
	if old := n.Input(input); old != nil {
		base = old
		if old.Const.Type == graph.Int32 {
			narrow := make([]int32, len(list))
			for i, v := range list {
				narrow[i] = int32(v)
			}
			t = graph.From(graph.Int32, narrow, len(list))
		}
		if len(old.Const.Data) == len(t.Data) && slices.Equal(old.Const.Data, t.Data) {
			return
		}
	}
	for len(n.In) <= input {
		n.In = append(n.In, nil)
	}
	n.In[input] = k.constant(base, t)
}

// slice copies the places of an axis that stay.
func slice(t *graph.Tensor, axis int, keep []int) *graph.Tensor {
	shape := slices.Clone(t.Shape)
	shape[axis] = len(keep)
	out := graph.New(t.Type, shape...)
	inner := t.Type.Bytes(graph.Elems(t.Shape[axis+1:]))
	outer := graph.Elems(t.Shape[:axis])
	for o := range outer {
		for i, c := range keep {
			copy(out.Data[(o*len(keep)+i)*inner:][:inner], t.Data[(o*t.Shape[axis]+c)*inner:][:inner])
		}
	}
	return out
}
