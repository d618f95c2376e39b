package runner

import (
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// buffers hold the activations of one batch of tokens.
type buffers struct {
	norm, q, k, v, up []float32
}

// bufferFloats is the room that buffers take for t tokens, in numbers.
func bufferFloats(d *ir.Decoder, t int) int64 {
	return int64(t) * int64(d.Hidden+d.QDim()+2*d.KVDim()+d.FFN)
}

// bytes is what the buffers hold at present.
func (s *buffers) bytes() int64 {
	return 4 * int64(cap(s.norm)+cap(s.q)+cap(s.k)+cap(s.v)+cap(s.up))
}

// project computes queries, keys and values of the hidden states x [tokens, Hidden], rotated by the
// angles that place computed for these tokens.
func (e *engine) project(b *block, s *buffers, x kernels.Matrix) (q, k, v kernels.Matrix) {
	t, d := x.Rows, e.d
	norm := kernels.View(need(&s.norm, t*d.Hidden), t, d.Hidden)
	q = kernels.View(need(&s.q, t*d.QDim()), t, d.QDim())
	k = kernels.View(need(&s.k, t*d.KVDim()), t, d.KVDim())
	v = kernels.View(need(&s.v, t*d.KVDim()), t, d.KVDim())
	e.norm(norm, x, b.attnNorm)
	e.multiply(norm, product{w: b.q, dst: q}, product{w: b.k, dst: k}, product{w: b.v, dst: v})
	e.heads(b, q, k)
	return q, k, v
}

// attention computes the input of the output projection, dst [tokens, Heads*HeadDim], from the
// hidden states x [tokens, Hidden] of positions [pos,pos+tokens), and puts their keys and values in
// the cache. place has been called for these positions.
func (e *engine) attention(b *block, c *cache, s *buffers, dst, x kernels.Matrix, pos int) {
	q, k, v := e.project(b, s, x)
	e.store(c, k, v, pos)
	e.attend(c, dst, q, pos)
}

// remember puts the keys and values of x in the cache and computes nothing else: all that later
// positions need of the last block.
func (e *engine) remember(b *block, c *cache, s *buffers, x kernels.Matrix, pos int) {
	t, d := x.Rows, e.d
	norm := kernels.View(need(&s.norm, t*d.Hidden), t, d.Hidden)
	k := kernels.View(need(&s.k, t*d.KVDim()), t, d.KVDim())
	v := kernels.View(need(&s.v, t*d.KVDim()), t, d.KVDim())
	e.norm(norm, x, b.attnNorm)
	e.multiply(norm, product{w: b.k, dst: k}, product{w: b.v, dst: v})
	e.heads(b, kernels.View[float32](nil, t, 0), k)
	e.store(c, k, v, pos)
}

// expand computes the input of the down projection, dst [tokens, FFN], from hidden states x:
// silu(gate) * up of the normalised x.
func (e *engine) expand(b *block, s *buffers, dst, x kernels.Matrix) {
	t, d := x.Rows, e.d
	norm := kernels.View(need(&s.norm, t*d.Hidden), t, d.Hidden)
	up := kernels.View(need(&s.up, t*d.FFN), t, d.FFN)
	e.norm(norm, x, b.mlpNorm)
	e.gate(norm, product{w: b.gate, dst: dst}, product{w: b.up, dst: up})
}
