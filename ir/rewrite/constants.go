package rewrite

import (
	"github.com/pare-dev/pare/ir/graph"
)

// random are operators whose result is no function of their inputs.
var random = map[string]bool{
	"RandomNormal": true, "RandomNormalLike": true, "RandomUniform": true, "RandomUniformLike": true,
	"Multinomial": true, "Bernoulli": true,
}

// constants computes nodes ahead whose inputs are all known. Quantized weights stay quantized: the operators
// that read codes are part of how a model is stored.
func (c *rewriter) constants() (int, error) {
	if c.opt.Evaluate == nil {
		return 0, nil
	}
	changed := 0
	for _, n := range c.g.Nodes {
		in, ok := c.foldable(n)
		if !ok {
			continue
		}
		out, err := c.opt.Evaluate(n, c.opset, in)
		if err != nil || len(out) < len(n.Out) {
			continue // a runtime will say so when it gets there; branches that are never taken may be wrong
		}
		if !c.worth(in, out) {
			continue
		}
		done := true
		for i, v := range n.Out {
			if v == nil {
				continue
			}
			if out[i] == nil || c.x.Output[v] {
				done = false // an output of the graph is made by a node
				continue
			}
			w := &graph.Value{Name: v.Name, Doc: v.Doc, Type: out[i].Type, Shape: graph.Fixed(out[i].Shape...), Const: out[i]}
			c.g.Replace(v, w)
			c.x.Readers[w] = c.x.Readers[v]
			delete(c.x.Readers, v)
		}
		if done {
			c.drop(n)
			changed++
		}
	}
	return changed, nil
}

// foldable gives the inputs of a node that can be computed ahead.
func (c *rewriter) foldable(n *graph.Node) ([]*graph.Tensor, bool) {
	if random[n.Op] || is(n, "DequantizeLinear", "QuantizeLinear") || n.Domain == "com.microsoft" || len(n.Graphs()) > 0 {
		return nil, false
	}
	for _, v := range n.Out {
		if v != nil && (c.x.Output[v] || v.Kind != graph.KindTensor) {
			return nil, false
		}
	}
	in := make([]*graph.Tensor, len(n.In))
	for i, v := range n.In {
		if v == nil {
			continue
		}
		t := c.known(v)
		if t == nil || t.Fill != nil {
			if is(n, "Shape") { // the value does not matter
				if dims, ok := shape(v); ok && v.Type.Known() && graph.CheckShape(dims) == nil {
					in[i] = &graph.Tensor{Type: v.Type, Shape: dims}
					continue
				}
			}
			return nil, false
		}
		in[i] = t
	}
	return in, true
}

// worth reports whether results may be kept in the place of their inputs, and counts them.
func (c *rewriter) worth(in, out []*graph.Tensor) bool {
	var a, b int
	seen := map[*graph.Tensor]bool{nil: true}
	for _, t := range in {
		if !seen[t] { // what is read twice is there once
			seen[t] = true
			a += len(t.Data)
		}
	}
	for _, t := range out {
		if t != nil {
			b += len(t.Data)
		}
	}
	if b > max(a, c.opt.MaxFold) || b > c.opt.MaxTotal-c.made {
		return false
	}
	c.made += b
	return true
}

// branches puts the branch of an If whose condition is known in its place.
func (c *rewriter) branches() (int, error) {
	for i, n := range c.g.Nodes {
		if !is(n, "If") || len(n.In) == 0 {
			continue
		}
		t := c.known(n.In[0])
		if t == nil || t.Type != graph.Bool || len(t.Data) != 1 {
			continue
		}
		name := "else_branch"
		if t.Data[0] != 0 {
			name = "then_branch"
		}
		body := n.Attrs[name].Graph
		if body == nil || len(body.Outputs) < len(n.Out) || !c.inline(n, body) {
			continue
		}
		c.g.Nodes = append(c.g.Nodes[:i:i], append(body.Nodes, c.g.Nodes[i+1:]...)...)
		return 1, nil // the index is that of another graph now
	}
	return 0, nil
}

// inline makes the readers of the If read the results of the branch. A branch may hand on a value of the
// graphs around it; an output of the graph then needs a node to make it.
func (c *rewriter) inline(n *graph.Node, body *graph.Graph) bool {
	made := map[*graph.Value]bool{}
	for _, m := range body.Nodes {
		for _, v := range m.Out {
			made[v] = true
		}
	}
	for i, v := range n.Out {
		if v == nil {
			continue
		}
		w := body.Outputs[i]
		if c.x.Output[v] || !made[w] && c.x.Output[w] {
			id := &graph.Node{Name: c.names.fresh(v.Name + "_id"), Op: "Identity", In: []*graph.Value{w}, Out: []*graph.Value{v}}
			body.Nodes = append(body.Nodes, id)
			continue
		}
		c.g.Replace(v, w)
	}
	return true
}
