package eval

import (
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Domain: msDomain, Name: "GroupQueryAttention", Inputs: 1, Narrow: true, Plan: byFloat(groupQuery[float32], groupQuery[float64])})
}

// Inputs of GroupQueryAttention.
const (
	gqQ = iota
	gqK
	gqV
	gqPastK
	gqPastV
	gqLens  // of each text, the new tokens among them, less one
	gqTotal // the largest of them
	gqCos
	gqSin
	gqPositions
	gqAdd
)

// groupQuery plans the attention of decoders, in which several heads of queries share keys and values, positions
// turn both, and what came before lies in a cache.
func groupQuery[T float](c *Call) (Step, error) {
	g, err := newGroupQuery(c)
	if err != nil {
		return Step{}, err
	}
	a, n, kv, typ := &g.attention, g.attention.heads, g.kvHeads, c.Type(0)
	cache := []int{a.batch, kv, a.total, a.size}
	out := []int{a.batch, a.seq, n * a.size}
	a.y, _, _ = splitHeads(out, n)
	a.q = a.y
	a.k, a.v = headsFirst([4]int(cache)), headsFirst([4]int(cache))
	s := Step{Out: []Spec{Out(typ, out...), Out(typ, cache...), Out(typ, cache...)}}
	if c.Wants(3) {
		return Step{}, c.Fault("output 3, the scores, is not supported")
	}
	for _, shape := range [][]int{cache, {a.batch, n, a.seq, max(a.total, a.size)}, {max(c.Threads, 1) * attendRows, a.total}} {
		if err := graph.CheckShape(shape); err != nil {
			return Step{}, c.Fault("%d queries of %d keys", a.seq, a.total)
		}
	}
	sizes := []int{a.scratch(max(c.Threads, 1)), graph.Elems(out), a.batch * a.seq * kv * a.size, 0, 0}
	for i := range 2 {
		if !c.Wants(i + 1) {
			sizes[3+i] = graph.Elems(cache)
		}
	}
	for _, size := range sizes {
		s.Scratch += round(typ.Bytes(size))
	}
	add, err := newMask(c, gqAdd, a)
	if err != nil {
		return Step{}, err
	}
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
		before := make([]int, a.batch) // tokens of each text in the cache
		for b, last := range elems[int32](in[gqLens]) {
			if before[b] = int(last) + 1 - a.seq; a.seq == g.longest { // the first run: short texts are padded on the right
				before[b] = 0
			}
			if before[b] < 0 || before[b] > g.past || before[b]+a.seq > a.total {
				return fmt.Errorf("text %d has %d tokens, %d of them new, in a cache of %d", b, int(last)+1, a.seq, a.total)
			}
		}
		scores, q, fresh := take(sizes[0]), take(sizes[1]), take(sizes[2])
		x := [3][]T{input(gqQ), input(gqK), input(gqV)}
		var caches [2][]T
		for i := range 3 {
			to, count := fresh, kv
			if i == 0 {
				to, count = q, n
			}
			src := x[i]
			if g.packed {
				src = x[0]
			}
			for t := range a.batch * a.seq { // tokens as [batch, tokens, heads, size]
				copy(to[t*count*a.size:(t+1)*count*a.size], src[t*g.row[i]+g.at[i]:])
			}
			if i < 2 && g.turn != nil {
				r := *g.turn
				r.heads = count
				if err := rotatePairs(w, &r, to, to, input(gqCos), input(gqSin), g.position(in, before)); err != nil {
					return err
				}
			}
			if i == 0 {
				continue
			}
			all := take(sizes[2+i])
			if i < len(out) && out[i] != nil {
				all = elems[T](out[i])
			}
			fillCache(all, input(gqPastK+i-1), fresh, g, before)
			caches[i-1] = all
		}
		if out[0] == nil {
			return nil
		}
		bias := func(row []T, b, h, i int) bool {
			if add != nil {
				addMask(add, in[gqAdd], row, b, h, i)
			}
			hi, lo := before[b]+i+1, 0
			if g.window >= 0 {
				lo = max(0, hi-g.window)
			}
			blank(row, lo, hi)
			return someCount(row)
		}
		return attend(w, a, elems[T](out[0]), q, caches[0], caches[1], scores, nil, showProducts, bias)
	}
	return s, nil
}

// groupQuerySizes is what there is to know about a GroupQueryAttention.
type groupQuerySizes struct {
	attention
	packed  bool   // queries, keys and values lie in one input
	row, at [3]int // elements of a token in each input, and where its heads begin
	past    int    // tokens that fit into the cache that comes in
	longest int    // tokens of the longest text
	window  int    // keys that a query sees, -1 for all
	turn    *rotation
}

func newGroupQuery(c *Call) (*groupQuerySizes, error) {
	n, kv := c.Node.Int("num_heads", 0), c.Node.Int("kv_num_heads", 0)
	q, k, v := c.Shape(gqQ), c.Shape(gqK), c.Shape(gqV)
	g := &groupQuerySizes{packed: !c.Has(gqK) && !c.Has(gqV), window: c.Node.Int("local_window_size", -1)}
	bad := func() (*groupQuerySizes, error) {
		return nil, c.Fault("%d heads, %d of keys: queries %s %v, keys %v, values %v, past %v and %v", n, kv, c.Type(0), q, k, v, c.Shape(gqPastK), c.Shape(gqPastV))
	}
	if n < 1 || kv < 1 || n%kv != 0 || len(q) != 3 {
		return bad()
	}
	a := &g.attention
	a.batch, a.seq, a.heads, a.kvHeads = q[0], q[1], n, kv
	if g.packed {
		if q[2]%(n+2*kv) != 0 {
			return bad()
		}
		a.size = q[2] / (n + 2*kv)
		g.row, g.at = [3]int{q[2], q[2], q[2]}, [3]int{0, n * a.size, (n + kv) * a.size}
	} else {
		a.size = q[2] / n
		want := []int{a.batch, a.seq, kv * a.size}
		if q[2]%n != 0 || !slices.Equal(k, want) || !slices.Equal(v, want) || c.Type(gqK) != c.Type(0) || c.Type(gqV) != c.Type(0) {
			return bad()
		}
		g.row = [3]int{q[2], want[2], want[2]}
	}
	a.vsize = a.size
	if c.Has(gqPastK) || c.Has(gqPastV) {
		past := c.Shape(gqPastK)
		if len(past) != 4 || !slices.Equal(past, []int{a.batch, kv, past[2], a.size}) || !slices.Equal(c.Shape(gqPastV), past) ||
			c.Type(gqPastK) != c.Type(0) || c.Type(gqPastV) != c.Type(0) {
			return bad()
		}
		g.past = past[2]
	}
	if c.Type(gqLens) != graph.Int32 || c.Elems(gqLens) != a.batch || c.Type(gqTotal) != graph.Int32 || c.Elems(gqTotal) != 1 {
		return nil, c.Fault("lengths %s %v of %d texts, the largest in %s %v", c.Type(gqLens), c.Shape(gqLens), a.batch, c.Type(gqTotal), c.Shape(gqTotal))
	}
	total, err := c.Ints(gqTotal)
	if err != nil {
		return nil, err
	}
	if g.longest = total[0]; g.longest < a.seq || g.longest > 1<<24 {
		return nil, c.Fault("%d tokens, %d of them new", g.longest, a.seq)
	}
	a.total = max(g.past, g.longest)
	if c.Node.Int("smooth_softmax", 0) > 0 || c.Has(11) {
		return nil, c.Fault("smooth_softmax and head_sink are not supported")
	}
	a.scale, a.cap = 1/math.Sqrt(float64(a.size)), float64(c.Node.Float("softcap", 0))
	if s := c.Node.Float("scale", 0); s != 0 {
		a.scale = float64(s)
	}
	if c.Node.Int("do_rotary", 0) == 0 {
		return g, nil
	}
	table := c.Shape(gqCos)
	if len(table) != 2 || !slices.Equal(c.Shape(gqSin), table) || c.Type(gqCos) != c.Type(0) || c.Type(gqSin) != c.Type(0) || 2*table[1] > a.size {
		return nil, c.Fault("tables %s %v and %s %v for heads of %d", c.Type(gqCos), table, c.Type(gqSin), c.Shape(gqSin), a.size)
	}
	if c.Has(gqPositions) && (c.Type(gqPositions) != graph.Int64 || c.Elems(gqPositions) != a.batch*a.seq) {
		return nil, c.Fault("positions %s %v of %d tokens", c.Type(gqPositions), c.Shape(gqPositions), a.batch*a.seq)
	}
	g.turn = &rotation{batch: a.batch, seq: a.seq, size: a.size, turned: 2 * table[1], rows: table[0], interleaved: c.Node.Int("rotary_interleaved", 0) != 0}
	return g, nil
}

// position is the place of a token in its text.
func (g *groupQuerySizes) position(in []*graph.Tensor, before []int) func(token int) int {
	if gqPositions < len(in) && in[gqPositions] != nil {
		list := elems[int64](in[gqPositions])
		return func(token int) int { return int(list[token]) }
	}
	return func(token int) int { return before[token/g.seq] + token%g.seq }
}

// fillCache writes what was there, new tokens behind it, and zeros behind those.
func fillCache[T float](all, old, fresh []T, g *groupQuerySizes, before []int) {
	for b := range g.batch {
		for h := range g.kvHeads {
			head := all[(b*g.kvHeads+h)*g.total*g.size:][:g.total*g.size]
			n := before[b] * g.size
			if n > 0 {
				copy(head[:n], old[(b*g.kvHeads+h)*g.past*g.size:])
			}
			for t := range g.seq {
				copy(head[n+t*g.size:][:g.size], fresh[((b*g.seq+t)*g.kvHeads+h)*g.size:])
			}
			clear(head[n+g.seq*g.size:])
		}
	}
}
