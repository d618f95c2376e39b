package ir

import "fmt"

// LowRank is a change to a weight that is kept beside it: what an adapter does before it is
// merged. For a weight W of rows x cols (all dimensions but the first flattened into cols) the
// changed weight is
//
//	W' = diag(Row) W diag(Col) + B A
//
// so that a layer computes, without ever forming W',
//
//	y = Row * (W (Col * x)) + B (A x)
//
// A lookup of row i gives Row[i] * W[i] * Col + B[i] A. Scales such as alpha/r are folded into B.
// The slices are shared and must not be changed.
type LowRank struct {
	Rank int       // 0: only the factors Row and Col
	A    []float32 // [Rank, cols], row-major
	B    []float32 // [rows, Rank], row-major
	Row  []float32 // [rows], nil for ones
	Col  []float32 // [cols], nil for ones
}

// Check verifies the lengths against a weight of rows x cols.
func (l *LowRank) Check(rows, cols int) error {
	if l.Rank < 0 || len(l.A) != l.Rank*cols || len(l.B) != rows*l.Rank ||
		l.Row != nil && len(l.Row) != rows || l.Col != nil && len(l.Col) != cols {
		return fmt.Errorf("low-rank change of rank %d with %d and %d factors does not fit a weight of %d x %d", l.Rank, len(l.A), len(l.B), rows, cols)
	}
	return nil
}

// Apply turns elements [from, from+len(x)) of W, in row-major order with rows of cols, into those of
// W'. Every product and sum is rounded to float32 on its own, so the result is the same on every
// machine and for every split of the elements.
func (l *LowRank) Apply(x []float32, from int64, cols int) {
	const width = 256 // columns whose sums stay in the first-level cache
	var sum [width]float32
	for len(x) > 0 {
		row, col := int(from/int64(cols)), int(from%int64(cols))
		n := min(len(x), cols-col, width)
		acc, dst := sum[:n], x[:n]
		clear(acc)
		b := l.B[row*l.Rank : (row+1)*l.Rank]
		k := 0
		for ; k+4 <= len(b); k += 4 {
			a0, a1 := l.A[k*cols+col:][:n], l.A[(k+1)*cols+col:][:n]
			a2, a3 := l.A[(k+2)*cols+col:][:n], l.A[(k+3)*cols+col:][:n]
			b0, b1, b2, b3 := b[k], b[k+1], b[k+2], b[k+3]
			for j := range acc {
				s := acc[j] + float32(b0*a0[j])
				s += float32(b1 * a1[j])
				s += float32(b2 * a2[j])
				acc[j] = s + float32(b3*a3[j])
			}
		}
		for ; k < len(b); k++ {
			a, bk := l.A[k*cols+col:][:n], b[k]
			for j := range acc {
				acc[j] += float32(bk * a[j])
			}
		}
		if l.Col != nil {
			for j, c := range l.Col[col : col+n] {
				dst[j] *= c
			}
		}
		if l.Row != nil {
			r := l.Row[row]
			for j := range dst {
				dst[j] = float32(r*dst[j]) + acc[j]
			}
		} else {
			for j := range dst {
				dst[j] += acc[j]
			}
		}
		x, from = x[n:], from+int64(n)
	}
}

// Then returns the change that does l first and next afterwards, as one. The weight has rows x cols.
func (l *LowRank) Then(next *LowRank, rows, cols int) *LowRank {
	out := &LowRank{
		Rank: l.Rank + next.Rank,
		Row:  product(l.Row, next.Row),
		Col:  product(l.Col, next.Col),
	}
	out.A = append(append(make([]float32, 0, out.Rank*cols), l.A...), next.A...)
	if next.Col != nil {
		for k := range l.Rank {
			for j, c := range next.Col {
				out.A[k*cols+j] *= c
			}
		}
	}
	out.B = make([]float32, 0, rows*out.Rank)
	for i := range rows {
		at := len(out.B)
		out.B = append(out.B, l.B[i*l.Rank:(i+1)*l.Rank]...)
		if next.Row != nil {
			for k := range l.Rank {
				out.B[at+k] *= next.Row[i]
			}
		}
		out.B = append(out.B, next.B[i*next.Rank:(i+1)*next.Rank]...)
	}
	return out
}

// product multiplies two optional vectors; nil stands for ones.
func product(a, b []float32) []float32 {
	if a == nil || b == nil {
		return append(append([]float32(nil), a...), b...)
	}
	out := make([]float32, len(a))
	for i := range out {
		out[i] = a[i] * b[i]
	}
	return out
}
