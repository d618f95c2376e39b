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
	items []item    // of the run under way
	at    attention // under way
	parts []float32 // sums of pages of a single token
	steps struct {  // methods as values, made once
		attend, attendPart, attendJoin func(worker, item int)
	}
}

// item is a range of output columns of one of the products of a run.
type item struct{ product, lo, hi int }

// workspace is the scratch of one worker.
type workspace struct {
	band   []float32 // decoded rows of a weight
	tile   []float32 // products before they are joined
	scores []float32 // of a walk's attention
	attend []float32 // a tile of a session's attention
}

func newEngine(k *kernels.Set, threads int, d *ir.Decoder) *engine {
	p := newPool(threads)
	e := &engine{k: k, pool: p, d: d, freqs: d.RopeSpeeds(), work: make([]workspace, p.threads)}
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
	n := cap(e.cos) + cap(e.sin) + cap(e.parts)
	for i := range e.work {
		w := &e.work[i]
		n += cap(w.band) + cap(w.tile) + cap(w.scores) + cap(w.attend)
	}
	return int64(n) * 4
}

// product is one use of a weight: dst = x w^T + bias, or dst += that.
type product struct {
	w   *linear
	dst kernels.Matrix
	add bool
}

// bandNumbers is how many decoded weights a worker holds: a quarter of a mebibyte, which stays in
// the second-level cache while all tokens pass by.
const bandNumbers = 1 << 16

// rowNumbers is the least work handed to a worker in token generation, in weights: about 10 µs.
const rowNumbers = 1 << 15

// bandRows is how many rows of a weight make one item of work for t tokens.
func (e *engine) bandRows(w *linear, t int) int {
	if t == 1 {
		share := (w.rows + 4*e.pool.threads - 1) / (4 * e.pool.threads)
		return max(1, rowNumbers/w.cols, share)
	}
	rows := max(16, bandNumbers/w.cols&^15)
	for rows > 16 && (w.rows+rows-1)/rows < 2*e.pool.threads {
		rows = max(16, rows/2&^15)
	}
	return rows
}

// matmul computes products of the same inputs x [tokens, cols] in one run over the workers. When
// after is not nil, it is called with each finished range of output columns; the products then have
// the same number of rows and are computed together.
func (e *engine) matmul(x kernels.Matrix, after func(lo, hi int), products ...product) {
	items := e.items[:0]
	var inputs []sideInput
	for p, q := range products {
		if q.w.side != nil {
			if inputs == nil {
				inputs = make([]sideInput, len(products))
			}
			inputs[p] = e.sideInput(x, q.w)
		}
		if p > 0 && after != nil {
			continue // the items of the first product stand for all
		}
		rows := e.bandRows(q.w, x.Rows)
		for lo := 0; lo < q.w.rows; lo += rows {
			items = append(items, item{p, lo, min(q.w.rows, lo+rows)})
		}
	}
	e.items = items
	e.pool.run(len(items), func(worker, i int) {
		it := items[i]
		if after == nil {
			e.multiply(worker, x, products, inputs, it.product, it.lo, it.hi)
			return
		}
		for p := range products {
			e.multiply(worker, x, products, inputs, p, it.lo, it.hi)
		}
		after(it.lo, it.hi)
	})
}

// multiply computes output columns [lo,hi) of one of the products.
func (e *engine) multiply(worker int, x kernels.Matrix, products []product, inputs []sideInput, i, lo, hi int) {
	p := products[i]
	w, ws := p.w, &e.work[worker]
	dst := p.dst.Slice(0, x.Rows, lo, hi)
	if w.side == nil {
		e.times(ws, dst, x, w, lo, hi, p.add)
	} else {
		e.changed(ws, dst, w, inputs[i], lo, hi, p.add)
	}
	if w.bias != nil {
		for t := range x.Rows {
			e.k.Add(dst.Row(t), w.bias[lo:hi])
		}
	}
}

// times is dst = x w[lo:hi]^T, or dst += that.
func (e *engine) times(ws *workspace, dst, x kernels.Matrix, w *linear, lo, hi int, add bool) {
	if x.Rows == 1 && w.dots != nil {
		in, out, y := x.Row(0), dst.Row(0), dst.Row(0)
		if add {
			y = need(&ws.band, hi-lo)
		}
		w.dots(y, w.raw[lo*w.rowBytes:hi*w.rowBytes], in)
		if add {
			e.k.Add(out, y)
		}
		return
	}
	if w.floats != nil {
		e.k.GemmNT(dst, x, w.band(nil, lo, hi), add)
		return
	}
	step := max(1, min(hi-lo, bandNumbers/w.cols))
	scratch := need(&ws.band, step*w.cols)
	for at := lo; at < hi; at += step {
		end := min(hi, at+step)
		e.k.GemmNT(dst.Slice(0, x.Rows, at-lo, end-lo), x, w.band(scratch, at, end), add)
	}
}

// sideInput is what a low-rank change needs of the inputs: col = x * Col (x itself without Col) and
// low = x A^T, [tokens, Rank].
type sideInput struct{ col, low kernels.Matrix }

func (e *engine) sideInput(x kernels.Matrix, w *linear) sideInput {
	s := w.side
	in := sideInput{col: x}
	if s.Col != nil {
		in.col = kernels.View(make([]float32, x.Rows*x.Cols), x.Rows, x.Cols)
		for t := range x.Rows {
			copy(in.col.Row(t), x.Row(t))
			e.k.Mul(in.col.Row(t), s.Col)
		}
	}
	if s.Rank > 0 {
		in.low = kernels.View(make([]float32, x.Rows*s.Rank), x.Rows, s.Rank)
		e.pool.run(x.Rows, func(_, t int) {
			e.k.GemmNT(in.low.Slice(t, t+1, 0, s.Rank), x.Slice(t, t+1, 0, x.Cols), kernels.View(s.A, s.Rank, x.Cols), false)
		})
	}
	return in
}

// changed is times for a weight with a change beside it: Row * (W (Col * x)) + B (A x).
func (e *engine) changed(ws *workspace, dst kernels.Matrix, w *linear, in sideInput, lo, hi int, add bool) {
	s, n := w.side, hi-lo
	tile := kernels.View(need(&ws.tile, dst.Rows*n), dst.Rows, n)
	e.times(ws, tile, in.col, w, lo, hi, false)
	for t := range tile.Rows {
		if s.Row != nil {
			e.k.Mul(tile.Row(t), s.Row[lo:hi])
		}
	}
	if s.Rank > 0 {
		e.k.GemmNT(tile, in.low, kernels.View(s.B[lo*s.Rank:hi*s.Rank], n, s.Rank), true)
	}
	for t := range tile.Rows {
		if add {
			e.k.Add(dst.Row(t), tile.Row(t))
		} else {
			copy(dst.Row(t), tile.Row(t))
		}
	}
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
