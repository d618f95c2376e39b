package kernels

import (
	"context"
	"fmt"
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
	fns := panel32
	if isDouble[T]() {
		fns = panel64
	}
	return newGemm(s, fns, par.Threads(threads), dst, l, r, add).run(ctx)
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

func checkProduct[T float32 | float64, S element](dst Dense[T], l, r operand[S]) {
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
