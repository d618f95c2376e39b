package kernels

import (
	"fmt"
	"unsafe"
)

type mulStoredArgs struct {
	dst, x, w, lines unsafe.Pointer
	n, k, add        int
}

// FewRows is a number of rows that leaves no lanes empty, at any level, when they are multiplied with
// few inputs: by MulStored, or by GemmNT.
const FewRows = 32

// storedLines is where the kernels of MulStored stage parts of rows, in pairs of numbers.
type storedLines [FewRows * 64]uint32

// MulStored returns products of adjacent rows of len(x) numbers, as they are stored in f16 or bf16, with
// one input: dst[i] becomes the product of row i with x, or with add that is added to it. The bits are
// those of MulPacked with the same rows packed. nil for other types, whose rows are decoded first.
func (s *Set) MulStored(name string) func(dst []float32, rows []byte, x []float32, add bool) {
	fn, decode := fnMulF16, s.DecodeRow(name)
	switch name {
	case "f16":
	case "bf16":
		fn = fnMulBf16
	default:
		return nil
	}
	return func(dst []float32, rows []byte, x []float32, add bool) {
		n, k := len(dst), len(x)
		if len(rows) != 2*n*k {
			panic(fmt.Sprintf("kernels: [%d,%d] of %s in %d bytes", n, k, name, len(rows)))
		}
		if n == 0 || k == 0 || s.code == nil {
			mulStoredPortable(decode, dst, rows, x, add)
			return
		}
		s.code.mulStored(fn, dst, rows, x, add)
	}
}

// mulStored is MulStored for n and k above zero. Here, and not where it may be inlined into another
// package, the scratch stays on the stack.
//
//go:noinline
func (c *code) mulStored(fn int, dst []float32, rows []byte, x []float32, add bool) {
	var lines storedLines
	n, k := len(dst), len(x)
	args := mulStoredArgs{x: at(x), lines: at(lines[:]), k: k}
	if add {
		args.add = 1
	}
	step := max(1, smallMul/(FewRows*k)) * FewRows
	for i := 0; i < n; i += step {
		args.n, args.dst, args.w = min(step, n-i), at(dst[i:]), at(rows[2*i*k:])
		c.call(fn, unsafe.Pointer(&args))
	}
}

// mulStoredPortable is MulStored in the order of GemmNT.
func mulStoredPortable(decode func([]float32, []byte), dst []float32, rows []byte, x []float32, add bool) {
	w := View(make([]float32, len(x)), 1, len(x))
	for i := range dst {
		decode(w.Data, rows[2*i*len(x):][:2*len(x)])
		gemmNTPortable(View(dst[i:], 1, 1), View(x, 1, len(x)), w, add)
	}
}
