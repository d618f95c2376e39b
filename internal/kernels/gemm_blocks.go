package kernels

import (
	"context"
	"sync"
	"unsafe"

	"github.com/pare-dev/pare/internal/par"
)

// gemm is a large product under way. It takes the left operand block by block. In a first phase the
// threads pack a block; in a second one each takes bands of columns, packs the right operand of a band
// and multiplies the block with it. On several threads the right operand of the last bands is packed in the
// first phase, too: these are then shared in ever smaller parts of the rows, so that none waits long for the
// others.
type gemm[T float32 | float64, S element] struct {
	s            *Set
	threads      int
	dst          Dense[T]
	left, right  operand[S]
	add          bool
	fns          *panelFns
	k            int // steps: numbers of an element's sum that are multiplied together
	group, lanes int // columns of a group of the right operand, numbers of a vector

	rows, depth    int    // of a block
	bands          []int  // where bands of columns begin and the last ends
	width          int    // of the widest band
	whole          int    // bands that a thread packs for itself
	items          []item // of the second phase
	blocks, pieces int    // blocks of rows, pieces of k as deep as a block
	packed         []T
	shared         []T    // the right operand of bands that are not whole
	panels         []*[]T // for each thread, a whole band of the right operand and sums
}

// item is rows [from,to) of a block times a band of columns.
type item struct{ band, from, to int }

// panelFns are the kernels for one type of number, and how many numbers of an operand they multiply in
// one step.
type panelFns struct{ mul, rows, cols, per int }

var (
	panel32 = &panelFns{fnMulPanels, fnPackRows, fnPackCols, 1}
	panel64 = &panelFns{fnMulPanels64, fnPackRows64, fnPackCols64, 1}
)

const (
	gemmRows = 4096    // about the most rows of a block
	gemmLeft = 4 << 20 // most numbers of it
	gemmCols = 256     // most columns of a band
	gemmPack = 8       // tiles of the left operand that are packed together
)

func newGemm[T float32 | float64, S element](s *Set, fns *panelFns, threads int, dst Dense[T], left, right operand[S], add bool) *gemm[T, S] {
	g := &gemm[T, S]{s: s, threads: threads, dst: dst, left: left, right: right, add: add, fns: fns, lanes: s.shape.lanes}
	if isDouble[T]() {
		g.lanes /= 2
	}
	g.k = (left.k() + fns.per - 1) / fns.per
	g.group = s.shape.vectors * g.lanes
	m, n, k, tile := dst.Rows, dst.Cols, g.k, s.shape.left
	g.blocks = (m + gemmRows - 1) / gemmRows
	g.rows = min(m, share(m, g.blocks, tile))
	g.depth = min(k, max(pieceK, gemmLeft/g.rows/pieceK*pieceK))
	g.pieces = (k + g.depth - 1) / g.depth
	least := gemmPack * tile // rows of an item
	g.cut(n, threads > 1 && g.rows < 4*least)
	g.whole = len(g.bands) - 1
	if threads > 1 && (g.rows >= 4*least || g.whole < 2*threads) {
		g.whole -= min(g.whole, 2*threads, max(threads, gemmLeft/(g.width*g.depth)))
	}
	g.divide(least)
	return g
}

// cut makes bands of n columns: wide ones, in which a tile of the left operand is used often. Where rows
// are too few to be divided, bands become narrower towards the end, so that no thread waits long for the
// last. Bands of less than four groups would be done with a tile before the next has come from beyond the
// caches.
func (g *gemm[T, S]) cut(n int, narrower bool) {
	g.bands = []int{0}
	parts, least, most := 1, 4*g.group, gemmCols/g.group*g.group
	if narrower {
		parts = 2 * g.threads
	}
	for lo := 0; lo < n; {
		width := min(most, max(least, share(n-lo, parts, g.group)))
		if rest := n - lo; rest-width < least/2 && rest <= most {
			width = share(rest, 1, g.group)
		}
		g.width = max(g.width, width)
		lo = min(n, lo+width)
		g.bands = append(g.bands, lo)
	}
}

// divide makes the items of the second phase. What is shared is cut into parts of the rows, of which each
// is a share of what remains.
func (g *gemm[T, S]) divide(least int) {
	bands, tile := len(g.bands)-1, g.s.shape.left
	for b := range bands {
		part := g.rows
		if b >= g.whole {
			part = min(part, max(least, share(g.rows*(bands-b), 4*g.threads, tile)))
		}
		part = share(g.rows, (g.rows+part-1)/part, tile)
		for from := 0; from < g.rows; from += part {
			g.items = append(g.items, item{b, from, min(g.rows, from+part)})
		}
	}
}

// share is a part of n that is cut into so many, in whole groups.
func share(n, parts, group int) int { return roundTo(group)((n + parts - 1) / parts) }

func (g *gemm[T, S]) run(ctx context.Context) error {
	left, right := take[T]((g.rows+3)*g.depth), take[T](g.rightAt(len(g.bands)-1))
	g.packed, g.shared, g.panels = *left, *right, make([]*[]T, g.threads)
	defer func() {
		give(left)
		give(right)
		for _, p := range g.panels {
			if p != nil {
				give(p)
			}
		}
	}()
	return par.Phases(ctx, g.threads, 2*g.blocks*g.pieces, func(phase int) int {
		if phase%2 == 1 {
			return len(g.items)
		}
		l, _, _ := g.block(phase / 2)
		return g.lefts(l.rows) + (len(g.bands)-1-g.whole)*parts(l.k, pieceK)
	}, func(worker, phase, i int) error {
		if phase%2 == 1 {
			g.multiply(worker, phase/2, g.items[i])
			return nil
		}
		l, _, _ := g.block(phase / 2)
		if lefts := g.lefts(l.rows); i < lefts {
			g.packLeft(phase/2, i)
		} else {
			g.packRight(phase/2, (i-lefts)/parts(l.k, pieceK), (i-lefts)%parts(l.k, pieceK)*pieceK)
		}
		return nil
	})
}

// parts is in how many parts of a size n falls.
func parts(n, size int) int { return (n + size - 1) / size }

// lefts is in how many items so many rows are packed.
func (g *gemm[T, S]) lefts(rows int) int { return parts(rows, gemmPack*g.s.shape.left) }

// block is the i-th block of the left operand, and where its rows and its k begin.
func (g *gemm[T, S]) block(i int) (l packed[T], row, k int) {
	row, k = i/g.pieces*g.rows, i%g.pieces*g.depth
	l = newPacked(g.packed, min(g.rows, g.dst.Rows-row), min(g.depth, g.k-k), g.s.shape.left, leftRound)
	return l, row, k
}

// numbers is rows [lo,hi) of an operand over steps [k0,k1).
func (g *gemm[T, S]) numbers(x operand[S], lo, hi, k0, k1 int) operand[S] {
	return x.part(lo, hi, k0*g.fns.per, min(x.k(), k1*g.fns.per))
}

// packLeft packs a few tiles of a block.
func (g *gemm[T, S]) packLeft(block, i int) {
	l, row, k := g.block(block)
	lo := i * gemmPack * l.group
	hi := min(l.rows, lo+gemmPack*l.group)
	packOperand(g.s.code, g.fns, &l, g.numbers(g.left, row, row+l.rows, k, k+l.k), lo, hi)
}

// rightAt is where a band that is shared begins in what is packed of the right operand.
func (g *gemm[T, S]) rightAt(band int) int {
	return roundTo(g.lanes)(g.bands[band]-g.bands[g.whole]) * g.depth
}

// bandOf is the packed right operand of a band for k numbers in buf.
func (g *gemm[T, S]) bandOf(buf []T, band, k int) packed[T] {
	return newPacked(buf, g.bands[band+1]-g.bands[band], k, g.group, roundTo(g.lanes))
}

// packRight packs what belongs to a piece of a block's k of a band that is shared: within a packed operand it
// lies by itself, and looks like an operand of so many k.
func (g *gemm[T, S]) packRight(block, band, from int) {
	l, _, k := g.block(block)
	band += g.whole
	n := min(pieceK, l.k-from)
	all := g.bandOf(g.shared[g.rightAt(band):], band, l.k)
	r := g.bandOf(all.data[from*all.padded():], band, n)
	packOperand(g.s.code, g.fns, &r, g.numbers(g.right, g.bands[band], g.bands[band+1], k+from, k+from+n), 0, r.rows)
}

// sums is how many numbers mulPacked needs at most for sums between pieces of k: none where rows of dst
// lie side by side in few pages.
func (g *gemm[T, S]) sums() int {
	const page = 4096
	if g.depth <= pieceK || g.dst.Stride*int(unsafe.Sizeof(T(0))) < page {
		return 0
	}
	return min(share(g.rows, 1, g.s.shape.left)*g.width, max(mulSums(g.lanes), g.s.shape.left*g.width))
}

// multiply adds products of rows of a block to a band of columns.
func (g *gemm[T, S]) multiply(worker, block int, i item) {
	panel := 0
	if g.whole > 0 {
		panel = g.width * g.depth
	}
	if g.panels[worker] == nil {
		g.panels[worker] = take[T](panel + g.sums())
	}
	l, row, k := g.block(block)
	lo, hi, to := g.bands[i.band], g.bands[i.band+1], min(l.rows, i.to)
	if i.from >= to { // the last block has fewer rows
		return
	}
	var r packed[T]
	if i.band < g.whole {
		r = g.bandOf((*g.panels[worker])[:panel], i.band, l.k)
		packOperand(g.s.code, g.fns, &r, g.numbers(g.right, lo, hi, k, k+l.k), 0, hi-lo)
	} else {
		r = g.bandOf(g.shared[g.rightAt(i.band):], i.band, l.k)
	}
	x := l.slice(i.from, to)
	mulPacked(g.s.code, g.fns.mul, g.lanes, g.dst.Slice(row+i.from, row+to, lo, hi), &x, &r, (*g.panels[worker])[panel:], g.add || k > 0)
}

func isDouble[T float32 | float64]() bool { return unsafe.Sizeof(T(0)) == 8 }

// Pools of scratch, which is kept until a garbage collection finds it unused.
var pool32, pool64 sync.Pool

func poolOf[T float32 | float64]() *sync.Pool {
	if isDouble[T]() {
		return &pool64
	}
	return &pool32
}

func take[T float32 | float64](n int) *[]T {
	if buf, ok := poolOf[T]().Get().(*[]T); ok && cap(*buf) >= n {
		*buf = (*buf)[:n]
		return buf
	}
	buf := make([]T, n)
	return &buf
}

func give[T float32 | float64](buf *[]T) { poolOf[T]().Put(buf) }
