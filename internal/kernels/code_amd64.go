//go:build !noasm

package kernels

import (
	"unsafe"

	"github.com/pare-dev/pare/internal/cpu"
)

var (
	codeAVX2   = code{blobAVX2Addr(), &blobAVX2Entry}
	codeAVX512 = code{blobAVX512Addr(), &blobAVX512Entry}
)

// codeOf returns the compiled kernels of a level, or nil.
func codeOf(level cpu.Level) *code {
	switch level {
	case cpu.AVX2:
		return &codeAVX2
	case cpu.AVX512:
		return &codeAVX512
	}
	return nil
}

// invoke calls the C function at fn with one argument. It is the only way into compiled code; the
// block of arguments may live on the caller's stack, since nothing keeps it.
//
//go:noescape
func invoke(fn uintptr, args unsafe.Pointer)
