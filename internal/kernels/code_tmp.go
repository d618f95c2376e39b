//go:build !noasm && (amd64 || arm64)

package kernels

import (
	"unsafe"

	"github.com/pare-dev/pare/internal/cpu"
)

func codeOf(cpu.Level) *code { return nil }

func invoke(uintptr, unsafe.Pointer) { panic("kernels: no compiled kernels in this binary") }
