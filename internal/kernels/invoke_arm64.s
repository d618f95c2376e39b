//go:build !noasm

#include "textflag.h"

// func invoke(fn uintptr, args unsafe.Pointer)
//
// The kernels leave R18 and R28 (g) alone. The frame saves the link register and makes Go check the
// stack; what C takes below it is bounded by the generator and fits what Go keeps free for every
// assembly function.
TEXT ·invoke(SB), 0, $16-16
	MOVD fn+0(FP), R9
	MOVD args+8(FP), R0
	CALL (R9)
	RET
