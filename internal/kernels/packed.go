package kernels

import (
	"fmt"
	"unsafe"
)

// Packed products are for operands that meet many times: a band of weights is packed once, straight
// from its stored bytes, and multiplied with every token while it lies in the second-level cache.
//
//	x := s.NewLeft(buf, tokens, cols)            // activations, [tokens, cols]
//	s.PackLeft(x, acts, 0, tokens)               // parts may be packed by different threads
//	w := s.PackStored("f16")(scratch, rows, n)   // n weight rows, or s.PackRight for real numbers
//	s.MulPacked(dst, x, w, false)                // dst [tokens, n] = x w^T
//
// Element (i,j) of a packed product depends on row i of the left operand, row j of the right one and
// their length k, and on nothing else. Its sum is taken over pieces of 256 consecutive k: each piece
// is one chain of fused multiply-adds from zero, in the order of k, and the pieces are added to dst in
// order. So every level but Portable, which keeps the order of GemmNT, gives the same bits.

// pieceK is the length of the pieces of k. A tile of the left operand of this length stays in the
// first-level cache. It decides the bits of sums: it is the same at all levels.
const pieceK = 256

// Left is the left operand of MulPacked, a matrix [rows, k] in the order in which kernels read it.
// It is a view of a buffer, and valid until the buffer is used for something else.
type Left struct{ packed[float32] }

// Right is the right operand, [n, k]: row j becomes column j of the product.
type Right struct{ packed[float32] }

// packed is a matrix [rows, k] as pieces of k: of each piece there are groups of rows, and of each
// group the numbers of all its rows at the first k, then at the next. The last group has as many
// rows as it needs. Portable keeps rows as they are.
type packed[T float32 | float64] struct {
	data     []T
	rows, k  int
	lo, hi   int // the rows in use
	group    int // rows of a group; 0 for Portable
	lastRows int // rows of the last group, with those of zeros that fill it
}

// newPacked lays rows out in groups, of which the last is rounded up by round.
func newPacked[T float32 | float64](buf []T, rows, k, group int, round func(int) int) packed[T] {
	p := packed[T]{rows: rows, k: k, hi: rows, group: group}
	if group > 0 && rows > 0 {
		p.lastRows = round(rows - (rows-1)/group*group)
	}
	if need := p.len(); len(buf) < need {
		panic(fmt.Sprintf("kernels: [%d,%d] packed into %d numbers, needs %d", rows, k, len(buf), need))
	}
	p.data = buf[:p.len()]
	return p
}

func (p *packed[T]) len() int { return p.padded() * p.k }

// padded is the number of rows in memory.
func (p *packed[T]) padded() int {
	if p.group == 0 || p.rows == 0 {
		return p.rows
	}
	return (p.rows-1)/p.group*p.group + p.lastRows
}

// width is how many rows the group that begins at row has in memory.
func (p *packed[T]) width(row int) int {
	if row+p.group < p.rows {
		return p.group
	}
	return p.lastRows
}

// at is the group of row, a multiple of the group size, in the piece that begins at k.
func (p *packed[T]) at(row, k int) unsafe.Pointer {
	return unsafe.Pointer(&p.data[k*p.padded()+row*min(pieceK, p.k-k)])
}

// operand is a matrix of a product, [rows, k]: as it lies, or where columns is set, transposed.
type operand[T element] struct {
	Dense[T]
	columns bool
}

func (o operand[T]) rows() int {
	if o.columns {
		return o.Cols
	}
	return o.Rows
}

func (o operand[T]) k() int {
	if o.columns {
		return o.Rows
	}
	return o.Cols
}

// part is rows [lo,hi) over [k0,k1).
func (o operand[T]) part(lo, hi, k0, k1 int) operand[T] {
	if o.columns {
		return operand[T]{o.Slice(k0, k1, lo, hi), true}
	}
	return operand[T]{o.Slice(lo, hi, k0, k1), false}
}

// shape is what a level's kernels take at a time.
type shape struct{ left, vectors, lanes int }

type shapeArgs struct{ left, vectors, lanes int }

func (c *code) shape() shape {
	var args shapeArgs
	c.call(fnPanelShape, unsafe.Pointer(&args))
	return shape(args)
}

// right is how many columns of a product a group of the right operand makes.
func (h shape) right() int { return h.vectors * h.lanes }

// leftRound is the width of a tile of n rows: one row alone, or a multiple of four.
func leftRound(n int) int {
	if n == 1 {
		return 1
	}
	return (n + 3) &^ 3
}

// roundTo rounds up to whole vectors.
func roundTo(lanes int) func(int) int {
	return func(n int) int { return (n + lanes - 1) / lanes * lanes }
}

// LeftGroup is the number of rows that a left operand keeps together: parts that are packed or
// multiplied by different threads begin at multiples of it.
func (s *Set) LeftGroup() int { return max(1, s.shape.left) }

// RightGroup is the number of rows that a right operand keeps together. Any number of rows can be
// packed; multiples of it leave no lanes empty.
func (s *Set) RightGroup() int { return max(1, s.shape.right()) }

// LeftLen is the number of float32 that NewLeft needs for a matrix [rows, k].
func (s *Set) LeftLen(rows, k int) int {
	return (rows + 3) * k // the last group may be filled up to a multiple of four
}

// RightLen is the number of float32 that packing a right operand [n, k] needs.
func (s *Set) RightLen(n, k int) int {
	return roundTo(s.RightGroup())(n)*k + alignment
}

// NewLeft lays out a left operand [rows, k] in buf, which holds LeftLen numbers; PackLeft fills it.
func (s *Set) NewLeft(buf []float32, rows, k int) Left {
	return Left{newPacked(buf, rows, k, s.shape.left, leftRound)}
}

// alignment is how many float32 a panel may begin behind the start of its buffer, on a cache line.
const alignment = 15

func (s *Set) newRight(buf []float32, n, k int) Right {
	if len(buf) > alignment {
		buf = buf[-uintptr(at(buf))%64/4:]
	}
	return Right{newPacked(buf, n, k, s.shape.right(), roundTo(s.shape.lanes))}
}

// PackLeft fills rows [lo,hi) of l with the same rows of x. lo is a multiple of LeftGroup, and so is hi
// unless it is the last row.
func (s *Set) PackLeft(l Left, x Matrix, lo, hi int) {
	x.check("x")
	if x.Rows != l.rows || x.Cols != l.k {
		panic(fmt.Sprintf("kernels: [%d,%d] packed as [%d,%d]", x.Rows, x.Cols, l.rows, l.k))
	}
	l.checkPart(lo, hi)
	packRows(s, fnPackRows, &l.packed, x, lo, hi)
}

// PackRight packs rows w [n,k] into buf, which holds RightLen numbers.
func (s *Set) PackRight(buf []float32, w Matrix) Right {
	w.check("w")
	r := s.newRight(buf, w.Rows, w.Cols)
	packRows(s, fnPackRows, &r.packed, w, 0, w.Rows)
	return r
}

// PackStored returns a PackRight for n adjacent rows of k numbers as they are stored in f16 or bf16;
// nil for other types, whose rows are decoded first.
func (s *Set) PackStored(name string) func(buf []float32, rows []byte, n, k int) Right {
	fn, decode := fnPackRowsF16, s.DecodeRow(name)
	switch name {
	case "f16":
	case "bf16":
		fn = fnPackRowsBf16
	default:
		return nil
	}
	return func(buf []float32, rows []byte, n, k int) Right {
		if len(rows) != 2*n*k {
			panic(fmt.Sprintf("kernels: [%d,%d] of %s in %d bytes", n, k, name, len(rows)))
		}
		r := s.newRight(buf, n, k)
		if s.code == nil {
			decode(r.data, rows)
			return r
		}
		r.fill(s.code, fn, at(rows), k, k, 1, 2, 0, n)
		return r
	}
}

// Rows is the view of rows [lo,hi): lo is a multiple of LeftGroup, and so is hi unless it is the last.
func (l Left) Rows(lo, hi int) Left {
	l.checkPart(lo, hi)
	return Left{l.slice(lo, hi)}
}

// Rows is the view of rows [lo,hi): lo is a multiple of RightGroup, and so is hi unless it is the last.
func (r Right) Rows(lo, hi int) Right {
	r.checkPart(lo, hi)
	return Right{r.slice(lo, hi)}
}

func (p packed[T]) slice(lo, hi int) packed[T] {
	p.lo, p.hi = lo, hi
	return p
}

func (p *packed[T]) checkPart(lo, hi int) {
	if g := max(1, p.group); lo < p.lo || hi < lo || hi > p.hi || lo%g != 0 || hi%g != 0 && hi != p.rows {
		panic(fmt.Sprintf("kernels: rows %d:%d of %d:%d, in groups of %d", lo, hi, p.lo, p.hi, g))
	}
}

type packArgs struct {
	dst, src        unsafe.Pointer
	ld, n, width, k int
}

type packColsArgs struct {
	dst, src              unsafe.Pointer
	ld, n, width, last, k int
}

// packRows packs rows [lo,hi) of x.
func packRows(s *Set, fn int, p *packed[float32], x Matrix, lo, hi int) {
	if s.code == nil {
		for i := lo; i < hi && p.k > 0; i++ {
			copy(p.data[i*p.k:(i+1)*p.k], x.Row(i))
		}
		return
	}
	packOperand(s.code, &panelFns{rows: fn, per: 1}, p, operand[float32]{x, false}, lo, hi)
}

// packOperand packs rows [lo,hi) of an operand by the kernel for rows or that for columns.
func packOperand[T float32 | float64, S element](c *code, fns *panelFns, p *packed[T], x operand[S], lo, hi int) {
	if !x.columns {
		p.fill(c, fns.rows, at(x.Data), x.k(), x.Stride, fns.per, int(unsafe.Sizeof(S(0))), lo, hi)
		return
	}
	if lo >= hi {
		return
	}
	args := packColsArgs{ld: x.Stride, n: hi - lo, width: p.group, last: p.width((hi - 1) / p.group * p.group)}
	for k := 0; k < p.k; k += pieceK {
		from := k * fns.per
		args.k, args.dst, args.src = min(pieceK*fns.per, x.k()-from), p.at(lo, k), unsafe.Pointer(&x.Data[from*x.Stride+lo])
		c.call(fns.cols, unsafe.Pointer(&args))
	}
}

// fill packs rows [lo,hi) from src, rows of k numbers of so many bytes with a stride, of which a packed
// number takes per.
func (p *packed[T]) fill(c *code, fn int, src unsafe.Pointer, k, stride, per, size, lo, hi int) {
	args := packArgs{ld: stride * size}
	for row := lo; row < hi; row += p.group {
		args.n, args.width = min(p.group, hi-row), p.width(row)
		for t := 0; t < p.k; t += pieceK { // rows are read to their ends, which is how memory likes it
			args.k, args.dst, args.src = min(pieceK*per, k-t*per), p.at(row, t), unsafe.Add(src, (row*stride+t*per)*size)
			c.call(fn, unsafe.Pointer(&args))
		}
	}
}

// MulPacked is dst = x w^T, or dst += x w^T, for the rows of x and w in use: dst is [rows, n]. It must not
// overlap the operands. 128 to 256 rows of w are best: few enough to stay in the second-level cache
// for a piece of k, many enough to pay for reading x from beyond it.
func (s *Set) MulPacked(dst Matrix, x Left, w Right, add bool) {
	dst.check("dst")
	if x.k != w.k || dst.Rows != x.hi-x.lo || dst.Cols != w.hi-w.lo {
		panic(fmt.Sprintf("kernels: [%d,%d] = [%d,%d] x [%d,%d]^T", dst.Rows, dst.Cols, x.hi-x.lo, x.k, w.hi-w.lo, w.k))
	}
	if dst.Rows == 0 || dst.Cols == 0 {
		return
	}
	if s.code == nil {
		gemmNTPortable(dst, View(x.data[x.lo*x.k:], dst.Rows, x.k), View(w.data[w.lo*w.k:], dst.Cols, w.k), add)
		return
	}
	if x.k == 0 {
		clearProduct(dst, add)
		return
	}
	mulPacked(s.code, fnMulPanels, s.shape.lanes, dst, &x.packed, &w.packed, nil, add)
}

type mulPanelsArgs struct {
	dst, left, right, sums, ahead unsafe.Pointer
	ldd, m, n, k, from, to, lines int
}

// Where the sums of a product are before and after a piece of k.
const (
	nowhere = iota
	inDst
	inSums
)

const (
	mulWork = 1 << 21 // most multiplications of vectors in one call of a kernel, well below a millisecond
	mulDst  = 1 << 17 // numbers of dst that stay in the second-level cache while k passes
)

// mulSums is how many sums a call of a kernel makes, more only for the narrowest tile.
func mulSums(lanes int) int { return min(mulDst, lanes*(mulWork/pieceK)) }

// mulPacked multiplies. Sums wait between the pieces of k in sums, or where that is empty in dst.
func mulPacked[T float32 | float64](c *code, fn, lanes int, dst Dense[T], x, w *packed[T], sums []T, add bool) {
	args := mulPanelsArgs{ldd: dst.Stride, n: dst.Cols, sums: at(sums)}
	cols := roundTo(lanes)(dst.Cols)
	rows := max(1, mulSums(lanes)/(cols*x.group)) * x.group
	between := inDst
	if len(sums) > 0 {
		between = inSums
		if need := min(rows, share(dst.Rows, 1, x.group)) * cols; len(sums) < need {
			panic(fmt.Sprintf("kernels: %d sums in %d numbers", need, len(sums)))
		}
	}
	for i := 0; i < dst.Rows; i += rows {
		args.m = min(rows, dst.Rows-i)
		args.dst = unsafe.Pointer(&dst.Data[i*dst.Stride])
		args.from = nowhere
		if add {
			args.from = inDst
		}
		for k := 0; k < x.k; k += pieceK {
			args.left, args.right, args.k = x.at(x.lo+i, k), w.at(w.lo, k), min(pieceK, x.k-k)
			args.to = between
			next := k + args.k
			if next == x.k {
				args.to, next = inDst, 0
			}
			args.ahead, args.lines = w.at(w.lo, next), 0
			if x.k > pieceK && (next > 0 || i+rows < dst.Rows) {
				args.lines = cols * min(pieceK, x.k-next) * int(unsafe.Sizeof(T(0))) / 64
			}
			c.call(fn, unsafe.Pointer(&args))
			args.from = between
		}
	}
}
