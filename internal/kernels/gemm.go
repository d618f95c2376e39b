package kernels

import (
	"fmt"
	"sync"
	"unsafe"
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

// GemmNT is dst = x * w^T, or dst += x * w^T: x is [m,k], w is [n,k], dst is [m,n], each with its
// own stride. This is the product of activations with a weight as checkpoints store it.
//
// Element (i,j) depends on row i of x, row j of w and k, and on nothing else: cutting m or n into
// parts, for threads or for batches, changes no bit. dst must not overlap x or w.
func (s *Set) GemmNT(dst, x, w Matrix, add bool) {
	dst.check("dst")
	x.check("x")
	w.check("w")
	if x.Cols != w.Cols || dst.Rows != x.Rows || dst.Cols != w.Rows {
		panic(fmt.Sprintf("kernels: [%d,%d] = [%d,%d] x [%d,%d]^T", dst.Rows, dst.Cols, x.Rows, x.Cols, w.Rows, w.Cols))
	}
	if s.code == nil {
		gemmNTPortable(dst, x, w, add)
		return
	}
	s.code.gemmNT(dst, x, w, add)
}

const (
	ntRows   = 60      // most rows of x in one call of the kernel; a multiple of every level's tile
	ntCols   = 24      // rows of w that pass together when rows are long, likewise
	ntDepth  = 1024    // most of k at a time
	ntWork   = 1 << 20 // multiplications in one call, far below a millisecond
	ntVector = 16      // most lanes of a vector
)

type gemmNTArgs struct {
	dst, x, w, sums     unsafe.Pointer
	ldd, ldx, ldw       int
	m, n, k, depth, add int
}

// ntSums holds unfinished sums, a vector for each element, while k passes in pieces.
type ntSums [ntRows * ntCols * ntVector]float32

var ntPool = sync.Pool{New: func() any { return new(ntSums) }}

// gemmNT takes a group of rows of x, which stays in the second-level cache, and lets w pass by it, a
// few rows in one call of the kernel.
func (c *code) gemmNT(dst, x, w Matrix, add bool) {
	if dst.Rows == 0 || dst.Cols == 0 {
		return
	}
	sums := ntPool.Get().(*ntSums)
	defer ntPool.Put(sums)
	args := gemmNTArgs{sums: unsafe.Pointer(sums), ldd: dst.Stride, ldx: x.Stride, ldw: w.Stride, k: x.Cols}
	if add {
		args.add = 1
	}
	for i := 0; i < dst.Rows; i += ntRows {
		args.m = min(ntRows, dst.Rows-i)
		step := max(1, ntWork/(args.m*max(x.Cols, 1)*ntCols)) * ntCols
		// a few rows of x stay in the caches however long they are, and w streams best whole
		if args.depth = ntDepth; args.m <= 8 {
			args.depth = max(x.Cols, 1)
		}
		for j := 0; j < dst.Cols; j += step {
			args.n = min(step, dst.Cols-j)
			args.dst = unsafe.Pointer(&dst.Data[i*dst.Stride+j])
			if x.Cols > 0 {
				args.x, args.w = unsafe.Pointer(&x.Data[i*x.Stride]), unsafe.Pointer(&w.Data[j*w.Stride])
			}
			c.call(fnGemmNt, unsafe.Pointer(&args))
		}
	}
}

// GemmNN is dst = a * b, or dst += a * b: a is [m,k], b is [k,n], dst is [m,n]. Each element is
// summed over k in order, so that, as with GemmNT, no cut changes a bit. It suits short k: low-rank
// products, weighted sums of values, block updates. dst must not overlap a or b.
func (s *Set) GemmNN(dst, a, b Matrix, add bool) {
	dst.check("dst")
	a.check("a")
	b.check("b")
	if a.Cols != b.Rows || dst.Rows != a.Rows || dst.Cols != b.Cols {
		panic(fmt.Sprintf("kernels: [%d,%d] = [%d,%d] x [%d,%d]", dst.Rows, dst.Cols, a.Rows, a.Cols, b.Rows, b.Cols))
	}
	if s.code == nil {
		gemmNNPortable(dst, a, b, add)
		return
	}
	s.code.gemmNN(dst, a, b, add)
}

type gemmOuterArgs struct {
	dst, a, b     unsafe.Pointer
	ldd, lda, ldb int
	m, n, k, add  int
}

// nnDepth is the most of k in one call; longer sums go on from dst, which keeps them exactly.
const nnDepth = 256

func (c *code) gemmNN(dst, a, b Matrix, add bool) {
	if dst.Rows == 0 || dst.Cols == 0 {
		return
	}
	const cols, rows = 64, 64
	args := gemmOuterArgs{ldd: dst.Stride, lda: a.Stride, ldb: b.Stride}
	for p := 0; p < max(a.Cols, 1); p += nnDepth {
		args.k = min(nnDepth, a.Cols-p)
		args.add = 1
		if p == 0 && !add {
			args.add = 0
		}
		for j := 0; j < dst.Cols; j += cols {
			args.n = min(cols, dst.Cols-j)
			if args.k > 0 {
				args.b = unsafe.Pointer(&b.Data[p*b.Stride+j])
			}
			for i := 0; i < dst.Rows; i += rows {
				args.m = min(rows, dst.Rows-i)
				if args.k > 0 {
					args.a = unsafe.Pointer(&a.Data[i*a.Stride+p])
				}
				args.dst = unsafe.Pointer(&dst.Data[i*dst.Stride+j])
				c.call(fnGemmOuter, unsafe.Pointer(&args))
			}
		}
	}
}
