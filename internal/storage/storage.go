// Package storage holds the number types that weights are stored in: how many elements a block
// has, how many bytes, how to decode it to real values and how to encode real values into it.
// It knows nothing of files, models or devices. Every type registers itself, with all that other
// packages ask of it: containers and targets take their lists from here, so that a new type is one
// file here and changes no other.
//
// Block types (q4_0, q4_k, ...) follow the layouts of ggml; see each file for the source. Blocks
// run along a row, which is the input dimension of a weight [out,in].
package storage

import (
	"errors"
	"fmt"
	"sort"
)

// Type names a stored number type. The zero value is not a type.
type Type string

// ErrNotBlock is the reason when a row length does not divide into the blocks of a type.
var ErrNotBlock = errors.New("row length is not a multiple of the block")

// Info is everything known about a stored type.
type Info struct {
	Type       Type
	Doc        string // one line: layout and meaning
	BlockElems int    // elements in a block, along the row; 1 for plain numbers
	BlockBytes int    // bytes in a block
	Float      bool   // a plain floating-point type, as opposed to an integer or a block type

	GGML int // ggml type id in GGUF files, -1 when GGUF has no such type
	// FileType is llama.cpp's llama_ftype of a file whose weights are mostly of this type (for the K
	// types that of the mix which its loader guesses), -1 when there is none. Every type that its CPU
	// kernels multiply with has one, and no other.
	FileType int
	// Fallback is what a weight is stored as instead when its rows do not divide into blocks, and F16
	// when the blocks of that do not fit either; "" for types without blocks.
	Fallback Type

	// Decode writes the real values of whole blocks: len(src) = n*BlockBytes, len(dst) = n*BlockElems.
	// It is the reference that every faster decoder is compared with, bit for bit.
	Decode func(dst []float32, src []byte)

	// Encode writes rows (or any number of whole blocks) as bytes; nil when pare does not write the
	// type. importance is nil or one weight per element of a row, and then the row of all of them:
	// how much an error of that input matters. Types that have no use for it ignore it. Values that
	// are not finite are refused with fault.ErrNotFinite.
	Encode func(dst []byte, src []float32, importance []float32) error

	// Grid and SetCodes exist for block types on which codes can be chosen after the scales
	// (GPTQ). Grid reads the scales of one encoded row; SetCodes replaces the codes of the row
	// and leaves its scales. Both are nil otherwise.
	Grid     func(g *Grid, row []byte)
	SetCodes func(row []byte, codes []int8)
}

// Grid is the set of real values that the elements of an encoded row can take: element i decodes
// to Scale[i/Sub]*q + Min[i/Sub] for an integer q in [Lo,Hi]. The product and the sum are rounded
// to float32 one after the other, as Decode does.
type Grid struct {
	Sub    int // elements that share a scale
	Lo, Hi int
	Scale  []float32
	Min    []float32 // nil when the type has no minimum
}

var (
	byType = map[Type]*Info{}
	byGGML = map[uint32]*Info{}
)

// register adds a type; called from init functions of this package only.
func register(i Info) {
	if _, dup := byType[i.Type]; dup {
		panic("storage: duplicate type " + string(i.Type))
	}
	byType[i.Type] = &i
	if i.GGML >= 0 {
		id := uint32(i.GGML)
		if dup := byGGML[id]; dup != nil {
			panic(fmt.Sprintf("storage: %s and %s have one ggml id", dup.Type, i.Type))
		}
		byGGML[id] = &i
	}
}

// Read is Decode by the kernels of this machine where there are any: the same values, faster.
func (i *Info) Read(dst []float32, src []byte) {
	if decode := vectors.DecodeRow(string(i.Type)); decode != nil {
		decode(dst, src)
		return
	}
	i.Decode(dst, src)
}

// Lookup returns the description of a type, or false.
func Lookup(t Type) (*Info, bool) {
	i, ok := byType[t]
	return i, ok
}

// MustLookup is Lookup for types known to exist.
func MustLookup(t Type) *Info {
	i, ok := byType[t]
	if !ok {
		panic("storage: unknown type " + string(t))
	}
	return i
}

// ByGGML returns the type with the given ggml id, or false.
func ByGGML(id uint32) (*Info, bool) {
	i, ok := byGGML[id]
	return i, ok
}

// All lists every type, sorted by name.
func All() []*Info {
	all := make([]*Info, 0, len(byType))
	for _, i := range byType {
		all = append(all, i)
	}
	sort.Slice(all, func(a, b int) bool { return all[a].Type < all[b].Type })
	return all
}

// RowBytes is the size of a row of cols elements. It fails with ErrNotBlock when the row does not
// divide into blocks.
func (t Type) RowBytes(cols int) (int64, error) {
	i, ok := byType[t]
	if !ok {
		return 0, fmt.Errorf("unknown stored type %q", string(t))
	}
	if cols%i.BlockElems != 0 {
		return 0, fmt.Errorf("%w: %d columns, %s blocks hold %d", ErrNotBlock, cols, t, i.BlockElems)
	}
	return int64(cols/i.BlockElems) * int64(i.BlockBytes), nil
}

// Fit is the type that a row of cols elements can be stored in when t was wanted: t itself, what
// stands in for it, or F16.
func (t Type) Fit(cols int) Type {
	for _, typ := range []Type{t, MustLookup(t).Fallback} {
		if i, ok := byType[typ]; ok && cols%i.BlockElems == 0 {
			return typ
		}
	}
	return F16
}

// Weights reports whether GGUF runtimes compute with weights of this type on CPUs.
func (i *Info) Weights() bool { return i.FileType >= 0 }

// Bits is the number of bits an element takes on average, scales included.
func (i *Info) Bits() float64 { return 8 * float64(i.BlockBytes) / float64(i.BlockElems) }
