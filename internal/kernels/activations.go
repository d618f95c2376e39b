package kernels

import (
	"fmt"
	"math"
	"unsafe"
)

// actBlock is how many activations share a scale.
const actBlock = 32

// act is a block of activations in one cache line: codes q with the scale d, and beside them the sums
// that the products with tiles need. Compiled kernels know this layout.
type act struct {
	q       [actBlock]int8
	d       float32
	start   int32      // magic - 128*sum(q)
	start16 [2]int32   // the same of either half
	sum     float32    // d*sum(q)
	sum16   [2]float32 // the same of either half
	_       int32
}

// Activations are rows of real inputs as int8 codes in blocks of 32 along the row:
//
//	d = max|x| / 127        q[i] = round(x[i] * (127 / max|x|))
//
// in float32, each step rounded, ties to even. A block whose largest magnitude is below 2^-100 becomes
// zeros with d = 0; one that holds NaN or an infinity gets d = NaN, so that whatever it touches becomes
// NaN. The bits are the same at every level. The zero value is empty; Reset makes room.
type Activations struct {
	blocks             []act
	rows, cols, stride int // stride in blocks
}

// Reset makes room for rows of cols numbers and forgets what there was. cols must be a multiple of 32.
// Room is kept for the next time.
func (a *Activations) Reset(rows, cols int) {
	if rows < 0 || cols < 0 || cols%actBlock != 0 {
		panic(fmt.Sprintf("kernels: activations of %d rows of %d numbers", rows, cols))
	}
	a.rows, a.cols = rows, cols
	// an odd number of cache lines from row to row keeps equal columns of many rows out of each other's
	// way in the caches
	a.stride = cols/actBlock | 1
	if need := rows * a.stride; need > cap(a.blocks) {
		a.blocks = make([]act, need)
	} else {
		a.blocks = a.blocks[:need]
	}
}

// Rows and Cols are the shape that Reset was given.
func (a *Activations) Rows() int { return a.rows }

// Cols is the length of a row.
func (a *Activations) Cols() int { return a.cols }

// Slice is a view of rows [lo,hi), which shares their data.
func (a *Activations) Slice(lo, hi int) Activations {
	if lo < 0 || hi < lo || hi > a.rows {
		panic(fmt.Sprintf("kernels: rows [%d:%d] of %d rows of activations", lo, hi, a.rows))
	}
	return Activations{a.blocks[lo*a.stride : hi*a.stride], hi - lo, a.cols, a.stride}
}

// row is the blocks of row i.
func (a *Activations) row(i int) []act { return a.blocks[i*a.stride:][:a.cols/actBlock] }

// quantizeMost is how many blocks one call of the kernel takes.
const quantizeMost = 1 << 12

// Quantize makes codes of rows [lo,hi) of x, which has the shape of a. Several workers may share a as
// long as none of their rows is the same.
func (s *Set) Quantize(a *Activations, x Matrix, lo, hi int) {
	x.check("x")
	if x.Rows != a.rows || x.Cols != a.cols || lo < 0 || hi < lo || hi > a.rows {
		panic(fmt.Sprintf("kernels: rows [%d:%d] of %dx%d into activations of %dx%d", lo, hi, x.Rows, x.Cols, a.rows, a.cols))
	}
	for i := lo; i < hi; i++ {
		dst, src := a.row(i), x.Row(i)
		if s.code == nil {
			quantizePortable(dst, src)
			continue
		}
		for len(dst) > 0 {
			n := min(len(dst), quantizeMost)
			args := quantizeArgs{at(dst), at(src), n}
			s.code.call(fnQuantize, unsafe.Pointer(&args))
			dst, src = dst[n:], src[n*actBlock:]
		}
	}
}

type quantizeArgs struct {
	dst, src unsafe.Pointer
	n        int // blocks
}

// magic is 1.5 * 2^23: adding it to a number below 2^22 rounds that to an integer, ties to even, which
// then stands in the low bits.
const (
	magic     = 12582912
	magicBits = 0x4b400000
)

func quantizePortable(dst []act, x []float32) {
	for b := range dst {
		a := &dst[b]
		v := x[b*actBlock:][:actBlock]
		var top uint32
		for _, e := range v {
			top = max(top, math.Float32bits(e)&0x7fffffff)
		}
		*a = act{}
		var sum [2]int32
		switch largest := math.Float32frombits(top); {
		case top >= 0x7f800000:
			a.d = float32(math.NaN())
		case largest >= 0x1p-100:
			a.d = largest / 127
			inv := 127 / largest
			for i, e := range v {
				q := int32(math.Float32bits(float32(e*inv)+magic)) - magicBits
				a.q[i] = int8(q)
				sum[i/16] += q
			}
		}
		a.start, a.sum = magicBits-128*(sum[0]+sum[1]), a.d*float32(sum[0]+sum[1])
		for h, n := range sum {
			a.start16[h], a.sum16[h] = magicBits-128*n, a.d*float32(n)
		}
	}
}
