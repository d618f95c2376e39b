package runner

import (
	"math"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// queryTile is how many tokens share one pass over the keys.
const queryTile = 32

// attendNumbers is the scratch that a worker needs for tiles of t tokens, in numbers: a page of keys
// and values where several tokens read it, scores, and the sums of all heads that share a key head and of
// one page.
func attendNumbers(heads, kvHeads, dim, t int) int {
	group, n := heads/kvHeads, min(t, queryTile)
	rows := max(n, group)
	return pageNumbers(dim, t) + rows*pageLen + group*n*(dim+2) + rows*(dim+2)
}

func pageNumbers(dim, t int) int {
	if t == 1 {
		return 0
	}
	return 2 * pageLen * dim
}

// partNumbers is the room for sums of pages of a single token of a context, where the workers need it.
func partNumbers(d *ir.Decoder, context, threads int) int {
	if d.KVHeads%threads == 0 || context <= pageLen {
		return 0
	}
	return (context + pageLen - 1) / pageLen * d.Heads * (d.HeadDim + 2)
}

// attendScratch is the scratch of one worker, cut up.
type attendScratch struct {
	page   []float32 // decoded keys and values
	scores []float32
	sums   []float32 // [group*tokens] rows
	part   []float32 // sums of one page
}

func (e *engine) attendScratch(worker, t int) attendScratch {
	d := e.d
	all := need(&e.work[worker].attend, attendNumbers(d.Heads, d.KVHeads, d.HeadDim, t))
	group, n := d.Heads/d.KVHeads, min(t, queryTile)
	cut := func(n int) []float32 {
		part := all[:n:n]
		all = all[n:]
		return part
	}
	return attendScratch{cut(pageNumbers(d.HeadDim, t)), cut(max(n, group) * pageLen), cut(group * n * (d.HeadDim + 2)), all}
}

// sumsIn makes sums of rows in scratch.
func sumsIn(x []float32, rows, dim int) kernels.Sums {
	return kernels.Sums{Acc: kernels.View(x, rows, dim), Top: x[rows*dim:][:rows], Sum: x[rows*(dim+1):][:rows]}
}

// rowsOf is a part of sums.
func rowsOf(s kernels.Sums, lo, hi int) kernels.Sums {
	return kernels.Sums{Acc: s.Acc.Slice(lo, hi, 0, s.Acc.Cols), Top: s.Top[lo:hi], Sum: s.Sum[lo:hi]}
}

// attention is what the workers need to know of the attention under way.
type attention struct {
	c      *cache
	dst, q kernels.Matrix // [tokens, Heads*HeadDim]
	pos    int            // of the first token
	tiles  int
	first  int // page that the sums in parts begin with,
	pages  int // and how many there are
	parts  []float32
}

// attend computes dst [tokens, Heads*HeadDim] for queries q of positions [pos,pos+tokens), over the
// cache, which already holds those positions. Position p sees positions (p-window, p], or all up
// to p without a window. Sums and exponentials are in float32, a page at a time, and pages are joined in
// their order: a token's result does not depend on the tokens beside it, nor on the workers.
func (e *engine) attend(c *cache, dst, q kernels.Matrix, pos int) {
	first, last := c.first(pos)/pageLen, pos/pageLen
	e.at = attention{c: c, dst: dst, q: q, pos: pos, tiles: (q.Rows + queryTile - 1) / queryTile, first: first}
	if q.Rows > 1 || first == last || e.d.KVHeads%e.pool.Threads() == 0 {
		e.pool.Run(e.at.tiles*e.d.KVHeads, e.steps.attend)
		return
	}
	// The key heads of a single token do not divide evenly among the workers: every page of every key
	// head is an item of its own, head by head as they are fetched ahead, and the pages are joined
	// afterwards.
	e.at.pages = last - first + 1
	e.at.parts = need(&e.parts, e.at.pages*e.d.Heads*(e.d.HeadDim+2))
	e.pool.Run(e.at.pages*e.d.KVHeads, e.steps.attendPart)
	e.pool.Run(e.d.KVHeads, e.steps.attendJoin)
}

// attendTile does one tile of queries of the heads that share one key head.
func (e *engine) attendTile(worker, item int) {
	a, d := &e.at, e.d
	t, head := item/d.KVHeads, item%d.KVHeads
	// late tiles see more keys: the share that each worker begins with has late and early ones
	if t%2 == 1 {
		t = a.tiles - 1 - t/2
	} else {
		t /= 2
	}
	lo := t * queryTile
	hi := min(a.q.Rows, lo+queryTile)
	n, dim, group := hi-lo, d.HeadDim, d.Heads/d.KVHeads
	ws := e.attendScratch(worker, a.q.Rows)
	sums := sumsIn(ws.sums, group*n, dim)
	sums.Empty()
	for p := a.c.first(a.pos+lo) / pageLen; p*pageLen < a.pos+hi; p++ {
		seen := min(pageLen, a.pos+hi-p*pageLen)
		if a.q.Rows == 1 { // which reads as fast as memory is, so that the next page is fetched meanwhile
			keys, values := a.c.stored(p, head, seen)
			part := sumsIn(ws.part, group, dim)
			e.attendPage(ws.scores, part, e.group(head), keys, values, p, seen, a.pos, 0, a.c.ahead(p+1, head))
			e.k.AttendMerge(sums, part)
			continue
		}
		keys, values := a.c.read(e.k, ws.page, p, head, seen)
		part := sumsIn(ws.part, n, dim)
		for g := range group {
			at := (head*group + g) * dim
			e.attendPage(ws.scores, part, a.q.Slice(lo, hi, at, at+dim), keys, values, p, seen, a.pos+lo, 1, pageAhead{})
			e.k.AttendMerge(rowsOf(sums, g*n, (g+1)*n), part)
		}
	}
	for r := range group * n {
		e.attended(sums, r, lo+r%n, head*group+r/n)
	}
}

// attended writes row r of finished sums where it belongs.
func (e *engine) attended(sums kernels.Sums, r, token, head int) {
	out := e.at.dst.Row(token)[head*e.d.HeadDim:][:e.d.HeadDim]
	copy(out, sums.Acc.Row(r))
	e.k.Scale(out, 1/sums.Sum[r])
}

// group is the queries of the heads that share a key head, of a single token: [group, dim].
func (e *engine) group(head int) kernels.Matrix {
	group, dim := e.d.Heads/e.d.KVHeads, e.d.HeadDim
	return kernels.View(e.at.q.Row(0)[head*group*dim:][:group*dim], group, dim)
}

// attendPage makes part the sums of one page, for rows of queries that stand step positions apart from
// pos on. keys and values are those of the page, n positions, as far as any row sees them; ahead is what is
// read next.
func (e *engine) attendPage(scratch []float32, part kernels.Sums, q kernels.Matrix, keys, values kernels.Cached, page, n, pos, step int, ahead pageAhead) {
	dim, window := e.d.HeadDim, e.at.c.window
	cols := (n + kernels.Panel - 1) / kernels.Panel * kernels.Panel
	scores := kernels.View(scratch, q.Rows, cols)
	span := kernels.Span{From: 0, To: pos + 1 - page*pageLen, Step: step}
	if window > 0 {
		span.From = span.To - window
	} else {
		span.From = -q.Rows * step // rows see all that lies before them
	}
	e.k.AttendScores(scores, q, keys, ahead.keys)
	e.k.AttendWeights(scores, part.Top, part.Sum, span, float32(1/math.Sqrt(float64(dim))))
	e.k.AttendValues(part.Acc, scores.Slice(0, q.Rows, 0, n), values, span, ahead.values)
}

// partOf is the sums over one page of the heads that share a key head.
func (e *engine) partOf(page, head int) kernels.Sums {
	heads, dim, group := e.d.Heads, e.d.HeadDim, e.d.Heads/e.d.KVHeads
	all := sumsIn(e.at.parts[(page-e.at.first)*heads*(dim+2):], heads, dim)
	return rowsOf(all, head*group, (head+1)*group)
}

// part is the page and the key head of an item of attendPart: a worker's next item is the next page of the
// same head, which attendPage fetches ahead.
func (a *attention) part(item int) (page, head int) {
	return a.first + item%a.pages, item / a.pages
}

// attendPart does one page of one key head for a single token.
func (e *engine) attendPart(worker, item int) {
	a := &e.at
	page, head := a.part(item)
	ws := e.attendScratch(worker, 1)
	seen := min(pageLen, a.pos+1-page*pageLen)
	keys, values := a.c.stored(page, head, seen)
	e.attendPage(ws.scores, e.partOf(page, head), e.group(head), keys, values, page, seen, a.pos, 0, a.c.ahead(page+1, head))
}

// attendJoin joins the pages of one key head.
func (e *engine) attendJoin(worker, head int) {
	group := e.d.Heads / e.d.KVHeads
	sums := sumsIn(e.attendScratch(worker, 1).sums, group, e.d.HeadDim)
	sums.Empty()
	for p := e.at.first; p <= e.at.pos/pageLen; p++ {
		e.k.AttendMerge(sums, e.partOf(p, head))
	}
	for r := range group {
		e.attended(sums, r, 0, head*group+r)
	}
}
