package kernels

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/pare-dev/pare/internal/cpu"
)

// Set is the kernels of one level. It is immutable and safe for concurrent use.
type Set struct {
	level cpu.Level
	code  *code // nil for Portable
}

// code locates the compiled kernels of one level: the address of the blob and the offset of each
// kernel in it.
type code struct {
	base  uintptr
	entry *[fnCount]uint32
}

// Numbers of the compiled kernels. The generator writes a table of offsets for each level, keyed by
// these names, which are the names of the C functions in mixed case.
const (
	fnDot = iota
	fnGemmNt
	fnGemmOuter
	fnGemmOuter64
	fnGramTile
	fnExp
	fnMax
	fnFind
	fnSoftmaxExp
	fnSumSquares
	fnRmsScale
	fnSiluMul
	fnRope
	fnAxpy
	fnScale
	fnAdd
	fnMul
	fnSumExp
	fnSumExpPair
	fnDecodeF16
	fnDecodeBf16
	fnDecodeQ80
	fnDecodeQ40
	fnDecodeQ41
	fnDecodeQ50
	fnDecodeQ51
	fnDecodeQ2K
	fnDecodeQ3K
	fnDecodeQ4K
	fnDecodeQ5K
	fnDecodeQ6K
	fnDotF16
	fnDotBf16
	fnDotQ80
	fnDotQ40
	fnDotQ41
	fnDotQ50
	fnDotQ51
	fnDotQ2K
	fnDotQ3K
	fnDotQ4K
	fnDotQ5K
	fnDotQ6K
	fnFitAffine
	fnFitSymmetric
	fnCount
)

// call runs a compiled kernel on its argument block. The kernels read and write only what the
// block points to.
func (c *code) call(fn int, args unsafe.Pointer) { invoke(c.base+uintptr(c.entry[fn]), args) }

// For returns the kernels of a level. It panics when the level cannot run here: levels that a user
// typed come through cpu.Parse, which says so politely.
func For(level cpu.Level) *Set {
	if level == "" {
		level = cpu.Best()
	}
	if level != cpu.Portable && (codeOf(level) == nil || !slices.Contains(cpu.Available(), level)) {
		panic(fmt.Sprintf("kernels: level %q does not run on this machine", level))
	}
	return &Set{level: level, code: codeOf(level)}
}

// All returns the kernels of every level that this machine and binary can run, Portable first.
func All() []*Set {
	var sets []*Set
	for _, l := range cpu.Available() {
		sets = append(sets, For(l))
	}
	return sets
}

// Level is the instruction-set level of these kernels.
func (s *Set) Level() cpu.Level { return s.level }

// at is the address of the first element, nil for an empty slice.
func at[T any](s []T) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(s)) }
