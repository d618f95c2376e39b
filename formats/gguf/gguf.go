// Package gguf reads and writes GGUF, the container of ggml and llama.cpp: typed key/values, then
// tensor names with shapes and types, then aligned data. Versions 2 and 3 are read, 3 is written,
// little endian. Source: ggml's docs/gguf.md and gguf.cpp.
//
// The file stores dimensions innermost first; this package turns them round, so that a weight
// [out,in] is [out,in].
package gguf

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"

	"github.com/pare-dev/pare/internal/storage"
)

// Reasons for refusing a file.
var (
	ErrMagic     = errors.New("not a GGUF file")
	ErrVersion   = errors.New("GGUF version is not supported")
	ErrBigEndian = errors.New("big-endian GGUF files are not supported")
	ErrTruncated = errors.New("file is cut short")
	ErrCount     = errors.New("count does not fit into the file")
	ErrValue     = errors.New("bad metadata value")
	ErrDuplicate = errors.New("name used twice")
	ErrName      = errors.New("bad name")
	ErrShape     = errors.New("bad shape")
	ErrType      = errors.New("unknown tensor type")
	ErrRange     = errors.New("bad tensor range")
	ErrAlignment = errors.New("bad alignment")
)

// MaxName is the longest tensor name in bytes that ggml takes.
const MaxName = 63

// DefaultAlignment of the data, in bytes, when general.alignment is absent.
const DefaultAlignment = 32

// KV is one metadata entry. Value is a uint8, int8, uint16, int16, uint32, int32, float32, bool,
// string, uint64, int64, float64, a slice of one of these, or []any for an array of arrays.
type KV struct {
	Key   string
	Value any
}

// Tensor is one tensor of a file.
type Tensor struct {
	Name   string
	Type   uint32 // ggml type id
	Shape  []int  // outermost first
	Offset int64  // of the first byte, from the start of the file
	Size   int64  // in bytes
}

// File is everything but the data.
type File struct {
	Version   uint32
	Alignment int64
	KV        []KV     // in file order
	Tensors   []Tensor // in file order

	keys  map[string]int
	names map[string]int
}

// Value returns the value of a key.
func (f *File) Value(key string) (any, bool) {
	i, ok := f.keys[key]
	if !ok {
		return nil, false
	}
	return f.KV[i].Value, true
}

// Tensor returns the tensor of a name.
func (f *File) Tensor(name string) (*Tensor, bool) {
	i, ok := f.names[name]
	if !ok {
		return nil, false
	}
	return &f.Tensors[i], true
}

// Shape returns the shape of a tensor, outermost dimension first.
func (f *File) Shape(name string) ([]int, bool) {
	t, ok := f.Tensor(name)
	if !ok {
		return nil, false
	}
	return t.Shape, true
}

// layout is the name and block of a ggml type.
type layout struct {
	name         string
	elems, bytes int
}

// foreign are the ggml types that files may hold and package storage need not know, with the sizes of
// ggml.c's type traits: a file that has one can be listed, and its ranges checked.
var foreign = map[uint32]layout{
	9: {"q8_1", 32, 36}, 15: {"q8_k", 256, 292}, 16: {"iq2_xxs", 256, 66}, 17: {"iq2_xs", 256, 74}, 18: {"iq3_xxs", 256, 98},
	19: {"iq1_s", 256, 50}, 21: {"iq3_s", 256, 110}, 22: {"iq2_s", 256, 82}, 29: {"iq1_m", 256, 56}, 34: {"tq1_0", 256, 54},
	35: {"tq2_0", 256, 66}, 40: {"nvfp4", 64, 36}, 41: {"q1_0", 128, 18}, 42: {"q2_0", 64, 18},
}

// layoutOf finds a type by its id.
func layoutOf(id uint32) (layout, bool) {
	if i, ok := storage.ByGGML(id); ok {
		return layout{string(i.Type), i.BlockElems, i.BlockBytes}, true
	}
	t, ok := foreign[id]
	return t, ok
}

// TypeName is ggml's name of a type id in lower case.
func TypeName(id uint32) string {
	if t, ok := layoutOf(id); ok {
		return t.name
	}
	return "type " + strconv.FormatUint(uint64(id), 10)
}

// maxEmpty bounds the other dimensions of a tensor without elements: nothing in the file backs them,
// and code that works row by row would trust them.
const maxEmpty = 1 << 20

// size is the number of bytes of a tensor, checked against overflow.
func size(id uint32, shape []int) (int64, error) {
	t, ok := layoutOf(id)
	if !ok {
		return 0, fmt.Errorf("%w: id %d", ErrType, id)
	}
	n, zero := uint64(1), false
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("%w: %v", ErrShape, shape)
		}
		if zero = zero || d == 0; d == 0 {
			continue
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > math.MaxInt64/512 { // no block is larger than 512 bytes
			return 0, fmt.Errorf("%w: %v has more elements than can be counted", ErrShape, shape)
		}
		n = lo
	}
	if zero {
		if n > maxEmpty {
			return 0, fmt.Errorf("%w: %v has no elements, but a huge dimension", ErrShape, shape)
		}
		return 0, nil
	}
	row := 1
	if len(shape) > 0 {
		row = shape[len(shape)-1]
	}
	if row%t.elems != 0 {
		return 0, fmt.Errorf("%w: rows of %d elements are not whole blocks of %s, which hold %d", ErrShape, row, t.name, t.elems)
	}
	return int64(n) / int64(t.elems) * int64(t.bytes), nil
}

// pad is the number of bytes from n to the next multiple of alignment.
func pad(n, alignment int64) int64 { return (alignment - n%alignment) % alignment }
