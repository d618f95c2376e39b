package rewrite

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// pads moves a Pad into the convolution or pool that reads it, where that pads with the same values: zeros
// for Conv, and for an AveragePool that counts them; for a MaxPool, zeros after a ReLU as long as every
// window holds a value that is none of them.
func (c *rewriter) pads() (int, error) {
	changed := 0
	for _, n := range c.g.Nodes {
		if !is(n, "Conv", "AveragePool", "MaxPool") || n.In[0] == nil || n.Str("auto_pad", "NOTSET") != "NOTSET" {
			continue
		}
		p := c.x.Producer[n.In[0]]
		if !is(p, "Pad") || c.gone[p] || c.x.Only(n.In[0]) != n || n.Int("ceil_mode", 0) != 0 {
			continue
		}
		total, ok := c.padding(p)
		if !ok || len(total) < 6 {
			continue
		}
		half := len(total) / 2
		if slices.ContainsFunc(total, func(v int) bool { return v < 0 }) || total[0]+total[1]+total[half]+total[half+1] != 0 {
			continue
		}
		spatial := append(slices.Clone(total[2:half]), total[half+2:]...)
		own := n.Ints("pads")
		if own == nil {
			own = make([]int, len(spatial))
		}
		if len(own) != len(spatial) || !c.fits(n, p, own, spatial) {
			continue
		}
		sum := make([]int64, len(own))
		for i := range own {
			sum[i] = int64(own[i] + spatial[i])
		}
		n.Attrs["pads"] = graph.Attr{Kind: graph.AttrInts, Ints: sum}
		c.read(n, 0, p.In[0])
		changed++
	}
	return changed, nil
}

// fits reports whether a node pads with what p pads with.
func (c *rewriter) fits(n, p *graph.Node, own, more []int) bool {
	switch n.Op {
	case "Conv":
		return true
	case "AveragePool":
		// Padding that was there already and is not counted would be counted.
		return n.Int("count_include_pad", 0) != 0
	}
	if !is(c.x.Producer[p.In[0]], "Relu") {
		return false
	}
	k := n.Ints("kernel_shape")
	for i, v := range more {
		if len(k) == 0 || v+own[i] >= k[i%len(k)] {
			return false
		}
	}
	return n.Ints("dilations") == nil
}

// padding is what a Pad with constant zeros adds, all beginnings and then all ends.
func (c *rewriter) padding(n *graph.Node) ([]int, bool) {
	if n.Str("mode", "constant") != "constant" || n.Input(3) != nil {
		return nil, false
	}
	if n.Has("pads") { // until opset 10
		return n.Ints("pads"), n.Float("value", 0) == 0
	}
	t := c.known(n.Input(1))
	if t == nil || n.Input(2) != nil && !c.isZero(n.In[2]) {
		return nil, false
	}
	list, err := t.Ints()
	if err != nil {
		return nil, false
	}
	out := make([]int, len(list))
	for i, v := range list {
		out[i] = int(v)
	}
	return out, true
}
