package runner

import (
	"math"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
)

// pageLen is the number of positions in one page of the key and value cache.
const pageLen = 128

// cache holds the keys and values of one layer, by pages of pageLen positions: a page is
// [KVHeads][pageLen][HeadDim] keys, then values, so that what one head reads lies together.
type cache struct {
	heads, dim int
	half       bool // IEEE half precision instead of float32
	pages      []page
}

type page struct {
	floats []float32
	halves []byte
}

// pageBytes is the size of one page.
func (c *cache) pageBytes() int64 {
	size := int64(2*c.heads*c.dim*pageLen) * 4
	if c.half {
		size /= 2
	}
	return size
}

// grow makes room for positions below n.
func (c *cache) grow(n int) {
	for len(c.pages)*pageLen < n {
		var p page
		if c.half {
			p.halves = make([]byte, c.pageBytes())
		} else {
			p.floats = make([]float32, c.pageBytes()/4)
		}
		c.pages = append(c.pages, p)
	}
}

// offset is where the row of a position begins in its page, in numbers; part 0 is keys, 1 values.
func (c *cache) offset(part, head, pos int) int {
	return ((part*c.heads+head)*pageLen + pos%pageLen) * c.dim
}

// put stores the keys and values of one position.
func (c *cache) put(pos int, k, v []float32) {
	p := c.pages[pos/pageLen]
	for part, row := range [][]float32{k, v} {
		for h := range c.heads {
			at, head := c.offset(part, h, pos), row[h*c.dim:][:c.dim]
			if !c.half {
				copy(p.floats[at:], head)
				continue
			}
			dst := p.halves[at*2:][:2*c.dim]
			for i, x := range head {
				u := storage.F32ToF16(x)
				dst[2*i], dst[2*i+1] = byte(u), byte(u>>8)
			}
		}
	}
}

// rows gives keys (part 0) or values (1) of a head at positions [lo,hi) of one page; scratch holds
// pageLen*dim numbers and is used when they have to be decoded.
func (c *cache) rows(decode func([]float32, []byte), scratch []float32, part, head, lo, hi int) kernels.Matrix {
	p, at, n := c.pages[lo/pageLen], c.offset(part, head, lo), (hi-lo)*c.dim
	if !c.half {
		return kernels.View(p.floats[at:at+n], hi-lo, c.dim)
	}
	decode(scratch[:n], p.halves[2*at:2*(at+n)])
	return kernels.View(scratch[:n], hi-lo, c.dim)
}

// queryTile is how many tokens share one pass over the keys, and scoreNumbers bounds the scores
// of such a tile.
const (
	queryTile    = 32
	scoreNumbers = 1 << 20
)

// attend computes dst [tokens, Heads*HeadDim] for queries q of positions [pos,pos+tokens), over the
// cache, which already holds those positions. Position p sees positions (p-window, p], or all up
// to p when window is 0. The softmax and its sums are in float32.
func (e *engine) attend(c *cache, dst, q kernels.Matrix, pos, window int) {
	group := e.d.Heads / e.d.KVHeads
	tile := min(queryTile, q.Rows)
	for tile > 1 && tile*group*min(pos+q.Rows, spanOf(tile, window)) > scoreNumbers {
		tile /= 2
	}
	tiles := (q.Rows + tile - 1) / tile
	var decode func([]float32, []byte)
	if c.half {
		decode = e.k.DecodeRow(string(storage.F16))
	}
	e.pool.run(tiles*e.d.KVHeads, func(worker, i int) {
		// Late tiles see more keys: handing them out first evens the load.
		t := tiles - 1 - i/e.d.KVHeads
		lo := t * tile
		e.attendTile(&e.work[worker], decode, c, dst, q, i%e.d.KVHeads, lo, min(q.Rows, lo+tile), pos, window)
	})
}

// spanOf is the most keys that a tile of queries can see.
func spanOf(tile, window int) int {
	if window == 0 {
		return math.MaxInt32
	}
	return window + tile
}

// attendTile does queries [lo,hi) of the group of heads that share one key head.
func (e *engine) attendTile(ws *workspace, decode func([]float32, []byte), c *cache, dst, q kernels.Matrix, head, lo, hi, pos, window int) {
	dim, group, n := e.d.HeadDim, e.d.Heads/e.d.KVHeads, hi-lo
	first, end := 0, pos+hi // keys that any query of the tile sees
	if window > 0 {
		first = max(0, pos+lo-window+1)
	}
	span := end - first
	scores := kernels.View(need(&ws.scores, group*n*span), group*n, span)
	scratch := need(&ws.keys, pageLen*dim)
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
		keys := c.rows(decode, scratch, 0, head, at, stop)
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
		values := c.rows(decode, scratch, 1, head, at, stop)
		for g := range passes {
			e.k.GemmNN(view(dst, g), scores.Slice(g*height, (g+1)*height, at-first, stop-first), values, at > first)
		}
	}
}

// nextPage is the end of the page that position at lies in, or end when that comes first.
func nextPage(at, end int) int { return min(end, (at/pageLen+1)*pageLen) }
