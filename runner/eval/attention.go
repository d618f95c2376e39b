package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Attention", Inputs: 3, Narrow: true, Plan: byFloat(attentionNode[float32], attentionNode[float64])})
}

// Inputs of Attention.
const (
	attQ = iota
	attK
	attV
	attMask
	attPastK
	attPastV
	attLens
)

// attentionNode plans Attention of ai.onnx.
func attentionNode[T float](c *Call) (Step, error) {
	n := c.Node
	a, past, flat, err := newAttention(c)
	if err != nil {
		return Step{}, err
	}
	m, err := newMask(c, attMask, a)
	if err != nil {
		return Step{}, err
	}
	if c.Has(attLens) && (past >= 0 || c.Elems(attLens) != a.batch || c.Type(attLens) != graph.Int64) {
		return Step{}, c.Fault("%s %v lengths of a batch of %d", c.Type(attLens), c.Shape(attLens), a.batch)
	}
	show := n.Int("qk_matmul_output_mode", 0)
	if show < showProducts || show > showProbabilities {
		return Step{}, c.Fault("qk_matmul_output_mode %d", show)
	}
	typ := c.Type(0)
	keys, values := []int{a.batch, a.kvHeads, a.total, a.size}, []int{a.batch, a.kvHeads, a.total, a.vsize}
	out := []int{a.batch, a.heads, a.seq, a.vsize}
	a.y = headsFirst([4]int(out))
	if flat {
		out = []int{a.batch, a.seq, a.heads * a.vsize}
		a.y, _, _ = splitHeads(out, a.heads)
	}
	fresh := [2]heads{a.k, a.v} // where the keys and values that come in lie
	join := [2]bool{past >= 0 || c.Wants(1), past >= 0 || c.Wants(2)}
	if join[0] {
		a.k = headsFirst([4]int(keys))
	}
	if join[1] {
		a.v = headsFirst([4]int(values))
	}
	causal, left, right := n.Int("is_causal", 0) != 0, n.Int("left_window_size", -1), n.Int("right_window_size", -1)
	if left < -1 || right < -1 {
		return Step{}, c.Fault("windows %d and %d", left, right)
	}
	s := Step{Out: []Spec{
		Out(typ, out...), Out(typ, keys...), Out(c.Type(attV), values...),
		Out(typ, a.batch, a.heads, a.seq, a.total),
	}}
	parts := []int{a.scratch(c.Threads), 0, 0}
	for i, shape := range [][]int{keys, values} {
		if join[i] && !c.Wants(i+1) {
			parts[i+1] = graph.Elems(shape)
		}
	}
	for _, p := range parts {
		s.Scratch += round(typ.Bytes(p))
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
		output := func(i int) []T {
			if i < len(out) && out[i] != nil {
				return elems[T](out[i])
			}
			return nil
		}
		scores := take(parts[0])
		kv := [2][]T{input(attK), input(attV)}
		for i, size := range []int{a.size, a.vsize} {
			if !join[i] {
				continue
			}
			all := output(i + 1)
			if all == nil {
				all = take(parts[i+1])
			}
			joinHeads(all, input(attPastK+i), kv[i], fresh[i], a, max(past, 0), size)
			kv[i] = all
		}
		y := output(0)
		if y == nil {
			return nil
		}
		var lens []int64
		if attLens < len(in) && in[attLens] != nil {
			lens = elems[int64](in[attLens])
		}
		bias := func(row []T, b, h, i int) bool {
			if m != nil {
				addMask(m, in[attMask], row, b, h, i)
			}
			at, hi := max(past, 0)+i, len(row) // the query's own position
			if lens != nil {
				at = int(lens[b]) - a.seq + i
				hi = int(lens[b])
			}
			lo := 0
			if causal {
				hi = min(hi, at+1)
			}
			if left >= 0 {
				lo = at - left
			}
			if right >= 0 {
				hi = min(hi, at+right+1)
			}
			blank(row, lo, hi)
			return someCount(row)
		}
		return attend(w, a, y, input(attQ), kv[0], kv[1], scores, output(3), show, bias)
	}
	return s, nil
}

// newAttention reads the shapes of queries, keys and values. past is the tokens before them, -1 without an input
// for them; flat says that tensors have 3 dimensions.
func newAttention(c *Call) (a *attention, past int, flat bool, err error) {
	n := c.Node
	q, qd, ok0 := splitHeads(c.Shape(attQ), n.Int("q_num_heads", 0))
	k, kd, ok1 := splitHeads(c.Shape(attK), n.Int("kv_num_heads", 0))
	v, vd, ok2 := splitHeads(c.Shape(attV), n.Int("kv_num_heads", 0))
	if !ok0 || !ok1 || !ok2 || kd[0] != qd[0] || vd[0] != qd[0] || kd[1] != vd[1] || kd[2] != vd[2] || kd[3] != qd[3] ||
		kd[1] == 0 || qd[1]%kd[1] != 0 || c.Type(attK) != c.Type(0) || c.Type(attV) != c.Type(0) {
		return nil, 0, false, c.Fault("queries %s %v, keys %s %v, values %s %v", c.Type(attQ), c.Shape(attQ), c.Type(attK), c.Shape(attK), c.Type(attV), c.Shape(attV))
	}
	a = &attention{
		batch: qd[0], heads: qd[1], kvHeads: kd[1], seq: qd[2], total: kd[2], size: qd[3], vsize: vd[3], q: q, k: k, v: v,
		scale: 1 / math.Sqrt(float64(qd[3])), cap: float64(n.Float("softcap", 0)),
	}
	if n.Has("scale") {
		a.scale = float64(n.Float("scale", 0))
	}
	past = -1
	if c.Has(attPastK) != c.Has(attPastV) {
		return nil, 0, false, c.Fault("a past of keys or of values only")
	}
	if c.Has(attPastK) {
		shape := c.Shape(attPastK)
		if len(shape) != 4 {
			return nil, 0, false, c.Fault("past keys %v", shape)
		}
		past = shape[2]
		if !slices.Equal(shape, []int{a.batch, a.kvHeads, past, a.size}) || !slices.Equal(c.Shape(attPastV), []int{a.batch, a.kvHeads, past, a.vsize}) ||
			c.Type(attPastK) != c.Type(0) || c.Type(attPastV) != c.Type(0) {
			return nil, 0, false, c.Fault("past keys %v and values %v, new ones %v and %v", shape, c.Shape(attPastV), c.Shape(attK), c.Shape(attV))
		}
		a.total += past
	}
	for _, shape := range [][]int{{a.batch, a.heads, a.seq, max(a.total, a.vsize)}, {c.Threads * attendRows, a.total}} {
		if err := graph.CheckShape(shape); err != nil {
			return nil, 0, false, c.Fault("%d queries of %d keys", a.seq, a.total)
		}
	}
	return a, past, len(c.Shape(attQ)) == 3, nil
}

// joinHeads writes what was there, [batch, heads, past, size], and what comes in behind it, head by head.
func joinHeads[T float](all, old, fresh []T, l heads, a *attention, past, size int) {
	for b := range a.batch {
		for h := range a.kvHeads {
			dst := all[(b*a.kvHeads+h)*a.total*size:][:a.total*size]
			copy(dst, old[min(len(old), (b*a.kvHeads+h)*past*size):][:min(len(old), past*size)])
			for i := past; i < a.total; i++ {
				copy(dst[i*size:(i+1)*size], fresh[l.view(b, h, i-past):])
			}
		}
	}
}
