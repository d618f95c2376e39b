package graph

import (
	"context"
	"fmt"
	"math"
	"unsafe"
)

// Tensor is a dense array with its elements in memory, row-major, little-endian: a constant of a graph, or
// what flows along an edge while it runs. A shape without dimensions is a scalar. Elements of a constant
// may lie in a mapped file; nobody writes to those.
type Tensor struct {
	Type  DType
	Shape []int
	// Data holds the elements, Type.Bytes(Elems()) bytes, aligned for the element where they are read
	// through Of. nil when Type is String.
	Data    []byte
	Strings []string // elements of type String
	// Drop gives the memory behind Data back where it lies in a mapped file; nil elsewhere.
	Drop func()
	// Fill makes bytes [off, off+len(dst)) of the elements of a constant that is written and never computed
	// with: what a pass makes of a weight larger than memory. Data is nil then. Any range may be asked
	// for, by several goroutines at once; a writer asks from front to back.
	Fill func(ctx context.Context, dst []byte, off int64) error
}

// MaxElems bounds the elements of one tensor, so that sizes never overflow, in bits either.
const MaxElems = math.MaxInt / 128

// Elems is the number of elements of a shape without unknown dimensions.
func Elems(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// CheckShape fails when a dimension is negative or the elements are more than MaxElems.
func CheckShape(shape []int) error {
	n := 1
	for _, d := range shape {
		if d < 0 || d > 0 && n > MaxElems/d {
			return fmt.Errorf("shape %v", shape)
		}
		n *= d
	}
	return nil
}

// Elems is the number of elements.
func (t *Tensor) Elems() int { return Elems(t.Shape) }

// New allocates a tensor of zeros, aligned for any kernel.
func New(typ DType, shape ...int) *Tensor {
	t := &Tensor{Type: typ, Shape: append([]int(nil), shape...)}
	if n := t.Elems(); typ == String {
		t.Strings = make([]string, n)
	} else {
		t.Data = Aligned(typ.Bytes(n))
	}
	return t
}

// Align is the alignment of tensors that New makes, in bytes: a cache line, and a vector of AVX-512.
const Align = 64

// Aligned allocates zeroed bytes at a multiple of Align.
func Aligned(n int) []byte {
	b := make([]byte, n+Align-1)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (Align - 1))
	return b[off : off+n : off+n]
}

// Element is a Go type that elements of a tensor can be read as: those of 16-bit floats as uint16, bools as
// uint8 or bool.
type Element interface {
	~float32 | ~float64 | ~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~complex64 | ~complex128 | ~bool
}

// Of views the elements as a slice, without a copy. The size of T must be that of the tensor's elements.
// Bytes that are not aligned for T, as some files have them, are copied.
func Of[T Element](t *Tensor) []T {
	var zero T
	size := int(unsafe.Sizeof(zero))
	n := len(t.Data) / size
	if n == 0 {
		return nil
	}
	p := unsafe.Pointer(unsafe.SliceData(t.Data))
	if uintptr(p)%unsafe.Alignof(zero) != 0 {
		b := Aligned(len(t.Data))
		copy(b, t.Data)
		p = unsafe.Pointer(unsafe.SliceData(b))
	}
	return unsafe.Slice((*T)(p), n)
}

// From makes a tensor of values, which it takes over.
func From[T Element](typ DType, values []T, shape ...int) *Tensor {
	var zero T
	t := &Tensor{Type: typ, Shape: append([]int(nil), shape...)}
	if len(values) > 0 {
		t.Data = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), len(values)*int(unsafe.Sizeof(zero)))
	}
	return t
}

// Ints reads the elements of an integer tensor (shapes, axes, indices) as int64.
func (t *Tensor) Ints() ([]int64, error) {
	switch t.Type {
	case Int64:
		return Of[int64](t), nil
	case Int32:
		return widen(Of[int32](t)), nil
	case Int16:
		return widen(Of[int16](t)), nil
	case Int8:
		return widen(Of[int8](t)), nil
	case Uint8:
		return widen(t.Data), nil
	case Uint16:
		return widen(Of[uint16](t)), nil
	case Uint32:
		return widen(Of[uint32](t)), nil
	}
	return nil, fmt.Errorf("%s where integers are needed", t.Type)
}

func widen[T ~int8 | ~int16 | ~int32 | ~uint8 | ~uint16 | ~uint32](x []T) []int64 {
	out := make([]int64, len(x))
	for i, v := range x {
		out[i] = int64(v)
	}
	return out
}
