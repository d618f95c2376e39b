package kernels

import (
	"context"
	"fmt"
	"sync"
	"unsafe"

	"github.com/pare-dev/pare/internal/par"
)

// Dot is the sum of a[i]*b[i]; the slices have the same length.
func (s *Set) Dot(a, b []float32) float32 {
	if len(a) != len(b) {
		panic(fmt.Sprintf("kernels: dot of %d and %d numbers", len(a), len(b)))
	}
	if s.code == nil {
		return dotPortable(a, b)
	}
	args := dotArgs{a: at(a), b: at(b), n: len(a)}
	s.code.call(fnDot, unsafe.Pointer(&args))
	return args.out
}

type dotArgs struct {
	a, b unsafe.Pointer
	n    int
	out  float32
	_    float32
}

// Form says which operands of a product are transposed.
type Form int

const (
	NT Form = iota // dst [m,n] = a [m,k] b [n,k]^T: activations and a weight as checkpoints store it
	NN             // dst [m,n] = a [m,k] b [k,n]
	TN             // dst [m,n] = a [k,m]^T b [k,n]: second moments, gradients of weights
)

// Gemm is dst = a b, or dst += a b, with operands transposed as form says, on at most threads cores.
// dst must not overlap a or b.
//
// Element (i,j) depends on the numbers that are multiplied for it, their order and nothing else: its
// bits are the same for all forms, threads and cuts of m and n, and those of MulPacked; in particular
// they are the same at all levels except Portable. An error is that of the context, which is looked at
// every few milliseconds; dst is then incomplete.
func Gemm[T float32 | float64](ctx context.Context, s *Set, threads int, form Form, dst, a, b Dense[T], add bool) error {
	l, r := operand[T]{a, form == TN}, operand[T]{b, form != NT}
	checkProduct(dst, l, r)
	if err := ctx.Err(); err != nil || dst.Rows == 0 || dst.Cols == 0 {
		return err
	}
	switch {
	case l.k() == 0:
		clearProduct(dst, add)
		return nil
	case s.code == nil:
		return gemmPortable(ctx, threads, form, dst, a, b, add)
	case form != TN && gemmSmall(s.code, form, dst, a, b, add):
		return nil
	}
	threads = par.Threads(threads)
	return newGemm(s, threads, dst, l, r, add).run(ctx, threads)
}

// GemmNT is dst = x * w^T, or dst += x * w^T, on this thread: x is [m,k], w is [n,k], dst is [m,n].
func (s *Set) GemmNT(dst, x, w Matrix, add bool) {
	must(Gemm(context.Background(), s, 1, NT, dst, x, w, add))
}

// GemmNN is dst = a * b, or dst += a * b, on this thread: a is [m,k], b is [k,n], dst is [m,n].
func (s *Set) GemmNN(dst, a, b Matrix, add bool) {
	must(Gemm(context.Background(), s, 1, NN, dst, a, b, add))
}

// GemmNT64 is GemmNT in double precision.
func (s *Set) GemmNT64(dst, x, w Matrix64, add bool) {
	must(Gemm(context.Background(), s, 1, NT, dst, x, w, add))
}

// GemmNN64 is GemmNN in double precision.
func (s *Set) GemmNN64(dst, a, b Matrix64, add bool) {
	must(Gemm(context.Background(), s, 1, NN, dst, a, b, add))
}

// must panics on what cannot happen: only a cancelled context makes a product fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func checkProduct[T float32 | float64](dst Dense[T], l, r operand[T]) {
	dst.check("dst")
	l.check("a")
	r.check("b")
	if l.k() != r.k() || dst.Rows != l.rows() || dst.Cols != r.rows() {
		panic(fmt.Sprintf("kernels: [%d,%d] = [%d,%d] x [%d,%d]^T", dst.Rows, dst.Cols, l.rows(), l.k(), r.rows(), r.k()))
	}
}

// clearProduct is a product over no k.
func clearProduct[T float32 | float64](dst Dense[T], add bool) {
	for i := 0; i < dst.Rows && !add; i++ {
		clear(dst.Row(i))
	}
}

type mulFewArgs struct {
	dst, x, w                   unsafe.Pointer
	ldd, ldx, ldw, m, n, k, add int
}

type gemmOuterArgs struct {
	dst, a, b                   unsafe.Pointer
	ldd, lda, ldb, m, n, k, add int
}

const (
	fewRows  = 4       // most rows for which kernels take the other operand as it lies
	smallMul = 1 << 21 // multiplications in one call of the kernel, well below a millisecond
)

// gemmSmall computes products whose operands are not worth packing, and says whether this is one.
func gemmSmall[T float32 | float64](c *code, form Form, dst, a, b Dense[T], add bool) bool {
	double := isDouble[T]()
	if form == NT && (double || dst.Rows > fewRows) || form == NN && dst.Rows >= 16 {
		return false
	}
	done := 0 // 1 once dst holds sums
	if add {
		done = 1
	}
	if form == NT {
		args := mulFewArgs{at(dst.Data), at(a.Data), nil, dst.Stride, a.Stride, b.Stride, dst.Rows, 0, a.Cols, done}
		step := max(1, smallMul/(dst.Rows*a.Cols*16)) * 16
		for j := 0; j < dst.Cols; j += step {
			args.n = min(step, dst.Cols-j)
			args.dst, args.w = unsafe.Pointer(&dst.Data[j]), unsafe.Pointer(&b.Data[j*b.Stride])
			c.call(fnMulFew, unsafe.Pointer(&args))
		}
		return true
	}
	fn := fnGemmOuter
	if double {
		fn = fnGemmOuter64
	}
	args := gemmOuterArgs{ldd: dst.Stride, lda: a.Stride, ldb: b.Stride, m: dst.Rows}
	step := max(1, smallMul/(dst.Rows*pieceK*64)) * 64
	for j := 0; j < dst.Cols; j += step {
		args.n, args.add = min(step, dst.Cols-j), done
		args.dst = unsafe.Pointer(&dst.Data[j])
		for p := 0; p < a.Cols; p += pieceK {
			args.k = min(pieceK, a.Cols-p)
			args.a, args.b = unsafe.Pointer(&a.Data[p]), unsafe.Pointer(&b.Data[p*b.Stride+j])
			c.call(fn, unsafe.Pointer(&args))
			args.add = 1
		}
	}
	return true
}

// gemm is a large product under way. It takes the left operand block by block. In a first phase the
// threads pack a block; in a second one each takes bands of columns, packs the right operand of a band
// and multiplies the block with it.
type gemm[T float32 | float64] struct {
	s            *Set
	dst          Dense[T]
	left, right  operand[T]
	add          bool
	fns          *panelFns
	group, lanes int // columns of a group of the right operand, numbers of a vector

	rows, depth    int   // of a block
	bands          []int // where bands of columns begin and the last ends
	width, height  int   // of the widest band, and rows of an item of the second phase
	blocks, pieces int   // blocks of rows, pieces of k as deep as a block
	packed         []T
	panels         []*[]T // for each thread, a band of the right operand and sums
}

// panelFns are the kernels for one type of number.
type panelFns struct{ mul, leftRows, rightRows, cols int }

var (
	panel32 = &panelFns{fnMulPanels, fnPackRows, fnPackRows, fnPackCols}
	panel64 = &panelFns{fnMulPanels64, fnPackRows64, fnPackRows64, fnPackCols64}
)

const (
	gemmRows = 4096    // about the most rows of a block
	gemmLeft = 4 << 20 // most numbers of it
	gemmCols = 256     // most columns of a band
	gemmPack = 8       // tiles of the left operand that are packed together
)

func newGemm[T float32 | float64](s *Set, threads int, dst Dense[T], left, right operand[T], add bool) *gemm[T] {
	g := &gemm[T]{s: s, dst: dst, left: left, right: right, add: add, fns: panel32, lanes: s.shape.lanes}
	if isDouble[T]() {
		g.fns, g.lanes = panel64, s.shape.lanes/2
	}
	g.group = s.shape.vectors * g.lanes
	m, n, k, tile := dst.Rows, dst.Cols, left.k(), s.shape.left
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
// several threads narrower ones towards the end, so that none waits long for the last.
func (g *gemm[T]) cut(n, threads int) {
	g.bands = []int{0}
	parts := 1
	if threads > 1 {
		parts = 4 * threads
	}
	for lo := 0; lo < n; {
		width := min(gemmCols/g.group*g.group, max(2*g.group, share(n-lo, parts, g.group)))
		g.width = max(g.width, width)
		lo = min(n, lo+width)
		g.bands = append(g.bands, lo)
	}
}

// share is a part of n that is cut into so many, in whole groups.
func share(n, parts, group int) int { return roundTo(group)((n + parts - 1) / parts) }

func (g *gemm[T]) run(ctx context.Context, threads int) error {
	left := take[T]((g.rows + 3) * g.depth)
	g.packed, g.panels = *left, make([]*[]T, threads)
	defer func() {
		give(left)
		for _, p := range g.panels {
			if p != nil {
				give(p)
			}
		}
	}()
	return par.Phases(ctx, threads, 2*g.blocks*g.pieces, func(phase int) int {
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
func (g *gemm[T]) block(i int) (l packed[T], row, k int) {
	row, k = i/g.pieces*g.rows, i%g.pieces*g.depth
	l = newPacked(g.packed, min(g.rows, g.dst.Rows-row), min(g.depth, g.left.k()-k), g.s.shape.left, leftRound)
	return l, row, k
}

// pack packs a few tiles of a block.
func (g *gemm[T]) pack(block, item int) {
	l, row, k := g.block(block)
	lo := item * gemmPack * l.group
	hi := min(l.rows, lo+gemmPack*l.group)
	l.pack(g.s.code, g.fns.leftRows, g.fns.cols, g.left.part(row, row+l.rows, k, k+l.k), lo, hi)
}

// sums is how many numbers mulPacked needs at most for sums between pieces of k: none where rows of dst
// lie side by side in few pages.
func (g *gemm[T]) sums() int {
	const page = 4096
	if g.depth <= pieceK || g.dst.Stride*int(unsafe.Sizeof(T(0))) < page {
		return 0
	}
	return min(share(g.height, 1, g.s.shape.left)*g.width, max(mulSums(g.lanes), g.s.shape.left*g.width))
}

// multiply adds products of a block to a band of columns, or where there are few bands, to a part of
// the rows of one.
func (g *gemm[T]) multiply(worker, block, item int) {
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
	r.pack(g.s.code, g.fns.rightRows, g.fns.cols, g.right.part(lo, hi, k, k+l.k), 0, hi-lo)
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
