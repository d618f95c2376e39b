package storage

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/x448/float16"

	"github.com/pare-dev/pare/internal/fault"
)

// Plain number types, little endian, as safetensors and GGUF store them.
const (
	F64    Type = "f64"
	F32    Type = "f32"
	F16    Type = "f16"  // IEEE 754 binary16
	BF16   Type = "bf16" // the upper half of a float32
	F8E4M3 Type = "f8_e4m3"
	F8E5M2 Type = "f8_e5m2"
	I8     Type = "i8"
	U8     Type = "u8"
	I16    Type = "i16"
	U16    Type = "u16"
	I32    Type = "i32"
	U32    Type = "u32"
	I64    Type = "i64"
	U64    Type = "u64"
	Bool   Type = "bool"
)

func init() {
	le := binary.LittleEndian
	plain := func(t Type, doc string, size, ggml, fileType int, float bool, get func(b []byte) float32, put func(b []byte, v float32)) {
		info := Info{Type: t, Doc: doc, BlockElems: 1, BlockBytes: size, GGML: ggml, FileType: fileType, Float: float}
		info.Decode = func(dst []float32, src []byte) {
			for i := range dst {
				dst[i] = get(src[i*size:])
			}
		}
		if put != nil {
			info.Encode = func(dst []byte, src []float32, _ []float32) error {
				if len(dst) != len(src)*size {
					return fmt.Errorf("%s: %d bytes for %d values, want %d", t, len(dst), len(src), len(src)*size)
				}
				if top, _ := vectors.Extent(src); !(top <= math.MaxFloat32) {
					return fault.ErrNotFinite
				}
				if !vectors.Encode(string(t), dst, src, nil, 0) {
					for i, v := range src {
						put(dst[i*size:], v)
					}
				}
				return nil
			}
		}
		register(info)
	}
	plain(F64, "IEEE 754 double precision; decoding rounds to float32", 8, 28, -1, true,
		func(b []byte) float32 { return float32(math.Float64frombits(le.Uint64(b))) },
		func(b []byte, v float32) { le.PutUint64(b, math.Float64bits(float64(v))) })
	plain(F32, "IEEE 754 single precision", 4, 0, 0, true,
		func(b []byte) float32 { return math.Float32frombits(le.Uint32(b)) },
		func(b []byte, v float32) { le.PutUint32(b, math.Float32bits(v)) })
	plain(F16, "IEEE 754 half precision", 2, 1, 1, true,
		func(b []byte) float32 { return F16ToF32(le.Uint16(b)) },
		func(b []byte, v float32) { le.PutUint16(b, F32ToF16(v)) })
	plain(BF16, "bfloat16: the upper 16 bits of a float32", 2, 30, 32, true,
		func(b []byte) float32 { return math.Float32frombits(uint32(le.Uint16(b)) << 16) },
		func(b []byte, v float32) { le.PutUint16(b, F32ToBF16(v)) })
	plain(F8E4M3, "8-bit float, 4 exponent and 3 mantissa bits, no infinities, largest 448 (E4M3FN)", 1, -1, -1, true,
		func(b []byte) float32 { return F8E4M3ToF32(b[0]) }, func(b []byte, v float32) { b[0] = F32ToF8E4M3(v) })
	plain(F8E5M2, "8-bit float, 5 exponent and 2 mantissa bits, largest 57344", 1, -1, -1, true,
		func(b []byte) float32 { return F8E5M2ToF32(b[0]) }, func(b []byte, v float32) { b[0] = F32ToF8E5M2(v) })
	plain(I8, "signed byte", 1, 24, -1, false, func(b []byte) float32 { return float32(int8(b[0])) }, nil)
	plain(U8, "unsigned byte", 1, -1, -1, false, func(b []byte) float32 { return float32(b[0]) }, nil)
	plain(I16, "signed 16-bit integer", 2, 25, -1, false, func(b []byte) float32 { return float32(int16(le.Uint16(b))) }, nil)
	plain(U16, "unsigned 16-bit integer", 2, -1, -1, false, func(b []byte) float32 { return float32(le.Uint16(b)) }, nil)
	plain(I32, "signed 32-bit integer", 4, 26, -1, false, func(b []byte) float32 { return float32(int32(le.Uint32(b))) }, nil)
	plain(U32, "unsigned 32-bit integer", 4, -1, -1, false, func(b []byte) float32 { return float32(le.Uint32(b)) }, nil)
	plain(I64, "signed 64-bit integer", 8, 27, -1, false, func(b []byte) float32 { return float32(int64(le.Uint64(b))) }, nil)
	plain(U64, "unsigned 64-bit integer", 8, -1, -1, false, func(b []byte) float32 { return float32(le.Uint64(b)) }, nil)
	plain(Bool, "a byte that is 0 or 1", 1, -1, -1, false, func(b []byte) float32 { return float32(b[0]) }, nil)
	register(Info{Type: Planes, Doc: "uniform codes, one byte each, beside planes of scales and zero points", BlockElems: 1, BlockBytes: 1, GGML: -1, FileType: -1})
}

// F16ToF32 widens a half exactly.
func F16ToF32(h uint16) float32 { return float16.Frombits(h).Float32() }

// F32ToF16 rounds to the nearest half, ties to even; values beyond the range become infinite.
func F32ToF16(v float32) uint16 { return float16.Fromfloat32(v).Bits() }

// F32ToBF16 rounds to the nearest bfloat16, ties to even; NaN stays a quiet NaN.
func F32ToBF16(v float32) uint16 {
	b := math.Float32bits(v)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 64
	}
	return uint16((b + 0x7fff + (b>>16)&1) >> 16)
}

// F8E4M3ToF32 widens an E4M3FN byte: bias 7, 0x7F and 0xFF are NaN, there are no infinities.
func F8E4M3ToF32(b byte) float32 {
	e, m := int(b>>3)&15, int(b&7)
	var v float64
	switch {
	case b&0x7f == 0x7f:
		return float32(math.NaN())
	case e == 0:
		v = math.Ldexp(float64(m), -9)
	default:
		v = math.Ldexp(float64(8+m), e-10)
	}
	if b&0x80 != 0 {
		v = -v
	}
	return float32(v)
}

// F8E5M2ToF32 widens an E5M2 byte: the upper half of an IEEE half.
func F8E5M2ToF32(b byte) float32 { return F16ToF32(uint16(b) << 8) }

// F32ToF8E4M3 rounds to nearest, ties to even, and saturates at ±448.
func F32ToF8E4M3(v float32) byte { return toF8(v, 3, -6, 448, 0x7e, 0x7f) }

// F32ToF8E5M2 rounds to nearest, ties to even, and saturates at ±57344.
func F32ToF8E5M2(v float32) byte { return toF8(v, 2, -14, 57344, 0x7b, 0x7f) }

// toF8 rounds |v| to mant mantissa bits with smallest normal exponent emin.
func toF8(v float32, mant, emin int, most float64, mostCode, nan byte) byte {
	sign := byte(math.Float32bits(v) >> 31 << 7)
	a := math.Abs(float64(v))
	switch {
	case math.IsNaN(a):
		return sign | nan
	case a >= most:
		return sign | mostCode
	case a == 0:
		return sign
	}
	_, e := math.Frexp(a) // a = f * 2^e, f in [0.5,1)
	e = max(e-1, emin)
	steps := int(math.RoundToEven(math.Ldexp(a, mant-e))) // in units of 2^(e-mant)
	// steps may reach 2^(mant+1), which carries into the exponent by plain addition
	return sign | byte((e-emin)<<mant+steps)
}
