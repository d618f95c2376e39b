package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "CausalConvWithState", Inputs: 2, Narrow: true, Plan: byFloat(causalConv[float32], causalConv[float64])})
	register(Op{Name: "LinearAttention", Inputs: 3, Narrow: true, Plan: byFloat(linearAttention[float32], linearAttention[float64])})
}

// causalConv is a convolution of each channel with what came before, the end of which is kept for the next call.
func causalConv[T float](c *Call) (Step, error) {
	in, w := c.Shape(0), c.Shape(1)
	act := c.Node.Str("activation", "none")
	if len(in) != 3 || len(w) != 3 || w[0] != in[1] || w[1] != 1 || w[2] < 1 || act != "none" && act != "silu" && act != "swish" {
		return Step{}, c.Fault("input %v, weights %v, activation %q", in, w, act)
	}
	batch, channels, n, k := in[0], in[1], in[2], w[2]
	state := []int{batch, channels, k - 1}
	if c.Type(1) != c.Type(0) || c.Has(2) && (c.Type(2) != c.Type(0) || c.Elems(2) != channels) ||
		c.Has(3) && (c.Type(3) != c.Type(0) || !slices.Equal(c.Shape(3), state)) {
		return Step{}, c.Fault("weights %s, bias %s %v, state %s %v", c.Type(1), c.Type(2), c.Shape(2), c.Type(3), c.Shape(3))
	}
	if err := graph.CheckShape([]int{batch, channels, n + k, 8}); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	return Step{Out: []Spec{Out(c.Type(0), in...), Out(c.Type(0), state...)}, Run: func(wk *Worker, ts, out []*graph.Tensor) error {
		x, weights := elems[T](ts[0]), elems[T](ts[1])
		input := func(i int) []T {
			if i < len(ts) && ts[i] != nil {
				return elems[T](ts[i])
			}
			return nil
		}
		bias, past := input(2), input(3)
		var y, next []T
		if out[0] != nil {
			y = elems[T](out[0])
		}
		if len(out) > 1 && out[1] != nil {
			next = elems[T](out[1])
		}
		if batch*channels == 0 {
			return nil
		}
		wk.Range(batch*channels, (n+k)*k, func(lo, hi int) {
			line := make([]T, n+k-1)
			for p := lo; p < hi; p++ {
				clear(line[:k-1])
				if past != nil {
					copy(line[:k-1], past[p*(k-1):])
				}
				copy(line[k-1:], x[p*n:(p+1)*n])
				ch := p % channels
				for i := 0; y != nil && i < n; i++ {
					sum := 0.0
					for j, v := range weights[ch*k : (ch+1)*k] {
						sum += float64(float64(line[i+j]) * float64(v))
					}
					if bias != nil {
						sum += float64(bias[ch])
					}
					if act != "none" {
						sum /= 1 + math.Exp(-sum)
					}
					y[p*n+i] = T(sum)
				}
				if next != nil {
					copy(next[p*(k-1):(p+1)*(k-1)], line[n:])
				}
			}
		})
		return nil
	}}, nil
}

// linear is attention whose memory is one matrix per head: every token writes its key and value into it, perhaps
// after what lies there faded, and perhaps less what the key already finds there.
type linear struct {
	batch, seq, heads, kvHeads int
	size, vsize                int
	scale                      float64
	fades, corrects            bool
	decays, betas              int // numbers of a token
}

func linearAttention[T float](c *Call) (Step, error) {
	n := c.Node
	a := &linear{heads: n.Int("q_num_heads", 0), kvHeads: n.Int("kv_num_heads", 0), scale: float64(n.Float("scale", 0))}
	switch rule := n.Str("update_rule", "gated_delta"); rule {
	case "linear":
	case "gated":
		a.fades = true
	case "delta":
		a.corrects = true
	case "gated_delta":
		a.fades, a.corrects = true, true
	default:
		return Step{}, c.Fault("update_rule %q", rule)
	}
	_, q, ok0 := splitHeads(c.Shape(0), a.heads)
	_, k, ok1 := splitHeads(c.Shape(1), a.kvHeads)
	_, v, ok2 := splitHeads(c.Shape(2), a.kvHeads)
	if !ok0 || !ok1 || !ok2 || len(c.Shape(0)) != 3 || len(c.Shape(1)) != 3 || len(c.Shape(2)) != 3 || a.heads%a.kvHeads != 0 ||
		k[0] != q[0] || v[0] != q[0] || k[2] != q[2] || v[2] != q[2] || k[3] != q[3] || c.Has(4) != a.fades || c.Has(5) != a.corrects {
		return Step{}, c.Fault("queries %v, keys %v, values %v, decay %v, beta %v, %d and %d heads", c.Shape(0), c.Shape(1), c.Shape(2), c.Shape(4), c.Shape(5), a.heads, a.kvHeads)
	}
	a.batch, a.seq, a.size, a.vsize = q[0], q[2], q[3], v[3]
	if a.scale == 0 {
		a.scale = 1 / math.Sqrt(float64(a.size))
	}
	state := []int{a.batch, a.kvHeads, a.size, a.vsize}
	tokens := max(a.batch*a.seq, 1)
	a.decays, a.betas = c.Elems(4)/tokens, c.Elems(5)/tokens
	if c.Has(3) && !slices.Equal(c.Shape(3), state) ||
		a.fades && (a.decays != a.kvHeads && a.decays != a.kvHeads*a.size || !slices.Equal(c.Shape(4), []int{a.batch, a.seq, a.decays})) ||
		a.corrects && (a.betas != a.kvHeads && a.betas != 1 || !slices.Equal(c.Shape(5), []int{a.batch, a.seq, a.betas})) {
		return Step{}, c.Fault("state %v, decay %v, beta %v", c.Shape(3), c.Shape(4), c.Shape(5))
	}
	for i := range 6 {
		if c.Has(i) && c.Type(i) != c.Type(0) {
			return Step{}, c.Fault("input %d is %s, queries are %s", i, c.Type(i), c.Type(0))
		}
	}
	for _, shape := range [][]int{state, {a.batch, a.seq, a.heads, a.vsize}} {
		if err := graph.CheckShape(shape); err != nil {
			return Step{}, c.Fault("%w", err)
		}
	}
	typ := c.Type(0)
	s := Step{Out: []Spec{Out(typ, a.batch, a.seq, a.heads*a.vsize), Out(typ, state...)}, Scratch: typ.Bytes(graph.Elems(state))}
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		var x [6][]T
		for i, t := range in[:min(len(in), 6)] {
			if t != nil {
				x[i] = elems[T](t)
			}
		}
		memory := elems[T](&graph.Tensor{Type: typ, Data: w.Scratch})[:graph.Elems(state)]
		if len(out) > 1 && out[1] != nil {
			memory = elems[T](out[1])
		}
		clear(memory)
		copy(memory, x[3])
		var y []T
		if out[0] != nil {
			y = elems[T](out[0])
		}
		if a.batch*a.kvHeads > 0 && a.size*a.vsize > 0 {
			w.Range(a.batch*a.kvHeads, 6*a.seq*a.size*a.vsize, func(lo, hi int) {
				for p := lo; p < hi; p++ {
					attendLinear(a, y, memory[p*a.size*a.vsize:(p+1)*a.size*a.vsize], x, p/a.kvHeads, p%a.kvHeads)
				}
			})
			return nil
		}
		clear(y)
		return nil
	}
	return s, nil
}

// attendLinear goes through the tokens of one head of keys, with all the heads of queries that read it.
func attendLinear[T float](a *linear, y, memory []T, x [6][]T, b, h int) {
	fresh := make([]float64, a.vsize)
	group := a.heads / a.kvHeads
	for t := range a.seq {
		token := b*a.seq + t
		key, value := x[1][(token*a.kvHeads+h)*a.size:][:a.size], x[2][(token*a.kvHeads+h)*a.vsize:][:a.vsize]
		for i := range a.size {
			if !a.fades {
				break
			}
			g := h
			if a.decays != a.kvHeads {
				g = h*a.size + i
			}
			keep := math.Exp(float64(x[4][token*a.decays+g]))
			for j, m := range memory[i*a.vsize : (i+1)*a.vsize] {
				memory[i*a.vsize+j] = T(float64(m) * keep)
			}
		}
		for j, v := range value {
			fresh[j] = float64(v)
		}
		if a.corrects {
			for i, k := range key {
				for j, m := range memory[i*a.vsize : (i+1)*a.vsize] {
					fresh[j] -= float64(float64(m) * float64(k))
				}
			}
			beta := float64(x[5][token*a.betas+h%a.betas])
			for j := range fresh {
				fresh[j] *= beta
			}
		}
		for i, k := range key {
			for j, v := range fresh {
				memory[i*a.vsize+j] += T(float64(k) * v)
			}
		}
		for q := h * group; y != nil && q < (h+1)*group; q++ {
			ask, dst := x[0][(token*a.heads+q)*a.size:][:a.size], y[(token*a.heads+q)*a.vsize:][:a.vsize]
			clear(dst)
			for i, v := range ask {
				for j, m := range memory[i*a.vsize : (i+1)*a.vsize] {
					dst[j] += T(float64(v) * a.scale * float64(m))
				}
			}
		}
	}
}
