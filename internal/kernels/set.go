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
	shape shape // of packed operands
	conv  convShape
	codes codeShape
}

// code is the address of every compiled kernel as one level has it: its own, or that of the nearest
// level below that has it.
type code [fnCount]uintptr

// unit is a blob of compiled kernels, made of one C source for one level.
type unit struct {
	level   cpu.Level
	base    uintptr
	entries []entry
}

// entry is where a kernel begins in its blob.
type entry struct {
	fn     int
	offset uintptr
}

// call runs a compiled kernel on its argument block. The kernels read and write only what the
// block points to.
func (c *code) call(fn int, args unsafe.Pointer) { invoke(c[fn], args) }

// codeOf collects the compiled kernels of a level; nil when this binary has none for it.
func codeOf(level cpu.Level) *code {
	var c code
	found := false
	for ; level != cpu.Portable; level = level.Below() {
		for _, u := range units {
			if u.level != level {
				continue
			}
			for _, e := range u.entries {
				if c[e.fn] == 0 {
					c[e.fn] = u.base + e.offset
				}
			}
			found = true
		}
	}
	if !found {
		return nil
	}
	return &c
}

// For returns the kernels of a level. It panics when the level cannot run here: levels that a user
// typed come through cpu.Parse, which says so politely.
func For(level cpu.Level) *Set {
	if level == "" {
		level = cpu.Best()
	}
	if !slices.Contains(cpu.Available(), level) {
		panic(fmt.Sprintf("kernels: level %q does not run on this machine", level))
	}
	s := &Set{level: level, code: codeOf(level)}
	if s.code != nil {
		s.shape = s.code.shape()
		s.code.call(fnConvShape, unsafe.Pointer(&s.conv))
		s.code.call(fnQconvShape, unsafe.Pointer(&s.codes))
	}
	return s
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
