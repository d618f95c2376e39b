package kernels

import "fmt"

// element is what matrices are made of; a uint16 holds the bits of a bfloat16.
type element interface{ float32 | float64 | uint16 }

// Dense is a view of numbers as a matrix: row i is Data[i*Stride : i*Stride+Cols].
type Dense[T element] struct {
	Data               []T
	Rows, Cols, Stride int
}

// Matrix holds weights and activations, Matrix64 the matrices of solvers, MatrixBF16 the operands of
// products in mixed precision.
type (
	Matrix     = Dense[float32]
	Matrix64   = Dense[float64]
	MatrixBF16 = Dense[uint16]
)

// View makes a matrix of adjacent rows over data, which holds rows*cols numbers or more.
func View[T element](data []T, rows, cols int) Dense[T] {
	return Dense[T]{data, rows, cols, cols}
}

// Row is row i, Cols long.
func (m Dense[T]) Row(i int) []T { return m.Data[i*m.Stride:][:m.Cols:m.Cols] }

// Slice is the view of rows [r0,r1) and columns [c0,c1).
func (m Dense[T]) Slice(r0, r1, c0, c1 int) Dense[T] {
	if r0 < 0 || r1 < r0 || r1 > m.Rows || c0 < 0 || c1 < c0 || c1 > m.Cols {
		panic(fmt.Sprintf("kernels: part [%d:%d,%d:%d] of a %dx%d matrix", r0, r1, c0, c1, m.Rows, m.Cols))
	}
	if r0 == r1 || c0 == c1 {
		return Dense[T]{nil, r1 - r0, c1 - c0, m.Stride}
	}
	return Dense[T]{m.Data[r0*m.Stride+c0:], r1 - r0, c1 - c0, m.Stride}
}

// check panics unless the view lies within its data, so that no kernel reads past it.
func (m Dense[T]) check(name string) {
	need := 0
	if m.Rows > 0 && m.Cols > 0 {
		need = (m.Rows-1)*m.Stride + m.Cols
	}
	if m.Rows < 0 || m.Cols < 0 || m.Rows > 1 && m.Stride < m.Cols || len(m.Data) < need {
		panic(fmt.Sprintf("kernels: %s is %dx%d with stride %d over %d numbers", name, m.Rows, m.Cols, m.Stride, len(m.Data)))
	}
}
