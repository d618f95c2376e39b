package kernels

import "fmt"

// Matrix is a view of float32 numbers: row i is Data[i*Stride : i*Stride+Cols].
type Matrix struct {
	Data               []float32
	Rows, Cols, Stride int
}

// View makes a matrix of adjacent rows over data, which holds rows*cols numbers or more.
func View(data []float32, rows, cols int) Matrix {
	return Matrix{data, rows, cols, cols}
}

// Row is row i, Cols long.
func (m Matrix) Row(i int) []float32 { return m.Data[i*m.Stride:][:m.Cols:m.Cols] }

// Slice is the view of rows [r0,r1) and columns [c0,c1).
func (m Matrix) Slice(r0, r1, c0, c1 int) Matrix {
	if r0 < 0 || r1 < r0 || r1 > m.Rows || c0 < 0 || c1 < c0 || c1 > m.Cols {
		panic(fmt.Sprintf("kernels: part [%d:%d,%d:%d] of a %dx%d matrix", r0, r1, c0, c1, m.Rows, m.Cols))
	}
	if r0 == r1 || c0 == c1 {
		return Matrix{nil, r1 - r0, c1 - c0, m.Stride}
	}
	return Matrix{m.Data[r0*m.Stride+c0:], r1 - r0, c1 - c0, m.Stride}
}

// check panics unless the view lies within its data, so that no kernel reads past it.
func (m Matrix) check(name string) {
	need := 0
	if m.Rows > 0 && m.Cols > 0 {
		need = (m.Rows-1)*m.Stride + m.Cols
	}
	if m.Rows < 0 || m.Cols < 0 || m.Rows > 1 && m.Stride < m.Cols || len(m.Data) < need {
		panic(fmt.Sprintf("kernels: %s is %dx%d with stride %d over %d numbers", name, m.Rows, m.Cols, m.Stride, len(m.Data)))
	}
}
