package eval

import (
	"math"
	"unsafe"

	"github.com/pare-dev/pare/ir/graph"
)

// number is an element that Go computes with.
type number interface {
	float32 | float64 | integer
}

type integer interface {
	int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

type float interface{ float32 | float64 }

// recode writes the elements of src into dst, of another type and the same number of elements, as Cast
// does with its defaults. Strings are not for it.
func recode(dst, src *graph.Tensor) { recodeAs(dst, src, rounding{true, "up"}) }

// chunk is the elements that pass through a type in between at a time.
const chunk = 512

func recodeAs(dst, src *graph.Tensor, r rounding) {
	if dst.Type == src.Type {
		copy(dst.Data, src.Data)
		return
	}
	n := src.Elems()
	switch from, to := staged(src.Type), staged(dst.Type); {
	case !from && !to:
		convertAll(dst, src)
	case dst.Type.Bits() == src.Type.Bits() && packed(dst.Type) && packed(src.Type):
		copy(dst.Data, src.Data)
	case from && !packed(src.Type) && dst.Type == graph.Float32:
		widenFloats(graph.Of[float32](dst)[:n], src, 0)
	case to && !packed(dst.Type) && src.Type == graph.Float32:
		narrowFloats(dst, 0, graph.Of[float32](src)[:n], r)
	default:
		var a, b [chunk]float64
		for lo := 0; lo < n; lo += chunk {
			m := min(chunk, n-lo)
			// the elements as numbers that Go has
			x := piecewise(src, lo, m)
			if from {
				x = graph.Tensor{Type: stage(src.Type), Data: bytesOf(a[:])}
				unstage(&x, src, lo, m)
			}
			if !to {
				y := piecewise(dst, lo, m)
				convertAll(&y, &x)
				continue
			}
			y := graph.Tensor{Type: stage(dst.Type), Data: bytesOf(b[:])}
			if !packed(dst.Type) && x.Type != graph.Float32 {
				y.Type = graph.Float64 // so that a number is rounded once
			}
			y.Data = y.Data[:y.Type.Bytes(m)]
			if y.Type == x.Type {
				y = x
			} else {
				convertAll(&y, &x)
			}
			switch {
			case packed(dst.Type):
				bits := dst.Type.Bits()
				for i, v := range y.Data[:m] {
					putBits(dst.Data, lo+i, bits, int(v))
				}
			case y.Type == graph.Float64:
				narrowFloats(dst, lo, graph.Of[float64](&y)[:m], r)
			default:
				narrowFloats(dst, lo, graph.Of[float32](&y)[:m], r)
			}
		}
	}
}

// bytesOf is the memory of numbers.
func bytesOf(x []float64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 8*len(x))
}

// piecewise is elements [lo,lo+n) of a tensor whose elements are whole bytes.
func piecewise(t *graph.Tensor, lo, n int) graph.Tensor {
	if staged(t.Type) {
		return graph.Tensor{}
	}
	size := t.Type.Bits() / 8
	return graph.Tensor{Type: t.Type, Data: t.Data[lo*size : (lo+n)*size]}
}

// staged reports whether a type is none that Go computes with.
func staged(t graph.DType) bool { return packed(t) || stage(t) != t }

// packed reports whether elements are integers of less than 8 bits.
func packed(t graph.DType) bool {
	return t == graph.Int4 || t == graph.Uint4 || t == graph.Int2 || t == graph.Uint2
}

// stage is the type through which elements of a type are computed.
func stage(t graph.DType) graph.DType {
	switch t {
	case graph.Int4, graph.Int2:
		return graph.Int8
	case graph.Uint4, graph.Uint2:
		return graph.Uint8
	case graph.Float16, graph.BFloat16, graph.F8E4M3FN, graph.F8E4M3FNUZ, graph.F8E5M2, graph.F8E5M2FNUZ, graph.F8E8M0, graph.F4E2M1:
		return graph.Float32
	}
	return t
}

// unstage reads m elements from lo on.
func unstage(x, src *graph.Tensor, lo, m int) {
	x.Data = x.Data[:x.Type.Bytes(m)]
	if !packed(src.Type) {
		widenFloats(graph.Of[float32](x), src, lo)
		return
	}
	bits := src.Type.Bits()
	for i := range m {
		v := getBits(src.Data, lo+i, bits)
		if x.Type == graph.Int8 { // the sign bit fills the byte
			v = v << (8 - bits)
			x.Data[i] = byte(int8(v) >> (8 - bits))
			continue
		}
		x.Data[i] = byte(v)
	}
}

// convertAll converts between types that Go has, and bool.
func convertAll(dst, src *graph.Tensor) {
	switch dst.Type {
	case graph.Float32:
		toFloat(graph.Of[float32](dst), src)
	case graph.Float64:
		toFloat(graph.Of[float64](dst), src)
	case graph.Int8:
		toInt(graph.Of[int8](dst), src)
	case graph.Int16:
		toInt(graph.Of[int16](dst), src)
	case graph.Int32:
		toInt(graph.Of[int32](dst), src)
	case graph.Int64:
		toInt(graph.Of[int64](dst), src)
	case graph.Uint8:
		toInt(graph.Of[uint8](dst), src)
	case graph.Uint16:
		toInt(graph.Of[uint16](dst), src)
	case graph.Uint32:
		toInt(graph.Of[uint32](dst), src)
	case graph.Uint64:
		toInt(graph.Of[uint64](dst), src)
	case graph.Bool:
		toBool(dst.Data, src)
	}
}

func toFloat[D float](dst []D, src *graph.Tensor) {
	switch src.Type {
	case graph.Float32:
		plain(dst, graph.Of[float32](src))
	case graph.Float64:
		plain(dst, graph.Of[float64](src))
	default:
		fromInt(dst, src)
	}
}

func toInt[D integer](dst []D, src *graph.Tensor) {
	switch src.Type {
	case graph.Float32:
		truncate(dst, graph.Of[float32](src))
	case graph.Float64:
		truncate(dst, graph.Of[float64](src))
	default:
		fromInt(dst, src)
	}
}

func fromInt[D number](dst []D, src *graph.Tensor) {
	switch src.Type {
	case graph.Int8:
		plain(dst, graph.Of[int8](src))
	case graph.Int16:
		plain(dst, graph.Of[int16](src))
	case graph.Int32:
		plain(dst, graph.Of[int32](src))
	case graph.Int64:
		plain(dst, graph.Of[int64](src))
	case graph.Uint8, graph.Bool:
		plain(dst, src.Data)
	case graph.Uint16:
		plain(dst, graph.Of[uint16](src))
	case graph.Uint32:
		plain(dst, graph.Of[uint32](src))
	case graph.Uint64:
		plain(dst, graph.Of[uint64](src))
	}
}

func toBool(dst []byte, src *graph.Tensor) {
	switch src.Type {
	case graph.Float32:
		nonzero(dst, graph.Of[float32](src))
	case graph.Float64:
		nonzero(dst, graph.Of[float64](src))
	case graph.Int8:
		nonzero(dst, graph.Of[int8](src))
	case graph.Int16:
		nonzero(dst, graph.Of[int16](src))
	case graph.Int32:
		nonzero(dst, graph.Of[int32](src))
	case graph.Int64:
		nonzero(dst, graph.Of[int64](src))
	case graph.Uint8, graph.Bool:
		nonzero(dst, src.Data)
	case graph.Uint16:
		nonzero(dst, graph.Of[uint16](src))
	case graph.Uint32:
		nonzero(dst, graph.Of[uint32](src))
	case graph.Uint64:
		nonzero(dst, graph.Of[uint64](src))
	}
}

func plain[D, S number](dst []D, src []S) {
	for i, v := range src {
		dst[i] = D(v)
	}
}

func nonzero[S number](dst []byte, src []S) {
	for i, v := range src {
		dst[i] = 0
		if v != 0 {
			dst[i] = 1
		}
	}
}

// truncate rounds toward zero. What an int64 does not hold would differ from machine to machine; here it
// becomes the least int64, of which narrower types take the low bits, as on x86.
func truncate[D integer, S float](dst []D, src []S) {
	for i, s := range src {
		v := float64(s)
		switch {
		case v > -(1<<63) && v < 1<<63:
			dst[i] = D(int64(v))
		case v >= 1<<63 && v < 1<<64:
			dst[i] = D(uint64(v))
		default:
			least := int64(math.MinInt64)
			dst[i] = D(least)
		}
	}
}
