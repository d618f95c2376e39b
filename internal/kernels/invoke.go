//go:build !noasm && (amd64 || arm64)

package kernels

import "unsafe"

// invoke calls the C function at fn with one argument. It is the only way into compiled code; the
// block of arguments may live on the caller's stack, since nothing keeps it.
//
//go:noescape
func invoke(fn uintptr, args unsafe.Pointer)
