//go:build !noasm

package kernels

import (
	"unsafe"

	"github.com/pare-dev/pare/internal/cpu"
)

var codeNEON = code{blobNEONAddr(), &blobNEONEntry}

// codeOf returns the compiled kernels of a level, or nil.
func codeOf(level cpu.Level) *code {
	if level == cpu.NEON {
		return &codeNEON
	}
	return nil
}

// invoke calls the C function at fn with one argument. It is the only way into compiled code; the
// block of arguments may live on the caller's stack, since nothing keeps it.
//
//go:noescape
func invoke(fn uintptr, args unsafe.Pointer)
