//go:build noasm || (!amd64 && !arm64)

package kernels

import "unsafe"

// units is empty: this binary has no compiled kernels.
var units []unit

func invoke(uintptr, unsafe.Pointer) { panic("kernels: no compiled kernels in this binary") }
