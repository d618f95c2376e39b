package runner

import "github.com/pare-dev/pare/internal/kernels"

// product is one use of a weight: dst = x w^T + bias, or dst += that; then act of every row of it.
type product struct {
	w   *linear
	dst kernels.Matrix
	add bool
	act func(dst, x []float32) // nil for none
}

// multiplication is the products of the same inputs that are under way. The inputs are prepared once,
// in every form that one of the weights needs, and shared by all workers.
type multiplication struct {
	x        kernels.Matrix
	left     kernels.Left         // of x, for weights that are multiplied as real numbers with many tokens
	acts     *kernels.Activations // of x, for weights in tiles
	products [3]product
	inputs   [3]sideInput
	gated    bool // the first product becomes silu(first)*second
	items    []item
}

// item is a range of output columns of one of the products of a run.
type item struct{ product, lo, hi int }

const (
	// bandNumbers is about how many real weights a worker packs at a time, a mebibyte, and bandLeast the
	// fewest rows: all tokens pass by every band, from a cache that is farther away.
	bandNumbers = 1 << 18
	bandLeast   = 64
	// oneNumbers is about how many weights a worker decodes at a time for a single token.
	oneNumbers = 1 << 16
	// bandTokens bounds the activations, in bytes, that pass by some tiles before the next ones do, and
	// tileCols is about how many columns of them pass at a time, wherever a row is longer.
	bandTokens = 1 << 20
	tileCols   = 1 << 10
	// A single token's items are about shareBytes of weights, 10 µs, or leastBytes where a weight is small: less
	// would take no longer than what surrounds an item.
	shareBytes = 64 << 10
	leastBytes = 16 << 10
	// bandTiles is how many tiles make an item for many tokens.
	bandTiles = 4
)

// bandRows is how many rows of a weight make one item of work for t tokens.
func (e *engine) bandRows(w *linear, t int) int {
	grain, rows := kernels.FewRows, 0
	switch {
	case t == 1:
		if w.tiler != nil {
			grain = kernels.TileRows
		}
		size := min(shareBytes, max(leastBytes, w.rows*w.rowSize()/(4*e.pool.Threads())))
		rows = size / max(1, w.rowSize())
	case w.tiler != nil:
		grain = kernels.TileRows
		rows = bandTiles * grain
	default:
		grain = e.k.RightGroup()
		rows = bandOf(e.k, w.cols)
	}
	rows = max(grain, rows/grain*grain)
	for t > 1 && rows > grain && (w.rows+rows-1)/rows < 4*e.pool.Threads() {
		rows = max(grain, rows/2/grain*grain)
	}
	return rows
}

// bandOf is the most rows of so many columns that a worker packs at a time.
func bandOf(k *kernels.Set, cols int) int {
	group := k.RightGroup()
	return max(group, max(bandLeast, bandNumbers/cols)/group*group)
}

// multiply computes up to three products of the same inputs x [tokens, cols] in one run over the
// workers.
func (e *engine) multiply(x kernels.Matrix, products ...product) {
	e.prepare(x, products)
	m := &e.mul
	for p, q := range products {
		rows := e.bandRows(q.w, x.Rows)
		for lo := 0; lo < q.w.rows; lo += rows {
			m.items = append(m.items, item{p, lo, min(q.w.rows, lo+rows)})
		}
	}
	e.runProducts()
}

// gate computes silu(gate) * up of the same inputs; gate's dst has the result.
func (e *engine) gate(x kernels.Matrix, gate, up product) {
	e.prepare(x, []product{gate, up})
	m := &e.mul
	m.gated = true
	// ranges that suit both, whether in tiles or not
	rows := (max(e.bandRows(gate.w, x.Rows), e.bandRows(up.w, x.Rows)) + kernels.TileRows - 1) / kernels.TileRows * kernels.TileRows
	for lo := 0; lo < gate.w.rows; lo += rows {
		m.items = append(m.items, item{0, lo, min(gate.w.rows, lo+rows)})
	}
	e.runProducts()
}

// runProducts does the items of the products under way, which are all rows of their weights.
func (e *engine) runProducts() {
	m := &e.mul
	e.pool.Run(len(m.items), e.steps.multiply)
	if !e.keep {
		return
	}
	for _, p := range m.products {
		if p.w != nil {
			p.w.settle()
		}
	}
}

// prepare brings the inputs into the forms that the weights need.
func (e *engine) prepare(x kernels.Matrix, products []product) {
	m := &e.mul
	items := m.items[:0]
	*m = multiplication{x: x, items: items}
	tiled, packed := false, false
	for i, p := range products {
		m.products[i] = p
		if p.w.tiler != nil {
			tiled = true
		} else {
			packed = packed || x.Rows > 1
		}
	}
	if tiled {
		e.acts.Reset(x.Rows, x.Cols)
		m.acts = &e.acts
		if x.Rows <= rowGrain {
			e.k.Quantize(m.acts, x, 0, x.Rows)
		} else {
			e.pool.Run((x.Rows+rowGrain-1)/rowGrain, e.steps.quantize)
		}
	}
	if packed {
		m.left = e.packLeft(&e.left, x)
	}
	for i, p := range products {
		if p.w.side != nil {
			m.inputs[i] = e.sideInput(x, m.left, p.w)
		}
	}
}

// quantizeRows prepares some rows of the inputs for weights in tiles.
func (e *engine) quantizeRows(_, item int) {
	m := &e.mul
	e.k.Quantize(m.acts, m.x, item*rowGrain, min(m.x.Rows, (item+1)*rowGrain))
}

// packLeft lays x out for products with packed weights.
func (e *engine) packLeft(buf *[]float32, x kernels.Matrix) kernels.Left {
	left := e.k.NewLeft(need(buf, e.k.LeftLen(x.Rows, x.Cols)), x.Rows, x.Cols)
	grain := (rowGrain + e.k.LeftGroup() - 1) / e.k.LeftGroup() * e.k.LeftGroup()
	e.pool.Run((x.Rows+grain-1)/grain, func(_, i int) {
		e.k.PackLeft(left, x, i*grain, min(x.Rows, (i+1)*grain))
	})
	return left
}

// multiplyItem computes one item of the products under way.
func (e *engine) multiplyItem(worker, i int) {
	m := &e.mul
	it := m.items[i]
	e.multiplyRows(worker, it.product, it.lo, it.hi)
	if !m.gated {
		return
	}
	e.multiplyRows(worker, 1, it.lo, it.hi)
	for t := range m.x.Rows {
		g := m.products[0].dst.Row(t)[it.lo:it.hi]
		e.k.SiLUMul(g, g, m.products[1].dst.Row(t)[it.lo:it.hi])
	}
}

// multiplyRows computes output columns [lo,hi) of one of the products.
func (e *engine) multiplyRows(worker, i, lo, hi int) {
	m := &e.mul
	p, ws := m.products[i], &e.work[worker]
	dst := p.dst.Slice(0, m.x.Rows, lo, hi)
	switch {
	case p.w.side != nil:
		e.changed(ws, dst, p.w, m.inputs[i], lo, hi, p.add)
	case p.w.tiler != nil:
		e.tiled(ws, dst, p.w, lo, hi, p.add)
	default:
		e.times(ws, dst, m.x, m.left, p.w, lo, hi, p.add)
	}
	if p.w.bias != nil {
		for t := range dst.Rows {
			e.k.Add(dst.Row(t), p.w.bias[lo:hi])
		}
	}
	if p.act != nil {
		for t := range dst.Rows {
			p.act(dst.Row(t), dst.Row(t))
		}
	}
}

// tiled is dst = x w[lo:hi]^T, or dst += that, of the quantized inputs.
func (e *engine) tiled(ws *workspace, dst kernels.Matrix, w *linear, lo, hi int, add bool) {
	rows := hi - lo
	if w.tiles == nil { // an item may be as long as the other weight of a gate wants it
		rows = madeTiles(w.tiler.Bytes(w.cols)) * kernels.TileRows
	}
	// some tokens stay in the second-level cache while all these tiles pass by
	step := max(64, bandTokens/(2*min(w.cols, tileCols))&^15)
	for at := lo; at < hi; at += rows {
		end := min(hi, at+rows)
		tiles := w.tilesOf(ws, at, end, e.keep)
		for t := 0; t < dst.Rows; t += step {
			last := min(dst.Rows, t+step)
			x := e.mul.acts.Slice(t, last)
			w.tiler.Mul(dst.Slice(t, last, at-lo, end-lo), &x, tiles, add)
		}
	}
}

// madeTiles is how many tiles of a size a worker makes at a time.
func madeTiles(size int) int { return max(bandTiles, shareBytes/max(1, size)) }

// times is dst = x w[lo:hi]^T, or dst += that, of real inputs; left is x, packed, where there are several
// tokens.
func (e *engine) times(ws *workspace, dst, x kernels.Matrix, left kernels.Left, w *linear, lo, hi int, add bool) {
	if x.Rows == 1 {
		e.timesOne(ws, dst, x, w, lo, hi, add)
		return
	}
	step := bandOf(e.k, w.cols)
	for at := lo; at < hi; at += step {
		end := min(hi, at+step)
		e.k.MulPacked(dst.Slice(0, x.Rows, at-lo, end-lo), left, w.packed(e.k, ws, at, end), add)
	}
}

// timesOne is times for a single token. The order of sums is that of many: a token's results do not
// depend on those beside it.
func (e *engine) timesOne(ws *workspace, dst, x kernels.Matrix, w *linear, lo, hi int, add bool) {
	switch {
	case w.floats != nil:
		e.k.GemmNT(dst, x, w.band(nil, lo, hi), add)
	case w.planes != nil:
		e.k.MulPlanes(dst.Row(0), x.Row(0), w.planes, lo, add)
	case w.one != nil:
		w.one(dst.Row(0), w.raw[lo*w.rowBytes:hi*w.rowBytes], x.Row(0), add)
	default:
		step := max(1, oneNumbers/w.cols)
		for at := lo; at < hi; at += step {
			end := min(hi, at+step)
			rows := w.band(need(&ws.rows, (end-at)*w.cols), at, end)
			e.k.GemmNT(dst.Slice(0, 1, at-lo, end-lo), x, rows, add)
		}
	}
}

// sideInput is what a low-rank change needs of the inputs: col = x * Col (x itself without Col), also
// packed, and low = x A^T, [tokens, Rank].
type sideInput struct {
	col, low kernels.Matrix
	left     kernels.Left
}

func (e *engine) sideInput(x kernels.Matrix, left kernels.Left, w *linear) sideInput {
	s := w.side
	in := sideInput{col: x, left: left}
	if s.Col != nil {
		in.col = kernels.View(make([]float32, x.Rows*x.Cols), x.Rows, x.Cols)
		for t := range x.Rows {
			copy(in.col.Row(t), x.Row(t))
			e.k.Mul(in.col.Row(t), s.Col)
		}
		if x.Rows > 1 {
			in.left = e.packLeft(new([]float32), in.col)
		}
	}
	if s.Rank > 0 {
		in.low = kernels.View(make([]float32, x.Rows*s.Rank), x.Rows, s.Rank)
		e.pool.Run(x.Rows, func(_, t int) {
			e.k.GemmNT(in.low.Slice(t, t+1, 0, s.Rank), x.Slice(t, t+1, 0, x.Cols), kernels.View(s.A, s.Rank, x.Cols), false)
		})
	}
	return in
}

// changed is times for a weight with a change beside it: Row * (W (Col * x)) + B (A x).
func (e *engine) changed(ws *workspace, dst kernels.Matrix, w *linear, in sideInput, lo, hi int, add bool) {
	s, n := w.side, hi-lo
	tile := kernels.View(need(&ws.tile, dst.Rows*n), dst.Rows, n)
	e.times(ws, tile, in.col, in.left, w, lo, hi, false)
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
