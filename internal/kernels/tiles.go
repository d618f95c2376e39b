package kernels

import (
	"fmt"
	"sync"
	"unsafe"
)

// TileRows is how many rows of a weight are interleaved in a tile.
const TileRows = 16

const tileLine = 64 // bytes: four of every row

// tiled describes the tiles of a stored type. A unit is sixteen rows of one block.
type tiled struct {
	unit     int  // bytes of a unit, as many as sixteen blocks have
	groups   int  // blocks of 32 in it
	halves   int  // 2 where every sixteen weights have a factor
	min      bool // and minima beside the factors
	pack     []packing
	portable func(g []group, u tileUnit)
	fnOne    int // product with one token
	fnUntile int // unit to panel
	fnPanel  int // product of a panel with many
}

// packing moves count fours or pairs of bytes, or bytes, from a block to a unit.
type packing struct {
	fn              int // a kernel
	from, to, count int
}

func lines(from, to, count int) packing  { return packing{fnPackLines, from, to * tileLine, count} }
func fifths(from, to int) packing        { return packing{fnPackBits, from, to * tileLine, 1} }
func groups(from, to int) packing        { return packing{fnPackGroups, from, to * tileLine, 8} }
func scales(from, to, count int) packing { return packing{fnPackHalves, from, to, count} }

var tiledTypes = map[string]*tiled{
	"q8_0":   {544, 1, 1, false, []packing{lines(2, 0, 8), scales(0, 512, 1)}, untileQ80, fnTileQ80, fnUntileQ80, fnTilePanel},
	"q4_0":   {288, 1, 1, false, []packing{lines(2, 0, 4), scales(0, 256, 1)}, untileQ40, fnTileQ40, fnUntileQ40, fnTilePanel},
	"q4_1":   {320, 1, 1, true, []packing{lines(4, 0, 4), scales(0, 256, 2)}, untileQ41, fnTileQ41, fnUntileQ41, fnTilePanelMin},
	"q5_0":   {352, 1, 1, false, []packing{lines(6, 0, 4), fifths(2, 4), scales(0, 320, 1)}, untileQ50, fnTileQ50, fnUntileQ50, fnTilePanel},
	"q5_1":   {384, 1, 1, true, []packing{lines(8, 0, 4), fifths(4, 4), scales(0, 320, 2)}, untileQ51, fnTileQ51, fnUntileQ51, fnTilePanelMin},
	"q2_k":   {1344, 8, 2, true, []packing{lines(0, 0, 20), scales(80, 1280, 2)}, untileQ2K, fnTileQ2K, fnUntileQ2K, fnTilePanel16Min},
	"q3_k":   {1760, 8, 2, false, []packing{groups(0, 0), lines(32, 8, 19), scales(108, 1728, 1)}, untileQ3K, fnTileQ3K, fnUntileQ3K, fnTilePanel16},
	"q4_k":   {2304, 8, 1, true, []packing{lines(16, 0, 32), lines(4, 32, 3), scales(0, 2240, 2)}, untileQ4K, fnTileQ4K, fnUntileQ4K, fnTilePanelMin},
	"q5_k":   {2816, 8, 1, true, []packing{lines(48, 0, 32), groups(16, 32), lines(4, 40, 3), scales(0, 2752, 2)}, untileQ5K, fnTileQ5K, fnUntileQ5K, fnTilePanelMin},
	"q6_k":   {3360, 8, 2, false, []packing{lines(0, 0, 52), scales(208, 3328, 1)}, untileQ6K, fnTileQ6K, fnUntileQ6K, fnTilePanel16},
	"iq4_nl": {288, 1, 1, false, []packing{lines(2, 0, 4), scales(0, 256, 1)}, untileIQ4NL, fnTileIq4Nl, fnUntileIq4Nl, fnTilePanel},
	"iq4_xs": {2176, 8, 1, false, []packing{lines(8, 0, 32), lines(4, 32, 1), scales(2, 2112, 1), scales(0, 2144, 1)}, untileIQ4XS, fnTileIq4Xs, fnUntileIq4Xs, fnTilePanel},
	"mxfp4":  {272, 1, 1, false, []packing{lines(1, 0, 4), {fnPackBytes, 0, 256, 1}}, untileMXFP4, fnTileMxfp4, fnUntileMxfp4, fnTilePanel},
}

// Tiler multiplies quantized activations with weights of a stored type that were packed into tiles: 16
// rows interleaved, as compact as they are stored. It is immutable and safe for concurrent use.
//
// Products are defined to the bit. Within a block of 32 (16 where the type has scales for sixteen),
// codes are multiplied and added as integers, isum, exactly. The sum over blocks is taken in their order
// in float32, every step a rounded operation or a fused multiply-add:
//
//	u = isum*f              f is the factor of the block's weights, a product rounded to float32
//	u = fma(isum2, f2, u)   for the second sixteen, where they have their own factor
//	y = fma(u, d, y)        d is the scale of the activations
//	y = fma(m, d*sum(q), y) for each minimum m, where the type has them; d*sum(q) is rounded
//
// so that an element has the same bits at every level, for one token or many, whole or in parts. The
// first product is worked out as fma(magic+isum, f, -magic*f) with magic = 1.5*2^23, which is the same
// for the few bits that factors have, and not a number, or infinite, for factors beyond 2^103.
type Tiler struct {
	code         *code
	name         string
	elems, bytes int // of a block
	t            *tiled
}

// Tiler returns the kernels for tiles of a stored type, by its name in package storage; nil when there
// are none.
func (s *Set) Tiler(name string) *Tiler {
	t := tiledTypes[name]
	if t == nil {
		return nil
	}
	return &Tiler{s.code, name, t.groups * actBlock, t.unit / TileRows, t}
}

// Bytes is the size of one tile of 16 rows of cols numbers; cols is a multiple of the type's block.
func (t *Tiler) Bytes(cols int) int {
	if cols < 0 || cols%t.elems != 0 {
		panic(fmt.Sprintf("kernels: %d numbers in blocks of %s", cols, t.name))
	}
	return cols / t.elems * t.t.unit
}

type tilePackArgs struct {
	dst, src                                   unsafe.Pointer
	n, ld, blocks, size, unit, from, to, count int
}

// Pack interleaves n encoded rows of cols numbers, 0 < n <= 16, which lie one after another, into one
// tile; rows that are missing become zeros. dst is exactly Bytes(cols) long.
func (t *Tiler) Pack(dst, rows []byte, n, cols int) {
	size := t.Bytes(cols)
	ld := cols / t.elems * t.bytes
	if n < 1 || n > TileRows || len(dst) != size || len(rows) != n*ld {
		panic(fmt.Sprintf("kernels: %d rows of %d numbers of %s, %d bytes, into a tile of %d", n, cols, t.name, len(rows), len(dst)))
	}
	if cols == 0 {
		return
	}
	for _, p := range t.t.pack {
		args := tilePackArgs{at(dst), at(rows), n, ld, cols / t.elems, t.bytes, t.t.unit, p.from, p.to, p.count}
		if t.code == nil {
			p.portable(dst, rows, &args)
			continue
		}
		t.code.call(p.fn, unsafe.Pointer(&args))
	}
}

const (
	oneBytes    = 1 << 20 // most bytes of tiles in one call of a kernel
	panelGroups = 24      // most blocks of 32 in a panel: two stay in the nearest cache
	panelTokens = 516     // most tokens in one call; a multiple of what passes together
)

type oneArgs struct {
	dst, x, w                unsafe.Pointer
	tiles, blocks, step, add int
}

type untileArgs struct {
	panel, w unsafe.Pointer
	blocks   int
}

type panelArgs struct {
	dst, x, panel                          unsafe.Pointer
	ldd, ldx, first, m, blocks, tiles, add int
}

// scratch is room for two panels, and for the columns of dst that a last tile has too many.
type scratch struct {
	panel [2 * panelGroups * (8 + 4) * tileLine]byte
	edge  [panelTokens * TileRows]float32
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// Mul is dst = x * w^T, or dst += x * w^T: row i of dst belongs to row i of x, column j to row j of w,
// which tiles holds: 16 rows in each tile, one tile after another, the last one in part when dst.Cols
// is not a multiple of 16. The sum of an element that is added to starts with it.
func (t *Tiler) Mul(dst Matrix, x *Activations, tiles []byte, add bool) {
	dst.check("dst")
	size := t.Bytes(x.cols)
	if dst.Rows != x.rows || len(tiles) < (dst.Cols+TileRows-1)/TileRows*size {
		panic(fmt.Sprintf("kernels: [%d,%d] = [%d,%d] x tiles of %s, %d bytes", dst.Rows, dst.Cols, x.rows, x.cols, t.name, len(tiles)))
	}
	switch {
	case dst.Rows == 0 || dst.Cols == 0:
	case x.cols == 0:
		for i := range dst.Rows {
			if !add {
				clear(dst.Row(i))
			}
		}
	case t.code == nil:
		t.portable(dst, x, tiles, add)
	case dst.Rows == 1:
		t.one(dst.Row(0), x, tiles, add)
	default:
		t.many(dst, x, tiles, add)
	}
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// one multiplies a single token with tiles as they come from memory.
func (t *Tiler) one(dst []float32, x *Activations, tiles []byte, add bool) {
	size := t.Bytes(x.cols)
	args := oneArgs{x: unsafe.Pointer(x.block(0, 0)), blocks: x.cols / t.elems, step: x.group, add: flag(add)}
	step := max(1, oneBytes/size)
	for len(dst) >= TileRows {
		args.tiles = min(step, len(dst)/TileRows)
		args.dst, args.w = at(dst), at(tiles)
		t.code.call(t.t.fnOne, unsafe.Pointer(&args))
		dst, tiles = dst[args.tiles*TileRows:], tiles[args.tiles*size:]
	}
	if len(dst) > 0 {
		var edge [TileRows]float32
		copy(edge[:], dst)
		args.tiles = 1
		args.dst, args.w = unsafe.Pointer(&edge), at(tiles)
		t.code.call(t.t.fnOne, unsafe.Pointer(&args))
		copy(dst, edge[:])
	}
}

// panelLines is how many lines a panel has for a group: eight of codes, then factors and minima.
func (t *tiled) panelLines() int { return 8 + t.halves*(1+flag(t.min)) }

// many takes a batch of tokens and a piece of their columns, which stay in the second-level cache. The
// pieces of two tiles are laid out in the nearest one, and the batch passes by them.
func (t *Tiler) many(dst Matrix, x *Activations, tiles []byte, add bool) {
	size := t.Bytes(x.cols)
	buf := scratchPool.Get().(*scratch)
	defer scratchPool.Put(buf)
	var untile untileArgs
	mul := panelArgs{panel: unsafe.Pointer(&buf.panel), ldx: x.groupLen()}
	for i := 0; i < dst.Rows; i += mul.m {
		// batches but the last end with a group, so that all but the first begin with one
		mul.first = (x.first + i) % x.group
		mul.m = min(panelTokens-mul.first, dst.Rows-i)
		for g := 0; g < x.cols/actBlock; g += panelGroups {
			mul.x = unsafe.Pointer(&x.blocks[(x.first+i)/x.group*x.groupLen()+g*x.group])
			mul.blocks = min(panelGroups, x.cols/actBlock-g)
			mul.add = flag(add || g > 0)
			for j := 0; j < dst.Cols; j += mul.tiles * TileRows {
				n := dst.Cols - j
				mul.tiles = min(2, max(1, n/TileRows))
				for k := range mul.tiles {
					tile := tiles[(j/TileRows+k)*size:][:size]
					untile.panel = unsafe.Pointer(&buf.panel[k*mul.blocks*t.t.panelLines()*tileLine])
					untile.w, untile.blocks = at(tile[g/t.t.groups*t.t.unit:]), mul.blocks/t.t.groups
					t.code.call(t.t.fnUntile, unsafe.Pointer(&untile))
				}
				if n >= TileRows {
					mul.dst, mul.ldd = unsafe.Pointer(&dst.Data[i*dst.Stride+j]), dst.Stride
					t.code.call(t.t.fnPanel, unsafe.Pointer(&mul))
					continue
				}
				mul.dst, mul.ldd = unsafe.Pointer(&buf.edge), TileRows
				for r := range mul.m {
					copy(buf.edge[r*TileRows:], dst.Row(i + r)[j:])
				}
				t.code.call(t.t.fnPanel, unsafe.Pointer(&mul))
				for r := range mul.m {
					copy(dst.Row(i + r)[j:], buf.edge[r*TileRows:][:n])
				}
			}
		}
	}
}
