package runner

import (
	"math"

	"github.com/pare-dev/pare/internal/kernels"
)

// The attention of calibration walks: keys and values of one layer in float32, the scores of a whole
// row at once. Methods such as GPTQ turn its results into bytes of packages, so the order of its sums
// stays what it is; sessions have the faster one in attention.go.

// rowCache holds the keys and values of one layer of one text, by pages of pageLen positions: a page is
// [KVHeads][pageLen][HeadDim] keys, then values, so that what one head reads lies together.
type rowCache struct {
	heads, dim int
	pages      [][]float32
}

// pageBytes is the size of one page.
func (c *rowCache) pageBytes() int64 { return int64(2*c.heads*c.dim*pageLen) * 4 }

// grow makes room for positions below n.
func (c *rowCache) grow(n int) {
	for len(c.pages)*pageLen < n {
		c.pages = append(c.pages, make([]float32, c.pageBytes()/4))
	}
}

// offset is where the row of a position begins in its page; part 0 is keys, 1 values.
func (c *rowCache) offset(part, head, pos int) int {
	return ((part*c.heads+head)*pageLen + pos%pageLen) * c.dim
}

// put stores the keys and values of one position.
func (c *rowCache) put(pos int, k, v []float32) {
	for part, row := range [][]float32{k, v} {
		for h := range c.heads {
			copy(c.pages[pos/pageLen][c.offset(part, h, pos):], row[h*c.dim:][:c.dim])
		}
	}
}

// rows gives keys (part 0) or values (1) of a head at positions [lo,hi) of one page.
func (c *rowCache) rows(part, head, lo, hi int) kernels.Matrix {
	return kernels.View(c.pages[lo/pageLen][c.offset(part, head, lo):], hi-lo, c.dim)
}

// attend computes the input of the output projection, dst [tokens, Heads*HeadDim], from the hidden
// states x [tokens, Hidden] of positions [pos,pos+tokens), and puts their keys and values in the cache.
// place has been called for these positions.
func (w *walk) attend(b *block, dst, x kernels.Matrix, pos int) {
	q, k, v := w.e.project(b, &w.buf, x)
	w.cache.grow(pos + x.Rows)
	w.e.pool.Run(x.Rows, func(_, i int) { w.cache.put(pos+i, k.Row(i), v.Row(i)) })
	window := 0
	if w.m.Decoder.Windowed(w.block) {
		window = w.m.Decoder.Window
	}
	w.e.attendRows(&w.cache, dst, q, pos, window)
}

// scoreNumbers bounds the scores of a tile of queries.
const scoreNumbers = 1 << 20

// attendRows computes dst [tokens, Heads*HeadDim] for queries q of positions [pos,pos+tokens), over the
// cache, which already holds those positions. Position p sees positions (p-window, p], or all up
// to p when window is 0. The softmax and its sums are in float32.
func (e *engine) attendRows(c *rowCache, dst, q kernels.Matrix, pos, window int) {
	group := e.d.Heads / e.d.KVHeads
	tile := min(queryTile, q.Rows)
	for tile > 1 && tile*group*min(pos+q.Rows, spanOf(tile, window)) > scoreNumbers {
		tile /= 2
	}
	tiles := (q.Rows + tile - 1) / tile
	e.pool.Run(tiles*e.d.KVHeads, func(worker, i int) {
		// Late tiles see more keys: handing them out first evens the load.
		t := tiles - 1 - i/e.d.KVHeads
		lo := t * tile
		e.attendRowTile(&e.work[worker], c, dst, q, i%e.d.KVHeads, lo, min(q.Rows, lo+tile), pos, window)
	})
}

// spanOf is the most keys that a tile of queries can see.
func spanOf(tile, window int) int {
	if window == 0 {
		return math.MaxInt32
	}
	return window + tile
}

// attendRowTile does queries [lo,hi) of the group of heads that share one key head.
func (e *engine) attendRowTile(ws *workspace, c *rowCache, dst, q kernels.Matrix, head, lo, hi, pos, window int) {
	dim, group, n := e.d.HeadDim, e.d.Heads/e.d.KVHeads, hi-lo
	first, end := 0, pos+hi // keys that any query of the tile sees
	if window > 0 {
		first = max(0, pos+lo-window+1)
	}
	span := end - first
	scores := kernels.View(need(&ws.scores, group*n*span), group*n, span)
	// queries [n, dim] of one head of the group, or all heads of the group when there is one token
	view := func(m kernels.Matrix, g int) kernels.Matrix {
		at := lo*m.Stride + (head*group+g)*dim
		if n == 1 {
			return kernels.Matrix{Data: m.Data[at:], Rows: group, Cols: dim, Stride: dim}
		}
		return kernels.Matrix{Data: m.Data[at:], Rows: n, Cols: dim, Stride: m.Stride}
	}
	passes, height := group, n
	if n == 1 {
		passes, height = 1, group
	}
	for at := first; at < end; at = nextPage(at, end) {
		stop := nextPage(at, end)
		keys := c.rows(0, head, at, stop)
		for g := range passes {
			e.k.GemmNT(scores.Slice(g*height, (g+1)*height, at-first, stop-first), view(q, g), keys, false)
		}
	}
	scale := float32(1 / math.Sqrt(float64(dim)))
	for r := range group * n {
		row := scores.Row(r)
		p := pos + lo + r%n
		to, from := p+1-first, 0
		if window > 0 {
			from = max(0, p-window+1-first)
		}
		clear(row[:from])
		clear(row[to:])
		e.k.Scale(row[from:to], scale)
		e.k.Softmax(row[from:to])
	}
	for at := first; at < end; at = nextPage(at, end) {
		stop := nextPage(at, end)
		values := c.rows(1, head, at, stop)
		for g := range passes {
			e.k.GemmNN(view(dst, g), scores.Slice(g*height, (g+1)*height, at-first, stop-first), values, at > first)
		}
	}
}

// nextPage is the end of the page that position at lies in, or end when that comes first.
func nextPage(at, end int) int { return min(end, (at/pageLen+1)*pageLen) }
