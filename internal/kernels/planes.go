package kernels

import (
	"fmt"
	"unsafe"
)

// Planes is a matrix [Rows, Cols] of uniformly quantized weights: codes, and beside them a scale and a
// zero point for each group of consecutive columns of a row. A weight is scale * (q - zero), rounded once.
type Planes struct {
	Rows, Cols int
	Bits       int       // 4, two codes to a byte with the first in its low half, or 8
	Codes      []byte    // unsigned, Rows x PlaneBytes
	Group      int       // columns that share a scale; the last group of a row may be short
	Scales     []float32 // of every row the groups; or one for the whole matrix, of one group to a row
	Zeros      []byte    // beside Scales; nil where all are Zero
	Zero       byte
}

// PlaneBytes is how many bytes a row of codes of so many bits takes.
func PlaneBytes(bits, cols int) int { return (bits*cols + 7) / 8 }

// groups is how many scales a row has of its own.
func (p *Planes) groups() int {
	if len(p.Scales) == 1 {
		return 0
	}
	return (p.Cols + p.Group - 1) / p.Group
}

// Check says whether the parts fit together: products and decoders rely on it.
func (p *Planes) Check() error {
	switch {
	case p.Bits != 4 && p.Bits != 8, p.Rows < 1, p.Cols < 1, p.Group < 1:
		return fmt.Errorf("[%d,%d] of %d bits in groups of %d", p.Rows, p.Cols, p.Bits, p.Group)
	case len(p.Codes) != p.Rows*PlaneBytes(p.Bits, p.Cols):
		return fmt.Errorf("%d bytes of codes for [%d,%d] of %d bits", len(p.Codes), p.Rows, p.Cols, p.Bits)
	case len(p.Scales) == 1 && p.Group < p.Cols, len(p.Scales) != 1 && len(p.Scales) != p.Rows*p.groups():
		return fmt.Errorf("%d scales for [%d,%d] in groups of %d", len(p.Scales), p.Rows, p.Cols, p.Group)
	case p.Zeros != nil && len(p.Zeros) != len(p.Scales):
		return fmt.Errorf("%d zero points for %d scales", len(p.Zeros), len(p.Scales))
	}
	return nil
}

type planesArgs struct {
	dst, x, codes, scales, zeros                     unsafe.Pointer
	zero, rowBytes, rowScales, n, cols, group, toAdd int
}

// args describes n rows from the first one.
func (p *Planes) args(row, n int) planesArgs {
	if row < 0 || n < 1 || row+n > p.Rows {
		panic(fmt.Sprintf("kernels: rows %d:%d of %d", row, row+n, p.Rows))
	}
	size, groups := PlaneBytes(p.Bits, p.Cols), p.groups()
	a := planesArgs{
		codes: unsafe.Pointer(&p.Codes[row*size]), scales: unsafe.Pointer(&p.Scales[row*groups]),
		zero: int(p.Zero), rowBytes: size, rowScales: groups, n: n, cols: p.Cols, group: p.Group,
	}
	if p.Zeros != nil {
		a.zeros = unsafe.Pointer(&p.Zeros[row*groups])
	}
	return a
}

// DecodePlanes writes one row of p, which Check accepts, as real values; the bits are the same at every
// level.
func (s *Set) DecodePlanes(dst []float32, p *Planes, row int) {
	if len(dst) != p.Cols {
		panic(fmt.Sprintf("kernels: a row of %d into %d numbers", p.Cols, len(dst)))
	}
	if s.code == nil {
		p.decodePortable(dst, row)
		return
	}
	args := p.args(row, 1)
	args.dst = at(dst)
	fn := fnPlanesRow8
	if p.Bits == 4 {
		fn = fnPlanesRow4
	}
	s.code.call(fn, unsafe.Pointer(&args))
}

// MulPlanes is dst = x w^T, or dst += that, for one row x and rows [lo,lo+len(dst)) of w, which Check
// accepts. Codes become weights in registers; bits are those of GemmNT with the decoded rows.
func (s *Set) MulPlanes(dst, x []float32, w *Planes, lo int, add bool) {
	if len(x) != w.Cols {
		panic(fmt.Sprintf("kernels: %d numbers times rows of %d", len(x), w.Cols))
	}
	if s.code == nil {
		row := make([]float32, w.Cols)
		for i := range dst {
			w.decodePortable(row, lo+i)
			gemmNTPortable(View(dst[i:i+1], 1, 1), View(x, 1, w.Cols), View(row, 1, w.Cols), add)
		}
		return
	}
	fn := fnPlanesMul8
	if w.Bits == 4 {
		fn = fnPlanesMul4
	}
	const lanes = 16
	for step := max(1, planesWork/(lanes*w.Cols)) * lanes; len(dst) > 0; lo += step {
		n := min(step, len(dst))
		args := w.args(lo, n)
		args.dst, args.x = at(dst), at(x)
		if add {
			args.toAdd = 1
		}
		s.code.call(fn, unsafe.Pointer(&args))
		dst = dst[n:]
	}
}

// planesWork is how many weights one call multiplies, well below a millisecond.
const planesWork = 1 << 20
