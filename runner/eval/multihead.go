package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Domain: msDomain, Name: "MultiHeadAttention", Inputs: 3, Narrow: true, Plan: byFloat(multiHead[float32], multiHead[float64])})
}

// Inputs of MultiHeadAttention.
const (
	mhQ = iota
	mhK
	mhV
	mhBias
	mhPadding
	mhAdd
	mhPastK
	mhPastV
)

// source is how queries, keys or values lie in their input, and where their biases begin.
type source struct {
	heads
	bias int
}

// multiHead plans attention with queries, keys and values in tensors of their own.
func multiHead[T float](c *Call) (Step, error) {
	n := c.Node.Int("num_heads", 0)
	a, src, err := newMultiHead(c, n)
	if err != nil {
		return Step{}, err
	}
	past, fresh := 0, a.total
	if c.Has(mhPastK) != c.Has(mhPastV) || c.Has(8) || c.Has(9) {
		return Step{}, c.Fault("inputs from %d on, the caches of a decoder, are not supported so", mhPastK)
	}
	typ := c.Type(0)
	if c.Has(mhPastK) {
		shape := c.Shape(mhPastK)
		if len(shape) != 4 || !slices.Equal(shape, []int{a.batch, n, shape[2], a.size}) || !slices.Equal(c.Shape(mhPastV), []int{a.batch, n, shape[2], a.vsize}) ||
			c.Type(mhPastK) != typ || c.Type(mhPastV) != typ {
			return Step{}, c.Fault("past keys %v and values %v of %d heads of %d", shape, c.Shape(mhPastV), n, a.size)
		}
		past = shape[2]
		a.total += past
	}
	add, err := newMask(c, mhAdd, a)
	if err != nil {
		return Step{}, err
	}
	padding, err := newPadding(c, mhPadding, a)
	if err != nil {
		return Step{}, err
	}
	keys, values := []int{a.batch, n, a.total, a.size}, []int{a.batch, n, a.total, a.vsize}
	for _, shape := range [][]int{keys, values, {a.batch, n, a.seq, max(a.total, a.vsize)}, {max(c.Threads, 1) * attendRows, a.total}} {
		if err := graph.CheckShape(shape); err != nil {
			return Step{}, c.Fault("%d queries of %d keys", a.seq, a.total)
		}
	}
	out := []int{a.batch, a.seq, n * a.vsize}
	a.y, _, _ = splitHeads(out, n)
	s := Step{Out: []Spec{Out(typ, out...), Out(typ, keys...), Out(typ, values...)}}
	if len(c.Node.Out) > 3 && c.Wants(3) {
		return Step{}, c.Fault("output 3, the scores, is not supported")
	}
	// queries, keys and values are laid out anew: they get biases, and stand behind those of the past
	sizes := [3]int{a.batch * n * a.seq * a.size, graph.Elems(keys), graph.Elems(values)}
	a.q = headsFirst([4]int{a.batch, n, a.seq, a.size})
	a.k, a.v = headsFirst([4]int(keys)), headsFirst([4]int(values))
	s.Scratch = round(typ.Bytes(a.scratch(max(c.Threads, 1))))
	for i, size := range sizes {
		if i == 0 || !c.Wants(i) {
			s.Scratch += round(typ.Bytes(size))
		}
	}
	causal := c.Node.Int("unidirectional", 0) != 0
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		rest := w.Scratch
		take := func(n int) []T {
			size := typ.Bytes(n)
			part := elems[T](&graph.Tensor{Type: typ, Data: rest[:size:size]})
			rest = rest[round(size):]
			return part
		}
		input := func(i int) []T {
			if i < len(in) && in[i] != nil {
				return elems[T](in[i])
			}
			return nil
		}
		scores := take(a.scratch(max(w.Threads, 1)))
		var parts [3][]T
		for i, size := range sizes {
			if i > 0 && i < len(out) && out[i] != nil {
				parts[i] = elems[T](out[i])
			} else {
				parts[i] = take(size)
			}
			tokens, before, width := a.seq, 0, a.size
			if i > 0 {
				tokens, before = fresh, past
			}
			if i == 2 {
				width = a.vsize
			}
			layHeads(w, parts[i], input(mhPastK+i-1), input(mhQ+i), input(mhBias), src[i], a.batch, n, before, tokens, width, i > 0)
		}
		if out[0] == nil {
			return nil
		}
		counts := padding.load(in, mhPadding)
		bias := func(row []T, b, h, i int) bool {
			if add != nil {
				addMask(add, in[mhAdd], row, b, h, i)
			}
			if counts != nil {
				applyPadding(padding, counts, row, b, i)
			}
			if causal {
				blank(row, 0, past+i+1)
			}
			return someCount(row)
		}
		return attend(w, a, elems[T](out[0]), parts[0], parts[1], parts[2], scores, nil, showProducts, bias)
	}
	return s, nil
}

// newMultiHead reads the shapes of queries, keys and values, the past not among them.
func newMultiHead(c *Call, n int) (*attention, [3]source, error) {
	var src [3]source
	q, k, v := c.Shape(mhQ), c.Shape(mhK), c.Shape(mhV)
	bad := func() (*attention, [3]source, error) {
		return nil, src, c.Fault("%d heads of queries %s %v, keys %s %v, values %s %v, bias %s %v", n, c.Type(mhQ), q, c.Type(mhK), k, c.Type(mhV), v, c.Type(mhBias), c.Shape(mhBias))
	}
	a := &attention{heads: n, kvHeads: n}
	for i := mhK; i <= mhBias; i++ {
		if c.Has(i) && c.Type(i) != c.Type(mhQ) {
			return bad()
		}
	}
	var qd, kd, vd [4]int
	var ok [3]bool
	src[0].heads, qd, ok[0] = splitHeads(q, n)
	src[1].heads, kd, ok[1] = splitHeads(k, n)
	src[2].heads, vd, ok[2] = splitHeads(v, n)
	if n < 1 || len(q) != 3 || !ok[0] || !ok[1] || !ok[2] || kd[0] != qd[0] || vd[0] != qd[0] || kd[1] != n || vd[1] != n || kd[2] != vd[2] || kd[3] != qd[3] {
		return bad()
	}
	a.batch, a.seq, a.size, a.total, a.vsize = qd[0], qd[2], qd[3], kd[2], vd[3]
	at := 0
	for i := range src {
		src[i].bias = at
		if at += n * a.size; i == 2 {
			at += n * (a.vsize - a.size)
		}
	}
	if c.Has(mhBias) && !slices.Equal(c.Shape(mhBias), []int{at}) {
		return bad()
	}
	a.scale = 1 / math.Sqrt(float64(a.size))
	if s := c.Node.Float("scale", 0); s != 0 {
		a.scale = float64(s)
	}
	return a, src, nil
}

// layHeads writes tokens as [batch, heads, tokens, size], behind those of the past, with a bias.
func layHeads[T float](w *Worker, dst, past, x, bias []T, src source, batch, n, before, tokens, size int, behind bool) {
	total := before + tokens
	w.Range(batch*n, total*size, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			b, h := i/n, i%n
			to := dst[i*total*size:][:total*size]
			if behind && before > 0 {
				copy(to, past[i*before*size:][:before*size])
			}
			for t := range tokens {
				row := to[(before+t)*size:][:size]
				copy(row, x[src.view(b, h, t):])
				if bias != nil {
					for j, v := range bias[src.bias+h*size:][:size] {
						row[j] += v
					}
				}
			}
		}
	})
}

// padding says which keys of a batch are none: they get a large negative number added, which leaves a little of
// them where nothing else counts.
type padding struct {
	kind  int // see below
	width int // of a mask of keys or of pairs
	off   float64
}

const (
	padNone = iota
	padEnds // [batch]: keys count up to there
	padBoth // [2*batch]: up to there, and from there on
	padKeys // [batch, keys]: 0 for none
	padPairs
)

func newPadding(c *Call, i int, a *attention) (padding, error) {
	p := padding{off: float64(c.Node.Float("mask_filter_value", -10000))}
	if !c.Has(i) {
		return p, nil
	}
	shape := c.Shape(i)
	switch {
	case c.Type(i) != graph.Int32:
	case slices.Equal(shape, []int{a.batch}):
		p.kind = padEnds
	case slices.Equal(shape, []int{2 * a.batch}):
		p.kind = padBoth
	case slices.Equal(shape, []int{a.batch, a.total}):
		p.kind, p.width = padKeys, a.total
	case slices.Equal(shape, []int{a.batch, a.seq, a.total}):
		p.kind, p.width = padPairs, a.seq*a.total
	}
	if p.kind == padNone {
		return p, c.Fault("mask %s %v of %d texts with %d keys", c.Type(i), shape, a.batch, a.total)
	}
	return p, nil
}

func (p padding) load(in []*graph.Tensor, i int) []int32 {
	if p.kind == padNone {
		return nil
	}
	return elems[int32](in[i])
}

// applyPadding marks the keys of query i that are none.
func applyPadding[T float](p padding, counts []int32, row []T, b, i int) {
	off := T(p.off)
	switch p.kind {
	case padEnds, padBoth:
		lo, hi := 0, int(counts[b])
		if p.kind == padBoth {
			lo = int(counts[len(counts)/2+b])
		}
		for j := range row {
			if j < lo || j >= hi {
				row[j] += off
			}
		}
	case padKeys, padPairs:
		list := counts[b*p.width:]
		if p.kind == padPairs {
			list = list[i*len(row):]
		}
		for j := range row {
			if list[j] == 0 {
				row[j] += off
			}
		}
	}
}
