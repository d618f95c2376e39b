// Package safetensors reads and writes the safetensors format: an 8-byte little-endian header
// length, a JSON object that gives each tensor's dtype, shape and byte range, and the data.
//
// The reader is as strict as the reference library (huggingface/safetensors) and a little more so:
// ranges must lie end to end without gap or overlap, sizes must fit shapes, names are used once
// and metadata values are strings. It allocates in proportion to the header that is really there.
package safetensors

import (
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/pare-dev/pare/internal/storage"
)

// MaxHeader bounds the JSON header in bytes, as the reference library does.
const MaxHeader = 100_000_000

// Reasons for refusing a file.
var (
	ErrTooShort    = errors.New("file too short")
	ErrHeader      = errors.New("header is not a JSON object of tensors")
	ErrHeaderSize  = errors.New("header length out of range")
	ErrDuplicate   = errors.New("tensor named twice")
	ErrDType       = errors.New("unknown dtype")
	ErrShape       = errors.New("bad shape")
	ErrRange       = errors.New("bad byte range")
	ErrMetadata    = errors.New("__metadata__ holds something other than strings")
	ErrUnsupported = errors.New("dtype that pare cannot compute with")
)

// Tensor is one entry of the header.
type Tensor struct {
	Name   string
	DType  string // as in the file: "BF16"
	Shape  []int  // outermost first; empty for a scalar
	Offset int64  // of the first byte, from the start of the file
	Size   int64  // in bytes
}

// File is a parsed header.
type File struct {
	Tensors  []Tensor          // in the order of their data
	Metadata map[string]string // nil when absent
}

// dtypes gives the bits of an element and pare's name for the type, "" when it has none.
var dtypes = map[string]struct {
	bits int
	typ  storage.Type
}{
	"F64": {64, storage.F64}, "F32": {32, storage.F32}, "F16": {16, storage.F16}, "BF16": {16, storage.BF16},
	"F8_E4M3": {8, storage.F8E4M3}, "F8_E5M2": {8, storage.F8E5M2},
	"I64": {64, storage.I64}, "I32": {32, storage.I32}, "I16": {16, storage.I16}, "I8": {8, storage.I8},
	"U64": {64, storage.U64}, "U32": {32, storage.U32}, "U16": {16, storage.U16}, "U8": {8, storage.U8},
	"BOOL":    {8, storage.Bool},
	"F8_E8M0": {8, ""}, "F6_E2M3": {6, ""}, "F6_E3M2": {6, ""}, "F4": {4, ""}, "C64": {64, ""},
}

// Type is pare's stored type for a dtype of the format, or ErrUnsupported.
func Type(dtype string) (storage.Type, error) {
	d, ok := dtypes[dtype]
	switch {
	case !ok:
		return "", fmt.Errorf("%w %q", ErrDType, dtype)
	case d.typ == "":
		return "", fmt.Errorf("%w: %s", ErrUnsupported, dtype)
	}
	return d.typ, nil
}

// DType is the format's name of a stored type, or false when the format has none (block types).
func DType(t storage.Type) (string, bool) {
	for name, d := range dtypes {
		if d.typ == t && t != "" {
			return name, true
		}
	}
	return "", false
}

// maxEmpty bounds the other dimensions of a tensor without elements: nothing in the file backs them,
// and code that works row by row would trust them.
const maxEmpty = 1 << 20

// Size is the number of bytes that a shape takes, or an error when it does not fit or is not whole.
func Size(dtype string, shape []int) (int64, error) {
	d, ok := dtypes[dtype]
	if !ok {
		return 0, fmt.Errorf("%w %q", ErrDType, dtype)
	}
	n := uint64(d.bits)
	zero := false
	for _, dim := range shape {
		if dim < 0 {
			return 0, fmt.Errorf("%w %v: a dimension is negative", ErrShape, shape)
		}
		zero = zero || dim == 0
		if dim == 0 {
			continue // keep multiplying the rest: an overflow is refused in any order
		}
		hi, lo := bits.Mul64(n, uint64(dim))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("%w %v: more elements than can be counted", ErrShape, shape)
		}
		n = lo
	}
	if zero {
		if n/uint64(d.bits) > maxEmpty {
			return 0, fmt.Errorf("%w %v: no elements, but a huge dimension", ErrShape, shape)
		}
		return 0, nil
	}
	if n%8 != 0 {
		return 0, fmt.Errorf("%w %v: %s elements do not fill whole bytes", ErrShape, shape, dtype)
	}
	return int64(n / 8), nil
}
