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
	ntRows   = 60      // most rows of x that pass together; a multiple of every level's tile
	ntCols   = 48      // rows of w that pass together when rows are long, likewise
	ntDepth  = 1024    // most of k at a time
	ntWork   = 1 << 21 // multiplications in one call, well below a millisecond
	ntVector = 16      // most lanes of a vector
)

type gemmNTArgs struct {
	dst, x, w, sums          unsafe.Pointer
	ldd, ldx, ldw            int
	m, n, k, from, upTo, add int
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
	args := gemmNTArgs{ldd: dst.Stride, ldx: x.Stride, ldw: w.Stride, k: x.Cols}
	if add {
		args.add = 1
	}
	for i := 0; i < dst.Rows; i += ntRows {
		args.m = min(ntRows, dst.Rows-i)
		// a few rows of x stay in the caches however long they are, and w streams best whole
		depth, step := max(x.Cols, 1), ntCols
		if args.m > 8 && x.Cols > ntDepth+ntDepth/2 {
			depth = ntDepth
			if args.sums == nil {
				sums := ntPool.Get().(*ntSums)
				defer ntPool.Put(sums)
				args.sums = unsafe.Pointer(sums)
			}
		} else {
			step = max(1, ntWork/(args.m*depth*ntCols)) * ntCols
		}
		for j := 0; j < dst.Cols; j += step {
			args.n = min(step, dst.Cols-j)
			args.dst = unsafe.Pointer(&dst.Data[i*dst.Stride+j])
			if x.Cols > 0 {
				args.x, args.w = unsafe.Pointer(&x.Data[i*x.Stride]), unsafe.Pointer(&w.Data[j*w.Stride])
			}
			for args.from = 0; ; args.from = args.upTo {
				if args.upTo = args.from + depth; args.upTo+depth/2 >= x.Cols {
					args.upTo = x.Cols
				}
				c.call(fnGemmNt, unsafe.Pointer(&args))
				if args.upTo == x.Cols {
					break
				}
			}
		}
	}
}

// GemmNN is dst = a * b, or dst += a * b: a is [m,k], b is [k,n], dst is [m,n]. Each element is
// summed over k in order, so that, as with GemmNT, no cut changes a bit. It suits low-rank products,
// weighted sums of values and block updates. dst must not overlap a or b.
func (s *Set) GemmNN(dst, a, b Matrix, add bool) {
	checkNN(dst, a, b)
	if s.code == nil {
		gemmNNPortable(dst, a, b, add)
		return
	}
	gemmNN(s.code, fnGemmOuter, &nnPool, dst, a, b, add)
}

// GemmNN64 is GemmNN in double precision.
func (s *Set) GemmNN64(dst, a, b Matrix64, add bool) {
	checkNN(dst, a, b)
	if s.code == nil {
		gemmNNPortable(dst, a, b, add)
		return
	}
	gemmNN(s.code, fnGemmOuter64, &nnPool64, dst, a, b, add)
}

func checkNN[T float32 | float64](dst, a, b Dense[T]) {
	dst.check("dst")
	a.check("a")
	b.check("b")
	if a.Cols != b.Rows || dst.Rows != a.Rows || dst.Cols != b.Cols {
		panic(fmt.Sprintf("kernels: [%d,%d] = [%d,%d] x [%d,%d]", dst.Rows, dst.Cols, a.Rows, a.Cols, b.Rows, b.Cols))
	}
}

type gemmOuterArgs struct {
	dst, a, b     unsafe.Pointer
	ldd, lda, ldb int
	m, n, k, add  int
}

const (
	nnRows  = 64  // most rows of a in one call of the kernel
	nnCols  = 64  // most columns of b
	nnDepth = 256 // most of k; longer sums go on from dst, which holds them exactly
)

// The pools hold a part of b with its rows close together: rows of a large matrix lie a power of two
// apart, where they push each other out of the cache.
var (
	nnPool   = sync.Pool{New: func() any { return new([nnDepth * nnCols]float32) }}
	nnPool64 = sync.Pool{New: func() any { return new([nnDepth * nnCols]float64) }}
)

func gemmNN[T float32 | float64](c *code, fn int, pool *sync.Pool, dst, a, b Dense[T], add bool) {
	if dst.Rows == 0 || dst.Cols == 0 {
		return
	}
	args := gemmOuterArgs{ldd: dst.Stride, lda: a.Stride, ldb: b.Stride}
	var near *[nnDepth * nnCols]T
	if a.Rows >= 16 && b.Stride > nnCols { // otherwise copying costs more than it saves
		near = pool.Get().(*[nnDepth * nnCols]T)
		defer pool.Put(near)
		args.ldb = nnCols
	}
	for j := 0; j < dst.Cols; j += nnCols {
		args.n = min(nnCols, dst.Cols-j)
		for p := 0; p < max(a.Cols, 1); p += nnDepth {
			args.k = min(nnDepth, a.Cols-p)
			args.add = 1
			if p == 0 && !add {
				args.add = 0
			}
			switch {
			case args.k == 0:
			case near == nil:
				args.b = unsafe.Pointer(&b.Data[p*b.Stride+j])
			default:
				for r := range args.k {
					copy(near[r*nnCols:][:args.n], b.Data[(p+r)*b.Stride+j:])
				}
				args.b = unsafe.Pointer(near)
			}
			for i := 0; i < dst.Rows; i += nnRows {
				args.m = min(nnRows, dst.Rows-i)
				if args.k > 0 {
					args.a = unsafe.Pointer(&a.Data[i*a.Stride+p])
				}
				args.dst = unsafe.Pointer(&dst.Data[i*dst.Stride+j])
				c.call(fn, unsafe.Pointer(&args))
			}
		}
	}
}
