package kernels

import "unsafe"

// Floats is a view of little-endian float32 numbers in place: the bytes of a mapped file, say. It
// is false when the bytes are not aligned to four, their count is not a multiple of four, or this
// machine stores numbers the other way round; then they have to be decoded.
func Floats(b []byte) ([]float32, bool) {
	one := uint16(1)
	little := *(*byte)(unsafe.Pointer(&one)) == 1
	if len(b) == 0 {
		return nil, true
	}
	p := unsafe.Pointer(unsafe.SliceData(b))
	if !little || len(b)%4 != 0 || uintptr(p)%4 != 0 {
		return nil, false
	}
	return unsafe.Slice((*float32)(p), len(b)/4), true
}
