package rewrite

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// identities takes nodes away that hand on their input, and makes one of two changes of shape or order.
func (c *rewriter) identities() (int, error) {
	changed := 0
	for _, n := range c.g.Nodes {
		if c.gone[n] || n.Domain != "" || len(n.In) == 0 || n.In[0] == nil || n.Output(0) == nil {
			continue
		}
		if in := c.sameAs(n); in != nil && c.alone(n) {
			if in.Const != nil && c.x.Output[n.Out[0]] {
				continue
			}
			if c.forward(n.Out[0], in) {
				c.drop(n)
				changed++
			}
			continue
		}
		if c.chain(n) {
			changed++
		}
	}
	return changed, nil
}

// alone reports whether only the first output of a node is read.
func (c *rewriter) alone(n *graph.Node) bool {
	for _, v := range n.Out[1:] {
		if v != nil && (c.x.Output[v] || len(c.x.Readers[v]) > 0) {
			return false
		}
	}
	return true
}

// sameAs is the input whose value output 0 of the node has, or nil.
func (c *rewriter) sameAs(n *graph.Node) *graph.Value {
	x := n.In[0]
	switch n.Op {
	case "Identity":
		return x
	case "Dropout":
		// Before opset 12 a Dropout in a file is one for inference; from then on an input says otherwise.
		if t := n.Input(2); t == nil || c.isZero(t) {
			return x
		}
	case "Cast":
		if x.Type != graph.Undefined && x.Kind == graph.KindTensor && int(x.Type) == n.Int("to", 0) {
			return x
		}
	case "Transpose":
		if p := n.Ints("perm"); len(p) > 0 && sorted(p) {
			return x
		}
	case "Concat", "Sum", "Max", "Min", "Mean":
		if len(n.In) == 1 {
			return x
		}
	case "Pad":
		if p, ok := c.padding(n); ok && !slices.ContainsFunc(p, func(v int) bool { return v != 0 }) {
			return x
		}
	case "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Slice", "Tile":
		// The same known shape before and after: nothing moved, unless a Slice turns an axis around.
		if n.Op == "Slice" && !c.forwards(n) {
			return nil
		}
		a, ok := shape(x)
		if b, known := shape(n.Out[0]); ok && known && slices.Equal(a, b) {
			return x
		}
	case "Add", "Sub", "Mul", "Div":
		return c.neutral(n)
	}
	return nil
}

// forwards reports whether every step of a Slice is known to be one.
func (c *rewriter) forwards(n *graph.Node) bool {
	if len(n.In) < 5 || n.In[4] == nil {
		return true
	}
	t := c.known(n.In[4])
	if t == nil {
		return false
	}
	steps, err := t.Ints()
	return err == nil && !slices.ContainsFunc(steps, func(v int64) bool { return v != 1 })
}

func sorted(p []int) bool {
	for i, v := range p {
		if i != v {
			return false
		}
	}
	return true
}

// neutral is the other operand where one is 0 (added, subtracted) or 1 (multiplied, divided by) everywhere
// and does not change the shape.
func (c *rewriter) neutral(n *graph.Node) *graph.Value {
	if len(n.In) != 2 || n.In[1] == nil {
		return nil
	}
	want := float32(0)
	if is(n, "Mul", "Div") {
		want = 1
	}
	sides := []int{1}
	if is(n, "Add", "Mul") {
		sides = []int{1, 0}
	}
	for _, i := range sides {
		t, x := c.known(n.In[i]), n.In[1-i]
		if t == nil || t.Type != graph.Float32 || !all(t, want) {
			continue
		}
		if len(t.Shape) == 0 {
			return x
		}
		if dims, ok := shape(x); ok && broadcasts(t.Shape, dims) {
			return x
		}
		if r := rank(x); r >= len(t.Shape) && t.Elems() == 1 {
			return x
		}
	}
	return nil
}

// all reports whether every element is v: exactly, and with its sign for zero, since x + 0 is not x for -0
// while x + -0 is; the difference between zeros is none that a network can tell, so both are taken.
func all(t *graph.Tensor, v float32) bool {
	for _, e := range graph.Of[float32](t) {
		if e != v {
			return false
		}
	}
	return t.Elems() > 0
}

// broadcasts reports whether a tensor of shape a leaves one of shape b as it is.
func broadcasts(a, b []int) bool {
	if len(a) > len(b) {
		return false
	}
	for i, d := range a {
		if e := b[len(b)-len(a)+i]; d != 1 && d != e {
			return false
		}
	}
	return true
}

func (c *rewriter) isZero(v *graph.Value) bool {
	t := c.known(v)
	return t != nil && len(t.Data) > 0 && !slices.ContainsFunc(t.Data, func(b byte) bool { return b != 0 })
}

// chain makes one node of two that follow each other: Transpose of Transpose, Reshape of anything that only
// changes the shape, Cast of a widening Cast.
func (c *rewriter) chain(n *graph.Node) bool {
	before := c.x.Producer[n.In[0]]
	if before == nil || c.gone[before] || before.Domain != "" || len(before.In) == 0 || before.In[0] == nil {
		return false
	}
	switch {
	case is(n, "Transpose") && is(before, "Transpose"):
		p, q := n.Ints("perm"), before.Ints("perm")
		if len(p) == 0 || len(p) != len(q) {
			return false
		}
		both := make([]int64, len(p))
		for i, v := range p {
			if v < 0 || v >= len(q) {
				return false
			}
			both[i] = int64(q[v])
		}
		n.Attrs = map[string]graph.Attr{"perm": {Kind: graph.AttrInts, Ints: both}}
	case is(n, "Reshape") && is(before, "Reshape", "Flatten", "Squeeze", "Unsqueeze"):
		// A 0 in the shape copies a dimension of what is read, which would be another one.
		t := c.known(n.Input(1))
		if t == nil {
			return false
		}
		dims, err := t.Ints()
		if err != nil || slices.Contains(dims, 0) {
			return false
		}
	default:
		return false
	}
	c.read(n, 0, before.In[0])
	return true
}

// finite reports whether no element is NaN or infinite.
func finite(x []float32) bool {
	return !slices.ContainsFunc(x, func(v float32) bool { return math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) })
}
