package kernels

import (
	"fmt"
	"sync"
	"unsafe"
)

// encoder is how the kernels write a stored type: by which kernel, and which of its types it is.
type encoder struct {
	elems, bytes int
	plain        int // kernel without importance, -1: none
	weighted     int // kernel with importance
	kind         int32
}

var encoders = map[string]encoder{
	"q4_0": {32, 18, -1, fnEncodeSymmetric, 0},
	"q4_1": {32, 20, -1, fnEncodeAffine, 0},
	"q5_0": {32, 22, -1, fnEncodeSymmetric, 1},
	"q5_1": {32, 24, -1, fnEncodeAffine, 1},
	"q2_k": {256, 84, fnEncodeQ2K, fnEncodeQ2K, 0},
	"q3_k": {256, 110, fnEncodeQ3K, fnEncodeQ3KWeighted, 0},
	"q6_k": {256, 210, fnEncodeQ6K, fnEncodeQ6K, 0},
	"q4_k": {256, 144, fnEncodeSixes, fnEncodeSixes, 0},
	"q5_k": {256, 176, fnEncodeSixes, fnEncodeSixes, 1},
}

type encodeArgs struct {
	dst, x, qw, scratch unsafe.Pointer
	n                   int
	sigma2              float32
	kind                int32
}

// scratches are the work space of searches, struct group and what stands beside it in the C sources.
var scratches = sync.Pool{New: func() any { return new([scratchFloats + 32]float32) }}

const scratchFloats = 6 << 10

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
	if fn < 0 {
		return false
	}
	buf := scratches.Get().(*[scratchFloats + 32]float32)
	defer scratches.Put(buf)
	args := encodeArgs{scratch: unsafe.Pointer(&buf[-(uintptr(unsafe.Pointer(buf))/4)%32]), sigma2: sigma2, kind: e.kind}
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
