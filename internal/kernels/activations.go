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
	d16     float32    // d/16
}

// Activations are rows of real inputs as int8 codes in blocks of 32 along the row:
//
//	d = max|x| / 127        q[i] = round(x[i] * (127 / max|x|))
//
// in float32, each step rounded, ties to even. A block whose largest magnitude is below 2^-100 becomes
// zeros with d = 0; one that holds NaN or an infinity gets d = NaN, so that whatever it touches becomes
// NaN. The bits are the same at every level. The zero value is empty; Reset makes room.
type Activations struct {
	blocks     []act
	rows, cols int
	first      int // place of the first row in its group
	group      int // rows in a group, 1 or 4: their blocks of the same columns lie side by side
}

// Reset makes room for rows of cols numbers and forgets what there was. cols must be a multiple of 32.
// Room is kept for the next time.
func (a *Activations) Reset(rows, cols int) {
	if rows < 0 || cols < 0 || cols%actBlock != 0 {
		panic(fmt.Sprintf("kernels: activations of %d rows of %d numbers", rows, cols))
	}
	a.rows, a.cols, a.first, a.group = rows, cols, 0, actGroup(rows)
	if need := (rows + a.group - 1) / a.group * a.groupLen(); need > cap(a.blocks) {
		a.blocks = make([]act, need)
	} else {
		a.blocks = a.blocks[:need]
	}
}

// actGroup is how many of so many rows lie side by side.
func actGroup(rows int) int {
	if rows < 2 {
		return 1
	}
	return 4
}

// Bytes is the memory that is held.
func (a *Activations) Bytes() int64 { return int64(cap(a.blocks)) * int64(unsafe.Sizeof(act{})) }

// ActivationBytes is the memory that activations of rows of cols numbers take.
func ActivationBytes(rows, cols int) int64 {
	g := actGroup(rows)
	return int64((rows+g-1)/g*g) * int64(cols/actBlock) * int64(unsafe.Sizeof(act{}))
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
	if lo == hi {
		return Activations{cols: a.cols, group: a.group}
	}
	lo += a.first
	return Activations{a.blocks[lo/a.group*a.groupLen():], hi + a.first - lo, a.cols, lo % a.group, a.group}
}

// groupLen is how many blocks a group of rows has.
func (a *Activations) groupLen() int { return a.cols / actBlock * a.group }

// block is block b of row i; the next one of the row lies group blocks behind it.
func (a *Activations) block(i, b int) *act {
	i += a.first
	return &a.blocks[i/a.group*a.groupLen()+b*a.group+i%a.group]
}

// quantizeMost is how many blocks one call of the kernel takes.
const quantizeMost = 1 << 12

// Quantize makes codes of rows [lo,hi) of x, which has the shape of a. Several workers may share a as
// long as none of their rows is the same.
func (s *Set) Quantize(a *Activations, x Matrix, lo, hi int) {
	x.check("x")
	if x.Rows != a.rows || x.Cols != a.cols || lo < 0 || hi < lo || hi > a.rows {
		panic(fmt.Sprintf("kernels: rows [%d:%d] of %dx%d into activations of %dx%d", lo, hi, x.Rows, x.Cols, a.rows, a.cols))
	}
	n := a.cols / actBlock
	for i := lo; i < hi && n > 0; i++ {
		src := x.Row(i)
		if s.code == nil {
			for b := range n {
				a.block(i, b).quantize(src[b*actBlock:][:actBlock])
			}
			continue
		}
		for b := 0; b < n; b += quantizeMost {
			args := quantizeArgs{unsafe.Pointer(a.block(i, b)), at(src[b*actBlock:]), min(n-b, quantizeMost), a.group}
			s.code.call(fnQuantize, unsafe.Pointer(&args))
		}
	}
}

type quantizeArgs struct {
	dst, src unsafe.Pointer
	n, step  int // blocks
}

// magic is 1.5 * 2^23: adding it to a number below 2^22 rounds that to an integer, ties to even, which
// then stands in the low bits.
const (
	magic     = 12582912
	magicBits = 0x4b400000
)

// quantize sets a block from its 32 numbers.
func (a *act) quantize(x []float32) {
	var top uint32
	for _, e := range x {
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
		for i, e := range x {
			q := int32(math.Float32bits(float32(e*inv)+magic)) - magicBits
			a.q[i] = int8(q)
			sum[i/16] += q
		}
	}
	a.d16 = a.d / 16
	a.start, a.sum = magicBits-128*(sum[0]+sum[1]), a.d*float32(sum[0]+sum[1])
	for h, n := range sum {
		a.start16[h], a.sum16[h] = magicBits-128*n, a.d*float32(n)
	}
}
