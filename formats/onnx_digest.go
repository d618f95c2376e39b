package formats

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"maps"
	"slices"
	"unsafe"

	"github.com/pare-dev/pare/ir/graph"
)

// digestGraph tells whether a graph is still what it was: a clone has the same digest, a graph that a pass has
// changed another. Large tensors count by where they lie in memory, since nobody edits those in place; so
// digests mean nothing to another process.
func digestGraph(g *graph.Graph) (sum [32]byte) {
	d := digester{h: sha256.New(), ids: map[*graph.Value]int{}}
	d.graph(g)
	d.h.Sum(sum[:0])
	return sum
}

type digester struct {
	h   hash.Hash
	ids map[*graph.Value]int
}

func (d *digester) add(format string, args ...any) { fmt.Fprintf(d.h, format, args...) }

func (d *digester) graph(g *graph.Graph) {
	d.add("graph %q %q %v %v\n", g.Name, g.Doc, g.Opset, g.Meta) // fmt sorts the keys of maps
	d.values(g.Inputs)
	for _, n := range g.Nodes {
		d.add("node %q %q %q %q %v\n", n.Name, n.Op, n.Domain, n.Doc, n.Meta)
		d.values(n.In)
		d.values(n.Out)
		for _, name := range slices.Sorted(maps.Keys(n.Attrs)) {
			d.attr(name, n.Attrs[name])
		}
	}
	d.values(g.Outputs)
}

func (d *digester) attr(name string, a graph.Attr) {
	d.add("attr %q %d %d %x %q %v %x %q %p\n", name, a.Kind, a.Int, a.Float, a.String, a.Ints, a.Floats, a.Strings, a.Raw)
	for _, t := range append([]*graph.Tensor{a.Tensor}, a.Tensors...) {
		d.tensor(t)
	}
	for _, g := range append([]*graph.Graph{a.Graph}, a.Graphs...) {
		if g != nil {
			d.graph(g)
		}
	}
}

// smallDigest is up to what size the elements themselves count.
const smallDigest = 4 << 10

func (d *digester) tensor(t *graph.Tensor) {
	if t == nil {
		d.add("none\n")
		return
	}
	d.add("tensor %d %v %q %d\n", t.Type, t.Shape, t.Strings, len(t.Data))
	if len(t.Data) <= smallDigest && t.Fill == nil {
		d.add("%x\n", t.Data)
		return
	}
	d.add("%p %p\n", t, unsafe.SliceData(t.Data))
}

func (d *digester) values(list []*graph.Value) {
	for _, v := range list {
		if v == nil {
			d.add("none\n")
			continue
		}
		id, known := d.ids[v]
		if known {
			d.add("value %d\n", id)
			continue
		}
		d.ids[v] = len(d.ids)
		d.add("new %q %q %d %d %p\n", v.Name, v.Doc, v.Kind, v.Type, v.Raw)
		if v.Shape != nil {
			d.add("%v\n", *v.Shape)
		}
		d.tensor(v.Const)
	}
	d.add("end\n")
}
