//go:build !noasm

#include "textflag.h"

// func invoke(fn uintptr, args unsafe.Pointer)
//
// ABI0 owns no register but SP here, so C may use all of them. The frame makes Go check the stack;
// what C takes below it is bounded by the generator and fits what Go keeps free for every
// assembly function.
TEXT ·invoke(SB), 0, $16-16
	MOVQ fn+0(FP), AX
	MOVQ args+8(FP), DI
	CALL AX
	RET
