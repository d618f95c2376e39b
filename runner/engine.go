package runner

import (
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir"
)

// engine computes the parts of a decoder block on matrices of tokens: what Runner and the
// calibration walk share. Every element of every result depends on its inputs alone, never on how
// the work was cut, so results are the same bytes at any number of threads.
//
// An engine is used by one goroutine at a time.
type engine struct {
	k     *kernels.Set
	pool  *par.Pool
	own   bool // the pool ends with the engine
	d     *ir.Decoder
	freqs []float32
	work  []workspace // one a worker
	cos   []float32   // [tokens, HeadDim/2] of the batch under way
	sin   []float32
	acts  kernels.Activations // inputs of the products under way, quantized
	left  []float32           // the same, packed
	mul   multiplication      // under way
	keep  bool                // tiles that are made stay, where there is room for them
	at    attention           // under way
	parts []float32           // sums of pages of a single token
	row   rowStep             // under way
	steps struct {            // methods as values, made once: a run allocates nothing
		multiply, quantize, attend, attendPart, attendJoin func(worker, item int)
		lookup, norm, place, heads, store                  func(worker, item int)
	}
}

// rowStep is what the workers need to know of the row-wise step under way; each uses some of it.
type rowStep struct {
	tokens int
	pos    int // of the first token
	dst, x kernels.Matrix
	k, v   kernels.Matrix
	gain   []float32
	b      *block
	c      *cache
	table  *linear
	ids    []int32
}

// span is the tokens of an item.
func (r *rowStep) span(item int) (lo, hi int) {
	return item * rowGrain, min(r.tokens, (item+1)*rowGrain)
}

// workspace is the scratch of one worker.
type workspace struct {
	band   []float32 // packed rows of a weight
	rows   []float32 // decoded rows of a weight
	tiles  []byte    // of weights whose tiles are not kept
	tile   []float32 // products before they are joined
	scores []float32 // of a walk's attention
	attend []float32 // a tile of a session's attention
}

func newEngine(opt Options, d *ir.Decoder) *engine {
	e := &engine{k: kernels.For(opt.ISA), pool: opt.Pool, d: d, work: make([]workspace, opt.workers())}
	if d != nil { // encoders have parts of their own beside the products
		e.freqs = d.RopeSpeeds()
	}
	if e.own = e.pool == nil; e.own {
		e.pool = par.NewPool(opt.Threads)
	}
	e.steps.multiply, e.steps.quantize = e.multiplyItem, e.quantizeRows
	e.steps.lookup, e.steps.norm, e.steps.place = e.lookupRows, e.normRows, e.placeRows
	e.steps.heads, e.steps.store = e.headRows, e.storeRows
	e.steps.attend, e.steps.attendPart, e.steps.attendJoin = e.attendTile, e.attendPart, e.attendJoin
	return e
}

// close stops the workers, unless they are somebody else's.
func (e *engine) close() {
	if e.own {
		e.pool.Close()
	}
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
		n += cap(w.band) + cap(w.rows) + cap(w.tile) + cap(w.scores) + cap(w.attend)
		tiles += cap(w.tiles)
	}
	return int64(n)*4 + int64(tiles) + e.acts.Bytes()
}

// rowGrain is how many tokens make one item of the row-wise steps.
const rowGrain = 8

// rows does a step for all its tokens on the workers; a few stay on the caller.
func (e *engine) rows(r rowStep, step func(worker, item int)) {
	e.row = r
	e.pool.Run((r.tokens+rowGrain-1)/rowGrain, step)
}

// lookup makes dst the rows of a table for some tokens.
func (e *engine) lookup(dst kernels.Matrix, table *linear, ids []int32) {
	e.rows(rowStep{tokens: len(ids), dst: dst, table: table, ids: ids}, e.steps.lookup)
}

func (e *engine) lookupRows(_, item int) {
	r := &e.row
	for t, hi := r.span(item); t < hi; t++ {
		r.table.lookup(r.dst.Row(t), int(r.ids[t]))
	}
}

// norm is the RMS norm of every row of x.
func (e *engine) norm(dst, x kernels.Matrix, gain []float32) {
	e.rows(rowStep{tokens: x.Rows, dst: dst, x: x, gain: gain}, e.steps.norm)
}

func (e *engine) normRows(_, item int) {
	r := &e.row
	for t, hi := r.span(item); t < hi; t++ {
		e.k.RMSNorm(r.dst.Row(t), r.x.Row(t), r.gain, e.d.NormEps)
	}
}

// place computes the rotation angles of positions [pos,pos+tokens).
func (e *engine) place(pos, tokens int) {
	n := tokens * len(e.freqs)
	e.cos, e.sin = need(&e.cos, n), need(&e.sin, n)
	e.rows(rowStep{tokens: tokens, pos: pos}, e.steps.place)
}

func (e *engine) placeRows(_, item int) {
	half := len(e.freqs)
	for t, hi := e.row.span(item); t < hi; t++ {
		angles(e.cos[t*half:][:half], e.sin[t*half:][:half], e.freqs, e.row.pos+t)
	}
}

// heads normalises (where the model does so) and rotates the query and key heads of every token, of
// which either may be none; place has been called for these tokens.
func (e *engine) heads(b *block, q, k kernels.Matrix) {
	e.rows(rowStep{tokens: q.Rows, x: q, k: k, b: b}, e.steps.heads)
}

func (e *engine) headRows(_, item int) {
	r := &e.row
	for t, hi := r.span(item); t < hi; t++ {
		e.rotate(r.x.Row(t), r.b.qNorm, t)
		e.rotate(r.k.Row(t), r.b.kNorm, t)
	}
}

// rotate is heads for the heads of one token.
func (e *engine) rotate(row, gain []float32, t int) {
	half, dim := len(e.freqs), e.d.HeadDim
	for at := 0; at < len(row); at += dim {
		head := row[at : at+dim : at+dim]
		if gain != nil {
			e.k.RMSNorm(head, head, gain, e.d.NormEps)
		}
		e.k.RoPE(head, e.cos[t*half:][:half], e.sin[t*half:][:half])
	}
}

// store puts rows of keys and values in the cache, from position pos on, for which there is room.
func (e *engine) store(c *cache, k, v kernels.Matrix, pos int) {
	e.rows(rowStep{tokens: k.Rows, pos: pos, k: k, v: v, c: c}, e.steps.store)
}

func (e *engine) storeRows(_, item int) {
	r := &e.row
	lo, hi := r.span(item)
	r.c.put(e.k, r.pos+lo, r.k.Slice(lo, hi, 0, r.k.Cols), r.v.Slice(lo, hi, 0, r.v.Cols))
}
