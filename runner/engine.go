package runner

import (
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// engine computes the parts of a decoder block on matrices of tokens: what Runner and the
// calibration walk share. Every element of every result depends on its inputs alone, never on how
// the work was cut, so results are the same bytes at any number of threads.
//
// An engine is used by one goroutine at a time.
type engine struct {
	k     *kernels.Set
	pool  *pool
	d     *ir.Decoder
	freqs []float32
	work  []workspace // one a worker
	cos   []float32   // [tokens, HeadDim/2] of the batch under way
	sin   []float32
	acts  kernels.Activations // inputs of the products under way, quantized
	left  []float32           // the same, packed
	mul   multiplication      // under way
	at    attention           // under way
	parts []float32           // sums of pages of a single token
	steps struct {            // methods as values, made once: a run allocates nothing
		multiply, quantize, attend, attendPart, attendJoin func(worker, item int)
	}
}

// workspace is the scratch of one worker.
type workspace struct {
	band   []float32 // packed rows of a weight
	rows   []float32 // decoded rows of a weight
	one    []float32 // products of a single token before they are added
	tiles  []byte    // of weights whose tiles are not kept
	tile   []float32 // products before they are joined
	scores []float32 // of a walk's attention
	attend []float32 // a tile of a session's attention
}

func newEngine(k *kernels.Set, threads int, d *ir.Decoder) *engine {
	p := newPool(threads)
	e := &engine{k: k, pool: p, d: d, freqs: d.RopeSpeeds(), work: make([]workspace, p.threads)}
	e.steps.multiply, e.steps.quantize = e.multiplyItem, e.quantizeRows
	e.steps.attend, e.steps.attendPart, e.steps.attendJoin = e.attendTile, e.attendPart, e.attendJoin
	return e
}

// need returns *buf with room for n numbers. The contents are whatever was there.
func need(buf *[]float32, n int) []float32 {
	if cap(*buf) < n {
		*buf = make([]float32, n)
	}
	return (*buf)[:n]
}

// bytes is what the engine holds on the heap at present.
func (e *engine) bytes() int64 {
	n := cap(e.cos) + cap(e.sin) + cap(e.parts) + cap(e.left)
	tiles := 0
	for i := range e.work {
		w := &e.work[i]
		n += cap(w.band) + cap(w.rows) + cap(w.one) + cap(w.tile) + cap(w.scores) + cap(w.attend)
		tiles += cap(w.tiles)
	}
	return int64(n)*4 + int64(tiles) + e.acts.Bytes()
}

// rowGrain is how many tokens make one item of the row-wise steps.
const rowGrain = 8

// rows calls fn for ranges of tokens on the workers; a single token stays on the caller.
func (e *engine) rows(tokens int, fn func(lo, hi int)) {
	e.pool.run((tokens+rowGrain-1)/rowGrain, func(_, i int) {
		fn(i*rowGrain, min(tokens, (i+1)*rowGrain))
	})
}

// norm is the RMS norm of every row of x.
func (e *engine) norm(dst, x kernels.Matrix, gain []float32) {
	e.rows(x.Rows, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			e.k.RMSNorm(dst.Row(t), x.Row(t), gain, e.d.NormEps)
		}
	})
}

// place computes the rotation angles of positions [pos,pos+tokens).
func (e *engine) place(pos, tokens int) {
	half := len(e.freqs)
	cos, sin := need(&e.cos, tokens*half), need(&e.sin, tokens*half)
	e.rows(tokens, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			angles(cos[t*half:][:half], sin[t*half:][:half], e.freqs, pos+t)
		}
	})
}

// heads normalises (where the model does so) and rotates the query and key heads of every token, of
// which either may be none; place has been called for these tokens.
func (e *engine) heads(b *block, q, k kernels.Matrix) {
	half, dim := len(e.freqs), e.d.HeadDim
	e.rows(q.Rows, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			cos, sin := e.cos[t*half:][:half], e.sin[t*half:][:half]
			for _, v := range []struct {
				row  []float32
				gain []float32
			}{{q.Row(t), b.qNorm}, {k.Row(t), b.kNorm}} {
				for at := 0; at < len(v.row); at += dim {
					head := v.row[at : at+dim : at+dim]
					if v.gain != nil {
						e.k.RMSNorm(head, head, v.gain, e.d.NormEps)
					}
					e.k.RoPE(head, cos, sin)
				}
			}
		}
	})
}
