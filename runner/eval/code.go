package eval

import (
	"fmt"
	"unsafe"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// code is a graph with its values numbered. The number of a value is its slot; inputs come first, then what
// nodes make, then constants and what the graph takes from the graphs around it, as they are met.
type code struct {
	graph    *graph.Graph
	prog     *Program
	slots    map[*graph.Value]int
	values   []*graph.Value // by slot
	consts   map[int]*graph.Tensor
	captures []int // slots of what comes from outside
	inputs   []int
	defaults []*graph.Tensor // of inputs, nil without one
	outputs  []int
	nodes    []*node
}

// node is a node with its operator and slots; -1 for what is left out.
type node struct {
	*graph.Node
	prog    *Program
	op      *Op
	version int
	in, out []int
	bodies  map[string]*code
	// reads are the slots that the bodies take from this graph.
	reads []int
	once  map[string]any // see Once
}

// fault is an error of the node.
func (n *node) fault(err error) error {
	return &fault.Error{Tensor: n.Label(), Op: "eval", Err: err}
}

// compiler collects what is wrong with a graph.
type compiler struct {
	prog    *Program
	opset   map[string]int
	missing map[string][]string
	depth   int
}

// maxDepth bounds how deep subgraphs are nested.
const maxDepth = 32

// code numbers the values of a graph.
func (cc *compiler) code(g *graph.Graph) (*code, error) {
	if cc.depth++; cc.depth > maxDepth {
		return nil, fmt.Errorf("subgraphs nested deeper than %d", maxDepth)
	}
	defer func() { cc.depth-- }()
	c := &code{graph: g, prog: cc.prog, slots: map[*graph.Value]int{}, consts: map[int]*graph.Tensor{}}
	for _, v := range g.Inputs {
		c.inputs = append(c.inputs, c.add(v))
		var d *graph.Tensor
		if v.Const != nil {
			d = aligned(v.Const)
		}
		c.defaults = append(c.defaults, d)
	}
	for _, n := range g.Nodes {
		for _, v := range n.Out {
			if v != nil {
				c.add(v)
			}
		}
	}
	for _, n := range g.Nodes {
		if err := cc.node(c, n, version(cc.opset, n.Domain), domain(n.Domain) != ownDomain); err != nil {
			return nil, err
		}
	}
	for _, v := range g.Outputs {
		c.outputs = append(c.outputs, c.slot(v))
	}
	return c, nil
}

// node adds a node, or the parts of which it is made.
func (cc *compiler) node(c *code, n *graph.Node, version int, ok bool) error {
	nd := &node{Node: n, prog: cc.prog, version: version, once: map[string]any{}}
	if ok {
		nd.op = find(n.Domain, n.Op, version)
	}
	if nd.op == nil {
		name := n.Op
		if n.Domain != "" {
			name = n.Domain + "." + name
		}
		name += fmt.Sprintf(" of version %d", version)
		cc.missing[name] = append(cc.missing[name], n.Label())
	} else if nd.op.Parts != nil {
		return cc.parts(c, nd)
	}
	for _, v := range n.In {
		nd.in = append(nd.in, c.slot(v))
	}
	for _, v := range n.Out {
		s := -1
		if v != nil {
			s = c.slots[v]
		}
		nd.out = append(nd.out, s)
	}
	for name, a := range n.Attrs {
		if a.Graph == nil {
			continue
		}
		body, err := cc.code(a.Graph)
		if err != nil {
			return err
		}
		if nd.bodies == nil {
			nd.bodies = map[string]*code{}
		}
		nd.bodies[name] = body
		for _, s := range body.captures {
			nd.reads = append(nd.reads, c.slot(body.values[s]))
		}
	}
	c.nodes = append(c.nodes, nd)
	return nil
}

// parts adds what a node is made of.
func (cc *compiler) parts(c *code, nd *node) error {
	p := &parts{Node: nd.Node}
	for i := range nd.op.required() {
		if err := p.needs(i); err != nil {
			return nd.fault(err)
		}
	}
	if err := nd.op.Parts(p); err != nil {
		return nd.fault(err)
	}
	for _, part := range p.list {
		for _, v := range part.Out {
			c.add(v)
		}
		if err := cc.node(c, part.Node, part.version, true); err != nil {
			return err
		}
	}
	return nil
}

// add gives a value of this graph a slot.
func (c *code) add(v *graph.Value) int {
	s, ok := c.slots[v]
	if !ok {
		s = len(c.values)
		c.slots[v] = s
		c.values = append(c.values, v)
	}
	return s
}

// slot is the number of a value that is read here: the graph's own, a constant, or one from outside.
func (c *code) slot(v *graph.Value) int {
	if v == nil {
		return -1
	}
	if s, ok := c.slots[v]; ok {
		return s
	}
	s := c.add(v)
	if v.Const != nil {
		c.consts[s] = aligned(v.Const)
	} else {
		c.captures = append(c.captures, s)
	}
	return s
}

// aligned is a constant whose elements can be read where they lie; files have them anywhere.
func aligned(t *graph.Tensor) *graph.Tensor {
	size := uintptr(max(1, min(t.Type.Bits()/8, 8)))
	if len(t.Data) == 0 || uintptr(unsafe.Pointer(unsafe.SliceData(t.Data)))%size == 0 {
		return t
	}
	c := clone(t)
	if t.Drop != nil {
		t.Drop()
	}
	return c
}
