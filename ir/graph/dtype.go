package graph

import (
	"errors"
	"fmt"
)

// DType is the type of the elements of a tensor, numbered as TensorProto.DataType of onnx.proto numbers
// them, so that a file's number needs no table.
type DType int32

// Types. The floats of 8 bits are named as ONNX names them: exponent and mantissa bits, FN without
// infinities, UZ without a negative zero.
const (
	Undefined  DType = 0
	Float32    DType = 1
	Uint8      DType = 2
	Int8       DType = 3
	Uint16     DType = 4
	Int16      DType = 5
	Int32      DType = 6
	Int64      DType = 7
	String     DType = 8
	Bool       DType = 9
	Float16    DType = 10
	Float64    DType = 11
	Uint32     DType = 12
	Uint64     DType = 13
	Complex64  DType = 14
	Complex128 DType = 15
	BFloat16   DType = 16
	F8E4M3FN   DType = 17
	F8E4M3FNUZ DType = 18
	F8E5M2     DType = 19
	F8E5M2FNUZ DType = 20
	Uint4      DType = 21
	Int4       DType = 22
	F4E2M1     DType = 23
	F8E8M0     DType = 24
	Uint2      DType = 25
	Int2       DType = 26
)

// info of a type: its name as people write it, and the bits of an element.
var dtypes = map[DType]struct {
	name string
	bits int
}{
	Float32: {"f32", 32}, Uint8: {"u8", 8}, Int8: {"i8", 8}, Uint16: {"u16", 16}, Int16: {"i16", 16},
	Int32: {"i32", 32}, Int64: {"i64", 64}, String: {"string", 0}, Bool: {"bool", 8}, Float16: {"f16", 16},
	Float64: {"f64", 64}, Uint32: {"u32", 32}, Uint64: {"u64", 64}, Complex64: {"c64", 64},
	Complex128: {"c128", 128}, BFloat16: {"bf16", 16}, F8E4M3FN: {"f8e4m3fn", 8}, F8E4M3FNUZ: {"f8e4m3fnuz", 8},
	F8E5M2: {"f8e5m2", 8}, F8E5M2FNUZ: {"f8e5m2fnuz", 8}, Uint4: {"u4", 4}, Int4: {"i4", 4}, F4E2M1: {"f4e2m1", 4},
	F8E8M0: {"f8e8m0", 8}, Uint2: {"u2", 2}, Int2: {"i2", 2},
}

// ErrDType is the reason when a number names no type.
var ErrDType = errors.New("no such element type")

// Known reports whether d is one of the types above.
func (d DType) Known() bool { _, ok := dtypes[d]; return ok }

// Bits is the size of an element in a tensor's bytes, 0 for strings. Elements of less than 8 bits are
// packed, the first in the low bits.
func (d DType) Bits() int { return dtypes[d].bits }

// String is the type's name: "f32".
func (d DType) String() string {
	if t, ok := dtypes[d]; ok {
		return t.name
	}
	return fmt.Sprintf("type %d", int32(d))
}

// Bytes is the size of n elements.
func (d DType) Bytes(n int) int { return (n*d.Bits() + 7) / 8 }

// Float reports whether the elements are floating-point numbers of 16 bits or more.
func (d DType) Float() bool {
	return d == Float32 || d == Float64 || d == Float16 || d == BFloat16
}

// Integer reports whether the elements are integers of 8 bits or more.
func (d DType) Integer() bool {
	switch d {
	case Uint8, Int8, Uint16, Int16, Int32, Int64, Uint32, Uint64:
		return true
	}
	return false
}
