package formats

import (
	"encoding/binary"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"unsafe"

	"github.com/pare-dev/pare/ir/graph"
)

// digestGraph tells whether a graph is still what it was: a clone has the same digest, a graph that a pass has
// changed another. Large tensors count by where they lie in memory, since nobody edits those in place; so
// digests mean nothing to another process. Every graph that is opened is digested, so this is quick.
func digestGraph(g *graph.Graph) uint64 {
	d := digester{ids: map[*graph.Value]int{}}
	d.h.SetSeed(digestSeed)
	d.graph(g)
	return d.h.Sum64()
}

var digestSeed = maphash.MakeSeed()

// digester writes everything with its length or a mark before it, so that different graphs are different bytes.
type digester struct {
	h   maphash.Hash
	ids map[*graph.Value]int
}

// Marks of what follows.
const (
	markNone = iota
	markSome
	markKnown
	markEnd
)

func (d *digester) number(v int) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(v)) //nolint:gosec // the bits count
	_, _ = d.h.Write(b[:])                         // never fails
}

func (d *digester) text(s string) {
	d.number(len(s))
	_, _ = d.h.WriteString(s)
}

func (d *digester) texts(list []string) {
	d.number(len(list))
	for _, s := range list {
		d.text(s)
	}
}

func (d *digester) pairs(m map[string]string) {
	d.number(len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		d.text(k)
		d.text(m[k])
	}
}

func (d *digester) graph(g *graph.Graph) {
	d.text(g.Name)
	d.text(g.Doc)
	d.number(len(g.Opset))
	for _, k := range slices.Sorted(maps.Keys(g.Opset)) {
		d.text(k)
		d.number(g.Opset[k])
	}
	d.pairs(g.Meta)
	d.values(g.Inputs)
	for _, n := range g.Nodes {
		d.number(markSome)
		for _, s := range []string{n.Name, n.Op, n.Domain, n.Doc} {
			d.text(s)
		}
		d.pairs(n.Meta)
		d.values(n.In)
		d.values(n.Out)
		d.number(len(n.Attrs))
		if len(n.Attrs) > 0 {
			for _, name := range slices.Sorted(maps.Keys(n.Attrs)) {
				d.attr(name, n.Attrs[name])
			}
		}
	}
	d.number(markEnd)
	d.values(g.Outputs)
}

func (d *digester) attr(name string, a graph.Attr) {
	d.text(name)
	d.number(int(a.Kind))
	d.number(int(a.Int))
	d.number(int(math.Float32bits(a.Float)))
	d.text(a.String)
	d.number(len(a.Ints))
	for _, v := range a.Ints {
		d.number(int(v))
	}
	d.number(len(a.Floats))
	for _, v := range a.Floats {
		d.number(int(math.Float32bits(v)))
	}
	d.texts(a.Strings)
	maphash.WriteComparable(&d.h, a.Raw)
	d.tensor(a.Tensor)
	d.number(len(a.Tensors))
	for _, t := range a.Tensors {
		d.tensor(t)
	}
	d.number(len(a.Graphs))
	for _, g := range append([]*graph.Graph{a.Graph}, a.Graphs...) {
		if g == nil {
			d.number(markNone)
			continue
		}
		d.number(markSome)
		d.graph(g)
	}
}

// smallDigest is up to what size the elements themselves count.
const smallDigest = 4 << 10

func (d *digester) tensor(t *graph.Tensor) {
	if t == nil {
		d.number(markNone)
		return
	}
	d.number(markSome)
	d.number(int(t.Type))
	d.shape(t.Shape)
	d.texts(t.Strings)
	d.number(len(t.Data))
	if len(t.Data) <= smallDigest && t.Fill == nil {
		_, _ = d.h.Write(t.Data)
		return
	}
	maphash.WriteComparable(&d.h, t)
	maphash.WriteComparable(&d.h, unsafe.SliceData(t.Data))
}

func (d *digester) shape(dims []int) {
	d.number(len(dims))
	for _, n := range dims {
		d.number(n)
	}
}

func (d *digester) values(list []*graph.Value) {
	d.number(len(list))
	for _, v := range list {
		if v == nil {
			d.number(markNone)
			continue
		}
		id, known := d.ids[v]
		if known {
			d.number(markKnown)
			d.number(id)
			continue
		}
		d.ids[v] = len(d.ids)
		d.number(markSome)
		d.text(v.Name)
		d.text(v.Doc)
		d.number(int(v.Kind))
		d.number(int(v.Type))
		maphash.WriteComparable(&d.h, v.Raw)
		if v.Shape == nil {
			d.number(markNone)
		} else {
			d.number(markSome)
			d.number(len(*v.Shape))
			for _, dim := range *v.Shape {
				d.number(dim.Size)
				d.text(dim.Name)
			}
		}
		d.tensor(v.Const)
	}
}
