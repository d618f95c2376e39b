package kernels

import (
	"context"
	"sync"
	"unsafe"

	"github.com/pare-dev/pare/internal/par"
)

// gemm is a large product under way. It takes the left operand block by block. In a first phase the
// threads pack a block; in a second one each takes bands of columns, packs the right operand of a band
// and multiplies the block with it.
type gemm[T float32 | float64, S element] struct {
	s            *Set
	threads      int
	dst          Dense[T]
	left, right  operand[S]
	add          bool
	fns          *panelFns
	k            int // steps: numbers of an element's sum that are multiplied together
	group, lanes int // columns of a group of the right operand, numbers of a vector

	rows, depth    int   // of a block
	bands          []int // where bands of columns begin and the last ends
	width, height  int   // of the widest band, and rows of an item of the second phase
	blocks, pieces int   // blocks of rows, pieces of k as deep as a block
	packed         []T
	panels         []*[]T // for each thread, a band of the right operand and sums
}

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
	g.cut(n, threads)
	g.height = g.rows
	if bands := len(g.bands) - 1; threads > 1 && bands < 8*threads {
		g.height = min(g.rows, max(gemmPack*tile, share(g.rows, 8*threads/bands, tile)))
	}
	return g
}

// cut makes bands of n columns: wide ones, in which a tile of the left operand is used often, and for
// several threads narrower ones towards the end, so that none waits long for the last. Bands of less than
// four groups would be done with a tile before the next has come from beyond the caches.
func (g *gemm[T, S]) cut(n, threads int) {
	g.bands = []int{0}
	parts, least, most := 1, 4*g.group, gemmCols/g.group*g.group
	if threads > 1 {
		parts = 2 * threads
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

// share is a part of n that is cut into so many, in whole groups.
func share(n, parts, group int) int { return roundTo(group)((n + parts - 1) / parts) }

func (g *gemm[T, S]) run(ctx context.Context) error {
	left := take[T]((g.rows + 3) * g.depth)
	g.packed, g.panels = *left, make([]*[]T, g.threads)
	defer func() {
		give(left)
		for _, p := range g.panels {
			if p != nil {
				give(p)
			}
		}
	}()
	return par.Phases(ctx, g.threads, 2*g.blocks*g.pieces, func(phase int) int {
		l, _, _ := g.block(phase / 2)
		if phase%2 == 0 {
			return (l.rows + gemmPack*l.group - 1) / (gemmPack * l.group)
		}
		return (len(g.bands) - 1) * ((l.rows + g.height - 1) / g.height)
	}, func(worker, phase, item int) error {
		if phase%2 == 0 {
			g.pack(phase/2, item)
		} else {
			g.multiply(worker, phase/2, item)
		}
		return nil
	})
}

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

// pack packs a few tiles of a block.
func (g *gemm[T, S]) pack(block, item int) {
	l, row, k := g.block(block)
	lo := item * gemmPack * l.group
	hi := min(l.rows, lo+gemmPack*l.group)
	packOperand(g.s.code, g.fns, &l, g.numbers(g.left, row, row+l.rows, k, k+l.k), lo, hi)
}

// sums is how many numbers mulPacked needs at most for sums between pieces of k: none where rows of dst
// lie side by side in few pages.
func (g *gemm[T, S]) sums() int {
	const page = 4096
	if g.depth <= pieceK || g.dst.Stride*int(unsafe.Sizeof(T(0))) < page {
		return 0
	}
	return min(share(g.height, 1, g.s.shape.left)*g.width, max(mulSums(g.lanes), g.s.shape.left*g.width))
}

// multiply adds products of a block to a band of columns, or where there are few bands, to a part of
// the rows of one.
func (g *gemm[T, S]) multiply(worker, block, item int) {
	if g.panels[worker] == nil {
		g.panels[worker] = take[T](g.width*g.depth + g.sums())
	}
	l, row, k := g.block(block)
	parts := (l.rows + g.height - 1) / g.height
	lo, hi, from := g.bands[item/parts], g.bands[item/parts+1], item%parts*g.height
	to := min(l.rows, from+g.height)
	dst, x := g.dst.Slice(row+from, row+to, lo, hi), l.slice(from, to)
	panel, sums := (*g.panels[worker])[:g.width*g.depth], (*g.panels[worker])[g.width*g.depth:]
	r := newPacked(panel, hi-lo, l.k, g.group, roundTo(g.lanes))
	packOperand(g.s.code, g.fns, &r, g.numbers(g.right, lo, hi, k, k+l.k), 0, hi-lo)
	mulPacked(g.s.code, g.fns.mul, g.lanes, dst, &x, &r, sums, g.add || k > 0)
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
