package kernels

import (
	"fmt"
	"unsafe"
)

// block describes a stored block type: the layouts are those of ggml (ggml-common.h).
type block struct {
	elems, bytes int
	decode       func(dst []float32, src []byte) // portable, whole blocks
	fnDecode     int
}

var blocks = map[string]block{
	"f16":  {1, 2, decodeF16, fnDecodeF16},
	"bf16": {1, 2, decodeBF16, fnDecodeBf16},
	"q8_0": {32, 34, decodeQ80, fnDecodeQ80},
	"q4_0": {32, 18, decodeQ40, fnDecodeQ40},
	"q4_1": {32, 20, decodeQ41, fnDecodeQ41},
	"q5_0": {32, 22, decodeQ50, fnDecodeQ50},
	"q5_1": {32, 24, decodeQ51, fnDecodeQ51},
	"q2_k": {256, 84, decodeQ2K, fnDecodeQ2K},
	"q3_k": {256, 110, decodeQ3K, fnDecodeQ3K},
	"q4_k": {256, 144, decodeQ4K, fnDecodeQ4K},
	"q5_k": {256, 176, decodeQ5K, fnDecodeQ5K},
	"q6_k": {256, 210, decodeQ6K, fnDecodeQ6K},

	"iq4_nl": {32, 18, decodeIQ4NL, fnDecodeIq4Nl},
	"iq4_xs": {256, 136, decodeIQ4XS, fnDecodeIq4Xs},
	"mxfp4":  {32, 17, decodeMXFP4, fnDecodeMxfp4},
}

type decodeArgs struct {
	dst, src unsafe.Pointer
	n        int // blocks
}

// most is how many elements one call of a decoding kernel takes.
const most = 1 << 16

// DecodeRow returns the decoder of a stored type, by its name in package storage, or nil when there
// is no kernel for it. It turns whole blocks into real values, len(dst) of them, and gives the same
// bits at every level.
func (s *Set) DecodeRow(name string) func(dst []float32, src []byte) {
	b, ok := blocks[name]
	if !ok {
		return nil
	}
	return func(dst []float32, src []byte) {
		n := b.count(name, len(dst), len(src))
		if s.code == nil {
			b.decode(dst, src)
			return
		}
		for step := most / b.elems; n > 0; n -= step {
			args := decodeArgs{at(dst), at(src), min(n, step)}
			s.code.call(b.fnDecode, unsafe.Pointer(&args))
			if n > step {
				dst, src = dst[step*b.elems:], src[step*b.bytes:]
			}
		}
	}
}

// count is the number of blocks of elems numbers in size bytes.
func (b block) count(name string, elems, size int) int {
	n := elems / b.elems
	if elems%b.elems != 0 || size != n*b.bytes {
		panic(fmt.Sprintf("kernels: %d numbers of %s in %d bytes", elems, name, size))
	}
	return n
}
