package kernels

import (
	"fmt"
	"unsafe"
)

type spreadArgs struct {
	x, lo, hi, squares unsafe.Pointer
	rows, cols, ld     int
}

// Spread widens the ranges [lo, hi] of columns to what rows of x hold, and adds the squares: those of even rows and
// those of odd rows, which then come together. NaN leaves the ranges as they are, and becomes the sum of squares.
func (s *Set) Spread(lo, hi, squares, x []float32) {
	cols := len(lo)
	if len(hi) != cols || len(squares) != cols || cols == 0 || len(x)%cols != 0 {
		panic(fmt.Sprintf("kernels: spread of %d numbers over %d, %d and %d columns", len(x), cols, len(hi), len(squares)))
	}
	if s.code == nil {
		spreadPortable(lo, hi, squares, x)
		return
	}
	step := cols * max(1, convWork*16/cols)
	for ; len(x) > 0; x = x[min(step, len(x)):] {
		part := x[:min(step, len(x))]
		args := spreadArgs{x: at(part), lo: at(lo), hi: at(hi), squares: at(squares), rows: len(part) / cols, cols: cols, ld: cols}
		s.code.call(fnSpread, unsafe.Pointer(&args))
	}
}

func spreadPortable(lo, hi, squares, x []float32) {
	cols := len(lo)
	step := cols * max(1, convWork*16/cols)
	odd := make([]float32, cols)
	for ; len(x) > 0; x = x[min(step, len(x)):] {
		part := x[:min(step, len(x))]
		clear(odd)
		for i, v := range part {
			j := i % cols
			if v < lo[j] {
				lo[j] = v
			}
			if v > hi[j] {
				hi[j] = v
			}
			if i/cols%2 == 1 {
				odd[j] += float32(v * v)
			} else {
				squares[j] += float32(v * v)
			}
		}
		for j := range squares {
			squares[j] += odd[j]
		}
	}
}
