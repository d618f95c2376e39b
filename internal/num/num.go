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

// block is the width of the blocks; products of blocks do nearly all of the work.
const block = 128

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
	inv := make([]float64, block*block)
	for lo := 0; lo < n; lo += block {
		hi := min(lo+block, n)
		if err := factor(m, lo, hi); err != nil {
			return err
		}
		if hi == n {
			break
		}
		d := kernels.View(inv, hi-lo, hi-lo)
		invertBlock(d, m, lo, hi)
		transpose(d)
		if err := panel(ctx, k, threads, m, d, lo, hi); err != nil {
			return err
		}
		if err := trail(ctx, k, threads, m, lo, hi); err != nil {
			return err
		}
	}
	for i := range n {
		clear(m.Row(i)[i+1:])
	}
	return ctx.Err()
}

// factor is the unblocked Cholesky factorization of the diagonal block [lo,hi).
func factor(m kernels.Matrix64, lo, hi int) error {
	for i := lo; i < hi; i++ {
		ri := m.Row(i)[lo:hi]
		for j := lo; j <= i; j++ {
			rj := m.Row(j)[lo:hi]
			s := ri[j-lo]
			for p, v := range rj[:j-lo] {
				s -= float64(v * ri[p])
			}
			if j < i {
				ri[j-lo] = s / rj[j-lo]
				continue
			}
			if !(s > 0) || math.IsInf(s, 1) {
				return fmt.Errorf("%w: pivot %d of %d is %g", ErrNotPositiveDefinite, i, m.Rows, s)
			}
			ri[j-lo] = math.Sqrt(s)
		}
	}
	return nil
}

// invertBlock sets d to the inverse of the lower triangular block [lo,hi) of m; its upper triangle
// becomes zero.
func invertBlock(d, m kernels.Matrix64, lo, hi int) {
	for i := range hi - lo {
		l, di := m.Row(lo + i)[lo:hi], d.Row(i)
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

// transpose is done in place.
func transpose(d kernels.Matrix64) {
	for i := range d.Rows {
		for j := range i {
			x, y := &d.Data[i*d.Stride+j], &d.Data[j*d.Stride+i]
			*x, *y = *y, *x
		}
	}
}

// panel solves for the rows below the diagonal block: X L^T = A, that is X = A * inv(L)^T.
func panel(ctx context.Context, k *kernels.Set, threads int, m, invT kernels.Matrix64, lo, hi int) error {
	const rows = 64
	return par.Range(ctx, threads, m.Rows-hi, rows, func(_, from, to int) error {
		var buf [rows * block]float64
		part := m.Slice(hi+from, hi+to, lo, hi)
		a := kernels.View(buf[:], to-from, hi-lo)
		for i := range a.Rows {
			copy(a.Row(i), part.Row(i))
		}
		k.GemmNN64(part, a, invT, false)
		return nil
	})
}

// trail subtracts the panel's products from what is left: A[i,j] -= P[i] . P[j] for hi <= j <= i.
// A piece is a column of blocks, from the diagonal down.
func trail(ctx context.Context, k *kernels.Set, threads int, m kernels.Matrix64, lo, hi int) error {
	const cols = 64
	return par.Range(ctx, threads, m.Rows-hi, cols, func(_, from, to int) error {
		var buf [block * cols]float64
		b := kernels.View(buf[:(hi-lo)*(to-from)], hi-lo, to-from) // -P^T
		for j := range to - from {
			for p, v := range m.Row(hi + from + j)[lo:hi] {
				b.Data[p*b.Stride+j] = -v
			}
		}
		k.GemmNN64(m.Slice(hi+from, m.Rows, hi+from, hi+to), m.Slice(hi+from, m.Rows, lo, hi), b, true)
		return nil
	})
}

// InvertLower replaces the lower triangular l, [n,n] with a diagonal free of zeros, by its inverse.
// The upper triangle is not read and becomes zero.
func InvertLower(ctx context.Context, k *kernels.Set, threads int, l []float64, n int) error {
	m := matrix(l, n)
	inv := make([]float64, block*block)
	// row block i of the inverse is -inv(L_ii) times (row block i of L times the rows already done)
	sum := make([]float64, block*n)
	for lo := 0; lo < n; lo += block {
		hi := min(lo+block, n)
		d := kernels.View(inv, hi-lo, hi-lo)
		invertBlock(d, m, lo, hi)
		for i := range d.Rows {
			for j := range d.Row(i) {
				d.Row(i)[j] = -d.Row(i)[j]
			}
		}
		t := kernels.View(sum[:(hi-lo)*lo], hi-lo, lo)
		err := par.Range(ctx, threads, lo, block/2, func(_, c0, c1 int) error {
			// rows above c0 are zero in these columns
			part := t.Slice(0, t.Rows, c0, c1)
			k.GemmNN64(part, m.Slice(lo, hi, c0, lo), m.Slice(c0, lo, c0, c1), false)
			return nil
		})
		if err != nil {
			return err
		}
		err = par.Range(ctx, threads, lo, block/2, func(_, c0, c1 int) error {
			k.GemmNN64(m.Slice(lo, hi, c0, c1), d, t.Slice(0, t.Rows, c0, c1), false)
			return nil
		})
		if err != nil {
			return err
		}
		for i := range d.Rows {
			row := m.Row(lo + i)
			for j, v := range d.Row(i)[:i+1] {
				row[lo+j] = -v
			}
			clear(row[lo+i+1:])
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
