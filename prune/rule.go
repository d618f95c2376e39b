package prune

import (
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
)

// scorer says how much a weight matters: |w| times a factor of its column times a factor of its
// matrix. Each product is rounded to float32.
type scorer struct {
	norm  []float32 // [cols], nil for ones
	scale float32
}

// keys writes the scores of one row as integers of the same order (the bits of a float32 that is
// not negative). A weight that is not finite is refused.
func (s *scorer) keys(dst []uint32, w []float32) error {
	for i, v := range w {
		a := math.Float32bits(v) &^ (1 << 31)
		if a >= 0x7f800000 {
			return fmt.Errorf("element %d of the row is %v: %w", i, v, fault.ErrNotFinite)
		}
		x := math.Float32frombits(a)
		if s.norm != nil {
			x *= s.norm[i]
		}
		if s.scale != 1 {
			x *= s.scale
		}
		dst[i] = math.Float32bits(x)
	}
	return nil
}

// rule decides which weights of a row go. from is the position of the row's first weight in the
// matrix. drop is called with the columns in any order.
type rule interface {
	drop(keys []uint32, from int64, scratch []uint64, set func(col int))
}

// byRow drops the k lowest of a row; of equal ones the first.
type byRow struct{ k int }

func (r byRow) drop(keys []uint32, _ int64, scratch []uint64, set func(int)) {
	if r.k == 0 {
		return
	}
	for i, k := range keys {
		scratch[i] = uint64(k)<<32 | uint64(uint32(i)) //nolint:gosec // a column
	}
	limit := kth(scratch[:len(keys)], r.k-1)
	for i, k := range keys {
		if uint64(k)<<32|uint64(uint32(i)) <= limit { //nolint:gosec // a column
			set(i)
		}
	}
}

// byGroup drops all but the n highest of every m consecutive weights; of equal ones the first.
type byGroup struct{ n, m int }

func (r byGroup) drop(keys []uint32, from int64, scratch []uint64, set func(int)) {
	for at := 0; at < len(keys); at += r.m {
		g := keys[at:min(at+r.m, len(keys))]
		byRow{len(g) - min(r.n, len(g))}.drop(g, from, scratch, func(i int) { set(at + i) })
	}
}

// byThreshold drops what is below a key, and equal ones up to a position of the matrix.
type byThreshold struct {
	key uint32
	cut int64
}

func (r byThreshold) drop(keys []uint32, from int64, _ []uint64, set func(int)) {
	for i, k := range keys {
		if k < r.key || k == r.key && from+int64(i) < r.cut {
			set(i)
		}
	}
}

// kth returns the k-th smallest (from 0) of distinct values and reorders them: Hoare's selection
// with the median of three, so that sorted rows are no trap.
func kth(x []uint64, k int) uint64 {
	lo, hi := 0, len(x)-1
	for lo < hi {
		mid := lo + (hi-lo)/2
		if x[mid] < x[lo] {
			x[mid], x[lo] = x[lo], x[mid]
		}
		if x[hi] < x[lo] {
			x[hi], x[lo] = x[lo], x[hi]
		}
		if x[hi] < x[mid] {
			x[hi], x[mid] = x[mid], x[hi]
		}
		pivot := x[mid]
		i, j := lo, hi
		for i <= j {
			for x[i] < pivot {
				i++
			}
			for x[j] > pivot {
				j--
			}
			if i <= j {
				x[i], x[j] = x[j], x[i]
				i++
				j--
			}
		}
		switch {
		case k <= j:
			hi = j
		case k >= i:
			lo = i
		default:
			return x[k]
		}
	}
	return x[k]
}
