package channels

import (
	"github.com/pare-dev/pare/ir/graph"
)

// Reasons that several rules have.
const (
	whyShapes = "has shapes that are not known"
	whyAxis   = "mixes the channels"
	whyFixed  = "joins them with what cannot be cut"
	whyType   = "reads them in an unusual form"
)

// same hands the channels on: element by element, all outputs have the shape of the input. Any further inputs
// (bounds of Clip, the ratio of Dropout) are single numbers.
func (t *tracer) same(n *graph.Node) string {
	l := t.at[n.In[0]]
	for _, v := range n.In[1:] {
		if t.at[v] != nil {
			return whyType
		}
	}
	if l == nil {
		return ""
	}
	for _, v := range n.Out {
		if !t.give(v, l.axis, l.ids) {
			return whyShapes
		}
	}
	return ""
}

// pool works on each channel by itself; channels are axis 1.
func (t *tracer) pool(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	if l.axis != 1 {
		return whyAxis
	}
	if len(n.Out) > 1 {
		return "gives indices that count through all channels"
	}
	return t.same(n)
}

// norm scales each channel by itself, with constants of its own.
func (t *tracer) norm(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	if l.axis != 1 || len(n.Out) > 1 && n.Out[1] != nil {
		return whyAxis
	}
	for _, v := range n.In[1:] {
		if !cuttable(v, 0, len(l.ids)) || rank(v) != 1 {
			return "has constants of another size"
		}
	}
	if !t.give(n.Out[0], 1, l.ids) {
		return whyShapes
	}
	t.edit(func(k *keeper) {
		for i := range n.In[1:] {
			k.cut(n, i+1, 0, l.ids)
		}
	})
	return ""
}

// joined are operators that meet their inputs element by element, with broadcasting: channel i of one meets channel
// i of the other, so they stay or go together.
func (t *tracer) joined(n *graph.Node) string {
	out := n.Out[0]
	r := rank(out)
	main := -1 // the channels' axis in the output
	var ids []int
	for _, v := range n.In {
		l := t.at[v]
		if l == nil {
			continue
		}
		if r < 0 || rank(v) > r {
			return whyShapes
		}
		axis := l.axis + r - rank(v)
		if main >= 0 && axis != main {
			return "joins channels of different axes"
		}
		if main = axis; len(l.ids) > len(ids) {
			ids = l.ids
		}
	}
	if ids == nil {
		return ""
	}
	if size(out, main) != len(ids) {
		return whyFixed
	}
	for i, v := range n.In {
		if v == nil {
			return whyShapes
		}
		l, axis := t.at[v], main-(r-rank(v))
		switch {
		case rank(v) < 0:
			return whyShapes
		case l != nil && len(l.ids) == len(ids):
			for c := range ids {
				t.u.join(ids[c], l.ids[c])
			}
		case l != nil: // one channel for all of the other
			t.u.pin(l.ids, n.Label()+" spreads it over all channels")
		case axis < 0 || size(v, axis) == 1: // the same for all channels
		case cuttable(v, axis, len(ids)):
			t.edit(func(k *keeper) { k.cut(n, i, axis, ids) })
		default:
			t.u.pin(ids, n.Label()+" "+whyFixed)
		}
	}
	t.at[out] = &label{main, ids}
	return ""
}

// concat puts channels behind each other, or joins them along another axis.
func (t *tracer) concat(n *graph.Node) string {
	axis := axisOf(n.Int("axis", 1), rank(n.Out[0]))
	first := -1
	for i, v := range n.In {
		if l := t.at[v]; l != nil && first < 0 {
			first = i
		}
	}
	if first < 0 {
		return ""
	}
	if axis < 0 {
		return whyShapes
	}
	main := t.at[n.In[first]].axis
	if main != axis {
		return t.beside(n, first)
	}
	var ids []int
	for i, v := range n.In {
		l := t.at[v]
		switch {
		case l != nil && l.axis != axis:
			return "joins channels of different axes"
		case l != nil:
			ids = append(ids, l.ids...)
		case size(v, axis) < 0 || size(v, axis) > mostIDs:
			return whyShapes
		default:
			fixed := t.u.fresh(size(v, axis))
			t.u.pin(fixed, n.Label()+" "+whyFixed)
			if ids = append(ids, fixed...); cuttable(v, axis, len(fixed)) {
				t.edit(func(k *keeper) { k.cut(n, i, axis, fixed) })
			}
		}
	}
	if !t.give(n.Out[0], axis, ids) {
		return whyShapes
	}
	return ""
}

// beside joins what is concatenated along another axis than that of the channels.
func (t *tracer) beside(n *graph.Node, first int) string {
	l := t.at[n.In[first]]
	for _, v := range n.In {
		if o := t.at[v]; o != nil && (o.axis != l.axis || len(o.ids) != len(l.ids)) {
			return "joins channels of different axes"
		}
	}
	if !t.give(n.Out[0], l.axis, l.ids) {
		return whyShapes
	}
	for i, v := range n.In {
		o := t.at[v]
		switch {
		case o != nil:
			for c := range l.ids {
				t.u.join(l.ids[c], o.ids[c])
			}
		case cuttable(v, l.axis, len(l.ids)):
			t.edit(func(k *keeper) { k.cut(n, i, l.axis, l.ids) })
		default:
			t.u.pin(l.ids, n.Label()+" "+whyFixed)
		}
	}
	return ""
}
