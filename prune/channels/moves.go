package channels

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// split cuts channels into parts, or hands them on where it cuts another axis.
func (t *tracer) split(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	axis := axisOf(n.Int("axis", 0), rank(n.In[0]))
	if axis < 0 {
		return whyShapes
	}
	if axis != l.axis {
		return t.each(n, l)
	}
	at, parts := 0, make([][]int, len(n.Out))
	for i, v := range n.Out {
		k := size(v, axis)
		if k < 0 || at+k > len(l.ids) {
			return whyShapes
		}
		parts[i] = l.ids[at : at+k]
		t.at[v] = &label{axis, parts[i]}
		at += k
	}
	if at != len(l.ids) {
		return whyShapes
	}
	t.edit(func(k *keeper) {
		sizes := make([]int64, len(parts))
		for i, ids := range parts {
			sizes[i] = int64(len(k.list(ids)))
		}
		delete(n.Attrs, "num_outputs")
		k.ints(n, 1, "split", 13, sizes)
	})
	return ""
}

// each labels all outputs as the input is.
func (t *tracer) each(n *graph.Node, l *label) string {
	for _, v := range n.Out {
		if !t.give(v, l.axis, l.ids) {
			return whyShapes
		}
	}
	return ""
}

// slice takes a range of the channels, or of another axis.
func (t *tracer) slice(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	starts, ok1 := ints(n, 1, "starts")
	ends, ok2 := ints(n, 2, "ends")
	axes, ok3 := ints(n, 3, "axes")
	steps, ok4 := ints(n, 4, "steps")
	if !ok1 || !ok2 || !ok3 || !ok4 || len(starts) != len(ends) {
		return whyShapes
	}
	if axes == nil {
		for i := range starts {
			axes = append(axes, i)
		}
	}
	if len(axes) != len(starts) || steps != nil && len(steps) != len(starts) {
		return whyShapes
	}
	for i, a := range axes {
		if axisOf(a, rank(n.In[0])) != l.axis {
			continue
		}
		if steps != nil && steps[i] != 1 {
			return "takes every so many channels"
		}
		count := len(l.ids)
		from, to := bound(starts[i], count), bound(ends[i], count)
		if to <= from || !t.give(n.Out[0], l.axis, l.ids[from:to]) {
			return whyShapes
		}
		t.edit(func(k *keeper) {
			first := len(k.list(l.ids[:from]))
			last := first + len(k.list(l.ids[from:to]))
			s, e := wide(starts), wide(ends)
			s[i], e[i] = int64(first), int64(last)
			k.ints(n, 1, "starts", 10, s)
			k.ints(n, 2, "ends", 10, e)
		})
		return ""
	}
	return t.each(n, l)
}

// bound is a start or an end as Slice counts them.
func bound(i, n int) int {
	if i < 0 {
		i += n
	}
	return min(max(i, 0), n)
}

func wide(list []int) []int64 {
	out := make([]int64, len(list))
	for i, v := range list {
		out[i] = int64(v)
	}
	return out
}

// gather picks channels by number, or from another axis.
func (t *tracer) gather(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return whyType // indices that are computed from channels
	}
	axis := axisOf(n.Int("axis", 0), rank(n.In[0]))
	index := n.Input(1)
	if axis < 0 || rank(index) < 0 || t.at[index] != nil {
		return whyShapes
	}
	if axis != l.axis {
		to := l.axis
		if axis < l.axis {
			to += rank(index) - 1
		}
		if !t.give(n.Out[0], to, l.ids) {
			return whyShapes
		}
		return ""
	}
	list, ok := ints(n, 1, "")
	if !ok || rank(index) != 1 {
		return "picks channels while it runs"
	}
	picked := make([]int, len(list))
	for i, c := range list {
		if c = axisOf(c, len(l.ids)); c < 0 {
			return whyShapes
		}
		picked[i] = l.ids[c]
		list[i] = c
	}
	if !t.give(n.Out[0], axis, picked) {
		return whyShapes
	}
	t.edit(func(k *keeper) {
		place := map[int]int{}
		for i, c := range k.list(l.ids) {
			place[c] = i
		}
		var out []int64
		for _, c := range list {
			if p, ok := place[c]; ok {
				out = append(out, int64(p))
			}
		}
		k.ints(n, 1, "", 1, out)
	})
	return ""
}

// transpose moves the axis of the channels.
func (t *tracer) transpose(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	r := rank(n.In[0])
	perm := n.Ints("perm")
	to := r - 1 - l.axis
	if perm != nil {
		to = slices.Index(perm, l.axis)
	}
	if !t.give(n.Out[0], to, l.ids) {
		return whyShapes
	}
	return ""
}

// reshape finds the channels again: every channel becomes a block of an axis, or blocks of an axis become channels.
func (t *tracer) reshape(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	in, out := n.In[0], n.Out[0]
	var target []int
	if n.Op == "Reshape" {
		var ok bool
		if target, ok = ints(n, 1, "shape"); !ok {
			return "takes its shape while it runs"
		}
	}
	rest, ok := product(in, l.axis+1)
	if !ok {
		return whyShapes
	}
	count := len(l.ids)
	if count == 0 || rest == 0 {
		return whyShapes
	}
	for axis := range max(rank(out), 0) {
		tail, ok := product(out, axis)
		if !ok || tail != count*rest {
			continue
		}
		var ids []int
		switch c := size(out, axis); {
		case c <= 0 || c == 1 && count > 1:
			continue
		case c > mostIDs:
			return "makes too many indices of the channels"
		case c%count == 0 && rest%(c/count) == 0: // a channel is c/count neighbours
			for _, id := range l.ids {
				for range c / count {
					ids = append(ids, id)
				}
			}
		case count%c == 0: // count/c channels go together
			for i, id := range l.ids {
				t.u.join(id, l.ids[i/(count/c)*(count/c)])
			}
			for i := range c {
				ids = append(ids, l.ids[i*(count/c)])
			}
		default:
			continue
		}
		if target != nil && (axis >= len(target) || axis != l.axis && l.axis < len(target) && target[l.axis] == 0) {
			return whyShapes // the number of channels would be copied to another axis
		}
		t.at[out] = &label{axis, ids}
		if target != nil && target[axis] > 0 {
			t.edit(func(k *keeper) {
				dims := wide(target)
				dims[axis] = int64(len(k.list(ids)))
				k.ints(n, 1, "shape", 5, dims)
			})
		}
		if target != nil && target[axis] == 0 && (n.Int("allowzero", 0) != 0 || axis != l.axis) {
			return whyShapes
		}
		return ""
	}
	return "merges channels with other axes"
}

// mostIDs are the indices that an axis may have that was made of channels and other axes: a layer that reads it has
// as many columns, and more is no network but a mistake.
const mostIDs = 1 << 24

// product is the number of elements behind an axis, that one included.
func product(v *graph.Value, axis int) (int, bool) {
	p := 1
	for i := axis; i < rank(v); i++ {
		s := size(v, i)
		if s < 0 || s > 0 && p > graph.MaxElems/s {
			return 0, false
		}
		p *= s
	}
	return p, true
}

// pad may enlarge any axis but that of the channels.
func (t *tracer) pad(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	pads, ok := ints(n, 1, "pads")
	axes, ok2 := ints(n, 3, "")
	r := rank(n.In[0])
	if !ok || !ok2 || r < 0 {
		return whyShapes
	}
	if axes == nil {
		for i := range r {
			axes = append(axes, i)
		}
	}
	if len(pads) != 2*len(axes) {
		return whyShapes
	}
	for i, a := range axes {
		if axisOf(a, r) == l.axis && (pads[i] != 0 || pads[i+len(axes)] != 0) {
			return "pads the channels"
		}
	}
	return t.each(n, l)
}

// resize may change any axis but that of the channels.
func (t *tracer) resize(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	if size(n.Out[0], l.axis) != len(l.ids) || n.Has("axes") {
		return "resizes the channels, or its axes by name"
	}
	sizes, ok := ints(n, 3, "")
	if !ok {
		return whyShapes
	}
	if n.Input(3) != nil && len(sizes) > 0 {
		if len(sizes) != rank(n.In[0]) {
			return whyShapes
		}
		t.edit(func(k *keeper) {
			s := wide(sizes)
			s[l.axis] = int64(len(k.list(l.ids)))
			k.ints(n, 3, "", 1, s)
		})
	}
	return t.each(n, l)
}

// reduce may reduce any axis but that of the channels.
func (t *tracer) reduce(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	axes, ok := ints(n, 1, "axes")
	r := rank(n.In[0])
	if !ok || len(axes) == 0 {
		return whyAxis
	}
	to := l.axis
	for _, a := range axes {
		switch a = axisOf(a, r); {
		case a < 0 || a == l.axis:
			return whyAxis
		case a < l.axis && n.Int("keepdims", 1) == 0:
			to--
		}
	}
	if !t.give(n.Out[0], to, l.ids) {
		return whyShapes
	}
	return ""
}

// along computes along one axis.
func (t *tracer) along(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	axis, ok := n.Int("axis", -1), true
	if n.Op == "CumSum" {
		var list []int
		if list, ok = ints(n, 1, ""); len(list) != 1 {
			return whyShapes
		}
		axis = list[0]
	} else if t.g.Opset[""] < 13 { // all axes from this one on
		return whyAxis
	}
	if axis = axisOf(axis, rank(n.In[0])); !ok || axis < 0 || axis == l.axis {
		return whyAxis
	}
	return t.each(n, l)
}

// shape tells others how many channels there are, unless they ask for other axes alone.
func (t *tracer) shape(n *graph.Node) string {
	l := t.at[n.In[0]]
	if l == nil {
		return ""
	}
	r := rank(n.In[0])
	for _, m := range t.x.Readers[n.Out[0]] {
		list, ok := ints(m, 1, "")
		if m.Op != "Gather" || m.Domain != "" || m.In[0] != n.Out[0] || !ok || n.Has("start") || n.Has("end") || list == nil {
			return "hands the number of channels on"
		}
		for _, i := range list {
			if i = axisOf(i, r); i < 0 || i == l.axis {
				return "hands the number of channels on"
			}
		}
	}
	if t.x.Output[n.Out[0]] {
		return "hands the number of channels on"
	}
	return ""
}
