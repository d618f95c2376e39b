// Package num is the dense linear algebra that passes need beyond products: Cholesky factors and
// triangular inverses in double precision, in place and blocked, so that a 4096x4096 matrix takes a
// second or two. Matrices are row-major. The result does not depend on the number of threads.
//
// Eigenvalues and singular values come from gonum, not from here.
package num

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
)

// ErrNotPositiveDefinite is the reason when a Cholesky factor does not exist: a pivot is not a
// positive number. Adding to the diagonal (damping) mends it.
var ErrNotPositiveDefinite = errors.New("matrix is not positive definite")

// Products do nearly all of the work: of blocks this wide, and of halves within a block down to leaf.
const (
	block = 256
	leaf  = 32
)

// matrix checks that a holds an n by n matrix.
func matrix(a []float64, n int) kernels.Matrix64 {
	if n < 0 || len(a) != n*n {
		panic(fmt.Sprintf("num: %d numbers are not a %dx%d matrix", len(a), n, n))
	}
	return kernels.View(a, n, n)
}

// CholeskyLower replaces a, symmetric positive definite and [n,n], by the lower triangular L with
// a = L L^T. Only the lower triangle of a is read; the upper one becomes zero. When a pivot is not
// positive it returns ErrNotPositiveDefinite and leaves a unspecified.
func CholeskyLower(ctx context.Context, k *kernels.Set, threads int, a []float64, n int) error {
	m := matrix(a, n)
	wide := min(block, n)
	inverse, below := make([]float64, wide*wide), make([]float64, n*wide)
	for lo := 0; lo < n; lo += block {
		hi := min(lo+block, n)
		square := m.Slice(lo, hi, lo, hi)
		if err := factor(k, square, below); err != nil {
			var pivot *pivotError
			if errors.As(err, &pivot) {
				return fmt.Errorf("%w: pivot %d of %d is %g", ErrNotPositiveDefinite, lo+pivot.row, n, pivot.value)
			}
			return err
		}
		if hi == n {
			break
		}
		d := kernels.View(inverse, hi-lo, hi-lo)
		invert(k, d, square, below)
		// the rows below the square: X L^T = A, that is X = A * inverse(L)^T
		part, old := m.Slice(hi, n, lo, hi), kernels.View(below, n-hi, hi-lo)
		copyRows(old, part, 1)
		if err := kernels.Gemm(ctx, k, threads, kernels.NT, part, old, d, false); err != nil {
			return err
		}
		// what is left loses X X^T, strip by strip, each from the diagonal down
		copyRows(old, part, -1)
		for j := hi; j < n; j += block {
			end := min(j+block, n)
			strip := m.Slice(j, n, j, end)
			if err := kernels.Gemm(ctx, k, threads, kernels.NT, strip, m.Slice(j, n, lo, hi), old.Slice(j-hi, end-hi, 0, hi-lo), true); err != nil {
				return err
			}
		}
	}
	for i := range n {
		clear(m.Row(i)[i+1:])
	}
	return ctx.Err()
}

// copyRows sets dst to sign times src.
func copyRows(dst, src kernels.Matrix64, sign float64) {
	for i := range src.Rows {
		d := dst.Row(i)
		for j, v := range src.Row(i) {
			d[j] = sign * v
		}
	}
}

// pivotError says which pivot of a block is not positive.
type pivotError struct {
	row   int
	value float64
}

func (e *pivotError) Error() string { return fmt.Sprintf("pivot %d is %g", e.row, e.value) }

// factor is the Cholesky factorization of a block, by halves; what it leaves above the diagonal has no
// meaning. scratch holds half a block.
func factor(k *kernels.Set, m kernels.Matrix64, scratch []float64) error {
	n, half := m.Rows, m.Rows/2
	if n <= leaf {
		return factorLeaf(m)
	}
	first, below, last := m.Slice(0, half, 0, half), m.Slice(half, n, 0, half), m.Slice(half, n, half, n)
	if err := factor(k, first, scratch); err != nil {
		return err
	}
	d, rest := kernels.View(scratch, half, half), scratch[half*half:]
	invert(k, d, first, rest)
	old := kernels.View(rest, n-half, half)
	copyRows(old, below, 1)
	k.GemmNT64(below, old, d, false)
	copyRows(old, below, -1)
	k.GemmNT64(last, below, old, true)
	err := factor(k, last, scratch)
	var pivot *pivotError
	if errors.As(err, &pivot) {
		pivot.row += half
	}
	return err
}

func factorLeaf(m kernels.Matrix64) error {
	for i := range m.Rows {
		ri := m.Row(i)
		for j := range i + 1 {
			rj := m.Row(j)
			s := ri[j]
			for p, v := range rj[:j] {
				s -= float64(v * ri[p])
			}
			if j < i {
				ri[j] = s / rj[j]
				continue
			}
			if !(s > 0) || math.IsInf(s, 1) {
				return &pivotError{i, s}
			}
			ri[j] = math.Sqrt(s)
		}
	}
	return nil
}

// invert sets d to the inverse of the lower triangle of m, by halves; the upper triangle of d becomes
// zero. scratch holds a quarter of a block.
func invert(k *kernels.Set, d, m kernels.Matrix64, scratch []float64) {
	n, half := m.Rows, m.Rows/2
	if n <= leaf {
		invertLeaf(d, m)
		return
	}
	first, last := d.Slice(0, half, 0, half), d.Slice(half, n, half, n)
	invert(k, first, m.Slice(0, half, 0, half), scratch)
	invert(k, last, m.Slice(half, n, half, n), scratch)
	for i := range half {
		clear(d.Row(i)[half:])
	}
	// the lower left is -last * m * first
	t, below := kernels.View(scratch, n-half, half), d.Slice(half, n, 0, half)
	k.GemmNN64(t, m.Slice(half, n, 0, half), first, false)
	k.GemmNN64(below, last, t, false)
	copyRows(below, below, -1)
}

func invertLeaf(d, m kernels.Matrix64) {
	for i := range m.Rows {
		l, di := m.Row(i), d.Row(i)
		clear(di)
		// row i of the inverse is (e_i - sum over p<i of l[p] * row p) / l[i]
		for p, v := range l[:i] {
			for j, w := range d.Row(p)[:p+1] {
				di[j] -= float64(v * w)
			}
		}
		for j := range di[:i] {
			di[j] /= l[i]
		}
		di[i] = 1 / l[i]
	}
}

// InvertLower replaces the lower triangular l, [n,n] with a diagonal free of zeros, by its inverse.
// The upper triangle is not read and becomes zero.
func InvertLower(ctx context.Context, k *kernels.Set, threads int, l []float64, n int) error {
	m := matrix(l, n)
	wide := min(block, n)
	inverse := make([]float64, wide*wide)
	// row block i of the inverse is -inverse(L_ii) times (row block i of L times the rows already done)
	sum := make([]float64, wide*n)
	for lo := 0; lo < n; lo += block {
		hi := min(lo+block, n)
		d, square := kernels.View(inverse, hi-lo, hi-lo), m.Slice(lo, hi, lo, hi)
		invert(k, d, square, sum)
		t := kernels.View(sum[:(hi-lo)*lo], hi-lo, lo)
		err := par.Range(ctx, threads, lo, block/2, func(_, c0, c1 int) error {
			// rows above c0 are zero in these columns
			k.GemmNN64(t.Slice(0, t.Rows, c0, c1), m.Slice(lo, hi, c0, lo), m.Slice(c0, lo, c0, c1), false)
			return nil
		})
		if err != nil {
			return err
		}
		if lo > 0 {
			copyRows(t, t, -1)
			if err := kernels.Gemm(ctx, k, threads, kernels.NN, m.Slice(lo, hi, 0, lo), d, t, false); err != nil {
				return err
			}
		}
		copyRows(square, d, 1)
		for i := lo; i < hi; i++ {
			clear(m.Row(i)[hi:])
		}
	}
	return ctx.Err()
}

// InverseCholeskyUpper replaces h, symmetric positive definite and [n,n], by the upper triangular U
// with inverse(h) = U^T U: the form in which GPTQ reads the inverse Hessian. Damping is the caller's.
// With J the reversal of the order of rows, U = J * inverse(chol(J h J)) * J: one factor and one
// triangular inverse, and the inverse itself is never formed. The upper triangle of h is read, the
// lower one becomes zero. ErrNotPositiveDefinite is as for CholeskyLower.
func InverseCholeskyUpper(ctx context.Context, k *kernels.Set, threads int, h []float64, n int) error {
	matrix(h, n)
	slices.Reverse(h) // J h J, row-major: the numbers in opposite order
	if err := CholeskyLower(ctx, k, threads, h, n); err != nil {
		return err
	}
	if err := InvertLower(ctx, k, threads, h, n); err != nil {
		return err
	}
	slices.Reverse(h)
	return nil
}
