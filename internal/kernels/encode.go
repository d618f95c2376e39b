package kernels

import (
	"fmt"
	"math"
	"sync"
	"unsafe"
)

// encoder is how the kernels write a stored type: by which kernel, and which of its types it is.
type encoder struct {
	elems, bytes int
	plain        int // kernel without importance
	weighted     int // kernel with importance
	kind         int32
}

var encoders = map[string]encoder{
	"f16":  {1, 2, fnEncodeF16, fnEncodeF16, 0},
	"bf16": {1, 2, fnEncodeBf16, fnEncodeBf16, 0},
	"q8_0": {32, 34, fnEncodeQ80, fnEncodeQ80, 0},
	"q4_0": {32, 18, fnEncodeQ40, fnEncodeSymmetric, 0},
	"q4_1": {32, 20, fnEncodeQ41, fnEncodeAffine, 0},
	"q5_0": {32, 22, fnEncodeQ50, fnEncodeSymmetric, 1},
	"q5_1": {32, 24, fnEncodeQ51, fnEncodeAffine, 1},
	"q2_k": {256, 84, fnEncodeQ2K, fnEncodeQ2K, 0},
	"q3_k": {256, 110, fnEncodeQ3K, fnEncodeQ3KWeighted, 0},
	"q6_k": {256, 210, fnEncodeQ6K, fnEncodeQ6K, 0},
	"q4_k": {256, 144, fnEncodeSixes, fnEncodeSixes, 0},
	"q5_k": {256, 176, fnEncodeSixes, fnEncodeSixes, 1},

	"iq4_nl": {32, 18, fnEncodeNonlinear, fnEncodeNonlinear, 0},
	"iq4_xs": {256, 136, fnEncodeNonlinear, fnEncodeNonlinear, 1},
	"mxfp4":  {32, 17, fnEncodeMxfp4, fnEncodeMxfp4, 0},
}

type encodeArgs struct {
	dst, x, qw, scratch unsafe.Pointer
	n                   int
	sigma2              float32
	kind                int32
}

// workspaces are the work space of searches, struct group and what stands beside it in the C sources.
var workspaces = sync.Pool{New: func() any { return new(workspace) }}

type workspace [10<<10 + 32]float32

// aligned is where the kernels' part begins, on a multiple of 128 bytes.
func (s *workspace) aligned() unsafe.Pointer {
	return unsafe.Pointer(&s[-(uintptr(unsafe.Pointer(s))/4)%32])
}

// atOnce is how many elements one call encodes: a fraction of a millisecond, since nothing can stop a
// kernel that runs.
const atOnce = 1 << 14

// Encode writes real values as blocks of a stored type, by its name in package storage, with the bytes
// that the portable encoder there makes: every level keeps the order and the rounding of all its
// steps. x is whole blocks and finite; importance is nil or as long, not negative, and sigma2 then the
// mean square of the row. It does nothing and reports false where there is no kernel.
func (s *Set) Encode(name string, dst []byte, x, importance []float32, sigma2 float32) bool {
	e, ok := encoders[name]
	if !ok || s.code == nil {
		return false
	}
	n := len(x) / e.elems
	if n*e.elems != len(x) || n*e.bytes != len(dst) || importance != nil && len(importance) != len(x) {
		panic(fmt.Sprintf("kernels: %d numbers as %s in %d bytes", len(x), name, len(dst)))
	}
	fn := e.plain
	if importance != nil {
		fn = e.weighted
	}
	buf := workspaces.Get().(*workspace)
	defer workspaces.Put(buf)
	args := encodeArgs{scratch: buf.aligned(), sigma2: sigma2, kind: e.kind}
	for step := atOnce / e.elems; n > 0; n -= step {
		args.dst, args.x, args.qw, args.n = at(dst), at(x), at(importance), min(n, step)
		s.code.call(fn, unsafe.Pointer(&args))
		if n > step {
			dst, x = dst[step*e.bytes:], x[step*e.elems:]
			if importance != nil {
				importance = importance[step*e.elems:]
			}
		}
	}
	return true
}

type extentArgs struct {
	x              unsafe.Pointer
	n              int
	largest, signs uint32
}

// Extent is the largest magnitude of x by the order of its bits, in which infinities and then NaN come
// last, and whether any number has its sign bit set.
func (s *Set) Extent(x []float32) (largest float32, negative bool) {
	if s.code == nil {
		return extentPortable(x)
	}
	args := extentArgs{}
	for len(x) > 0 {
		part := x[:min(len(x), most)]
		piece := extentArgs{x: at(part), n: len(part)}
		s.code.call(fnExtent, unsafe.Pointer(&piece))
		args.largest, args.signs = max(args.largest, piece.largest), args.signs|piece.signs
		x = x[len(part):]
	}
	return math.Float32frombits(args.largest), args.signs != 0
}

func extentPortable(x []float32) (largest float32, negative bool) {
	var top, signs uint32
	for _, v := range x {
		b := math.Float32bits(v)
		top, signs = max(top, b&^(1<<31)), signs|b
	}
	return math.Float32frombits(top), signs>>31 != 0
}

type rowSquaresArgs struct {
	x, sums, scratch unsafe.Pointer
	rows, cols       int
}

// RowSquares sums the squares of the numbers of each row, rounding every product and sum, in the order
// of the row. Rows have cols numbers, a multiple of 16, and there are as many as sums.
func (s *Set) RowSquares(sums, x []float32, cols int) {
	if cols%16 != 0 || len(x) != len(sums)*cols {
		panic(fmt.Sprintf("kernels: %d numbers in %d rows of %d", len(x), len(sums), cols))
	}
	if s.code == nil {
		for i := range sums {
			sums[i] = 0
			for _, v := range x[i*cols : (i+1)*cols] {
				sums[i] += float32(v * v)
			}
		}
		return
	}
	buf := workspaces.Get().(*workspace)
	defer workspaces.Put(buf)
	var out [16]float32
	for i := 0; i < len(sums); i += len(out) {
		args := rowSquaresArgs{at(x[i*cols:]), unsafe.Pointer(&out), buf.aligned(), min(len(out), len(sums)-i), cols}
		s.code.call(fnRowSquares, unsafe.Pointer(&args))
		copy(sums[i:], out[:])
	}
}
