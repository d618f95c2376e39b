package kernels

import (
	"fmt"
	"unsafe"
)

// DotRows returns DotRow for many adjacent rows at once: dst[i] becomes the product of row i of rows
// with x. Each element has the bits that DotRow gives; what is saved is the cost of a call a row,
// which matters when rows are a few hundred numbers short.
func (s *Set) DotRows(name string) func(dst []float32, rows []byte, x []float32) {
	b, ok := blocks[name]
	if !ok {
		return nil
	}
	return func(dst []float32, rows []byte, x []float32) {
		n := len(x) / b.elems
		size := n * b.bytes
		if len(x)%b.elems != 0 || len(rows) != len(dst)*size {
			panic(fmt.Sprintf("kernels: %d rows of %d numbers of %s in %d bytes", len(dst), len(x), name, len(rows)))
		}
		if s.code == nil {
			for i := range dst {
				dst[i] = b.dotPortable(rows[i*size:(i+1)*size], x)
			}
			return
		}
		args := dotRowArgs{x: at(x), n: n}
		for i := range dst {
			args.row = at(rows[i*size:])
			s.code.call(b.fnDot, unsafe.Pointer(&args))
			dst[i] = args.out
		}
	}
}
