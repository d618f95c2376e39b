package runner

import (
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// linear is a weight [rows,cols] ready to be multiplied with: in tiles, or as its encoded bytes, where
// possible in the mapped file, and how to turn rows of them into real values.
type linear struct {
	name       string
	typ        storage.Type
	rows, cols int
	floats     []float32 // set when the bytes are usable as they are; raw is nil then
	raw        []byte    // nil when nobody needs more than the tiles
	rowBytes   int
	decode     func(dst []float32, row int)                             // one row
	one        func(dst []float32, rows []byte, x []float32, add bool)  // products of rows as they are stored with one input
	stored     func(buf []float32, rows []byte, n, k int) kernels.Right // packs rows as they are stored
	tiler      *kernels.Tiler                                           // set when products take quantized activations
	tiles      []byte                                                   // nil: they are made from raw when they are used
	room       []byte                                                   // where they are going to stay, until they do
	panels     *kernels.Right                                           // the whole weight, laid out for products with many tokens; nil: made when used
	planes     *kernels.Planes                                          // set when codes and scales lie apart; raw is nil then
	bias       []float32
	side       *ir.LowRank
	file       ir.Mapped
}

// drop gives the pages of the mapped file back until the weight is used again.
func (l *linear) drop() {
	if l != nil && l.file != nil {
		l.file.DropRaw(ir.PartData, 0, l.rows)
	}
}

// rowSize is how many bytes a row takes where products read it.
func (l *linear) rowSize() int {
	switch {
	case l.tiler != nil:
		return l.tiler.Bytes(l.cols) / kernels.TileRows
	case l.floats != nil:
		return 4 * l.cols
	}
	return l.rowBytes
}

func (l *linear) row(i int) []byte { return l.raw[i*l.rowBytes:][:l.rowBytes:l.rowBytes] }

// band is rows [lo,hi) as real values: a view of the weight where it is float32, otherwise decoded
// into scratch, which holds (hi-lo)*cols numbers.
func (l *linear) band(scratch []float32, lo, hi int) kernels.Matrix {
	if l.floats != nil {
		return kernels.View(l.floats[lo*l.cols:hi*l.cols], hi-lo, l.cols)
	}
	for i := lo; i < hi; i++ {
		l.decode(scratch[(i-lo)*l.cols:][:l.cols], i)
	}
	return kernels.View(scratch, hi-lo, l.cols)
}

// lookup writes row i of the weight, with the change kept beside it, to dst: an embedding.
func (l *linear) lookup(dst []float32, i int) {
	if l.floats != nil {
		copy(dst, l.floats[i*l.cols:])
	} else {
		l.decode(dst, i)
	}
	if l.side != nil {
		l.side.Apply(dst, int64(i)*int64(l.cols), l.cols)
	}
}

// packed is rows [lo,hi) as an operand of products with many tokens, in the worker's scratch.
func (l *linear) packed(k *kernels.Set, ws *workspace, lo, hi int) kernels.Right {
	if l.panels != nil {
		return l.panels.Rows(lo, hi)
	}
	buf := need(&ws.band, k.RightLen(hi-lo, l.cols))
	if l.stored != nil {
		return l.stored(buf, l.raw[lo*l.rowBytes:hi*l.rowBytes], hi-lo, l.cols)
	}
	var scratch []float32
	if l.floats == nil {
		scratch = need(&ws.rows, (hi-lo)*l.cols)
	}
	return k.PackRight(buf, l.band(scratch, lo, hi))
}

// pack lays the whole weight out for products. Its pages of the mapped file are given back.
func (l *linear) pack(e *engine) {
	buf := make([]float32, e.k.RightLen(l.rows, l.cols))
	var right kernels.Right
	if l.stored != nil {
		right = l.stored(buf, l.raw, l.rows, l.cols)
	} else {
		var scratch []float32
		if l.floats == nil {
			scratch = make([]float32, l.rows*l.cols)
		}
		right = e.k.PackRight(buf, l.band(scratch, 0, l.rows))
	}
	l.panels = &right
	l.drop()
}

// tilesOf is rows [lo,hi) in tiles; lo is a multiple of TileRows, and so is hi unless it is the last. What is made
// of them goes where it is to stay if keep is set, and is used while it is near.
func (l *linear) tilesOf(ws *workspace, lo, hi int, keep bool) []byte {
	size := l.tiler.Bytes(l.cols)
	from, end := lo/kernels.TileRows*size, (hi+kernels.TileRows-1)/kernels.TileRows*size
	if l.tiles != nil {
		return l.tiles[from:end]
	}
	var tiles []byte
	if keep && l.room != nil {
		tiles = l.room[from:end]
	} else {
		if cap(ws.tiles) < end-from {
			ws.tiles = make([]byte, end-from)
		}
		tiles = ws.tiles[:end-from]
	}
	packTiles(l.tiler, tiles, l.raw[lo*l.rowBytes:hi*l.rowBytes], hi-lo, l.cols)
	return tiles
}

// settle is called when a pass over all rows has kept their tiles: they stay, and the pages of the mapped file go.
func (l *linear) settle() {
	if l.tiles == nil && l.room != nil {
		l.tiles, l.room = l.room, nil
		l.drop()
	}
}

// packTiles makes tiles of n adjacent rows.
func packTiles(t *kernels.Tiler, dst, rows []byte, n, cols int) {
	size, row := t.Bytes(cols), len(rows)/n
	for lo := 0; lo < n; lo += kernels.TileRows {
		hi := min(n, lo+kernels.TileRows)
		t.Pack(dst[:size:size], rows[lo*row:hi*row], hi-lo, cols)
		dst = dst[size:]
	}
}

// block is the weights of one decoder block.
type block struct {
	attnNorm, mlpNorm, qNorm, kNorm []float32
	q, k, v, o, gate, up, down      *linear
}

// drop gives the pages of the block's weights back.
func (b *block) drop() {
	for _, l := range blockLinears(b) {
		(*l.dst).drop()
	}
}

// blockLinear ties a place in a block to its roles.
type blockLinear struct {
	dst          **linear
	weight, bias ir.Role
}

func blockLinears(w *block) []blockLinear {
	return []blockLinear{
		{&w.q, ir.RoleAttnQ, ir.RoleAttnQBias},
		{&w.k, ir.RoleAttnK, ir.RoleAttnKBias},
		{&w.v, ir.RoleAttnV, ir.RoleAttnVBias},
		{&w.o, ir.RoleAttnO, ir.RoleAttnOBias},
		{&w.gate, ir.RoleMLPGate, ir.RoleMLPGateBias},
		{&w.up, ir.RoleMLPUp, ir.RoleMLPUpBias},
		{&w.down, ir.RoleMLPDown, ir.RoleMLPDownBias},
	}
}

// blockNorm ties a norm gain of a block to its role.
type blockNorm struct {
	dst  *[]float32
	role ir.Role
}

func blockNorms(w *block) []blockNorm {
	return []blockNorm{
		{&w.attnNorm, ir.RoleAttnNorm},
		{&w.mlpNorm, ir.RoleMLPNorm},
		{&w.qNorm, ir.RoleAttnQNorm},
		{&w.kNorm, ir.RoleAttnKNorm},
	}
}
