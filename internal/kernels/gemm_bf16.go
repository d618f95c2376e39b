package kernels

import (
	"context"
	"math"

	"github.com/pare-dev/pare/internal/par"
)

var (
	panelBF16  = &panelFns{fnMulPanels, fnPackRowsBf16, fnPackColsBf16, 1}
	panelPairs = &panelFns{fnMulPanelsPairs, fnPackRowsPairs, fnPackColsPairs, 2}
)

// GemmBF16 is dst = a b, or dst += a b, of matrices of bfloat16 with float32 sums: what training in mixed
// precision does. Operands are transposed as form says. Everything that is said of Gemm holds, but for
// the bits, which have two forms:
//
//   - At levels without instructions for bfloat16 the operands are widened, which is exact: the result is
//     that of Gemm of the widened operands, bit for bit. These levels agree with each other.
//   - AVX512BF16 and BF16 (of arm64) multiply pairs of numbers, those at k = 2i and 2i+1, and take what is
//     too small to be normal, operands and sums, for zero. A piece of a sum is 512 numbers long. amd64
//     adds the product of the second numbers and then that of the first, each by a fused multiply-add;
//     arm64 adds the two products and then their sum to the sum so far, and rounds both to odd.
//
// Either is within k roundings of the exact sum, each of at most 2^-23 of the magnitudes added so far.
func GemmBF16(ctx context.Context, s *Set, threads int, form Form, dst Matrix, a, b MatrixBF16, add bool) error {
	l, r := operand[uint16]{a, form == TN}, operand[uint16]{b, form != NT}
	checkProduct(dst, l, r)
	if err := ctx.Err(); err != nil || dst.Rows == 0 || dst.Cols == 0 {
		return err
	}
	switch {
	case l.k() == 0:
		clearProduct(dst, add)
		return nil
	case s.code == nil:
		return gemmPortable(ctx, threads, form, dst, widened(a), widened(b), add)
	}
	return newGemm(s, s.panelsBF16(), par.Threads(threads), dst, l, r, add).run(ctx)
}

// panelsBF16 are the kernels for bfloat16: those that multiply pairs, where the level has them.
func (s *Set) panelsBF16() *panelFns {
	if s.code[fnMulPanelsPairs] != 0 {
		return panelPairs
	}
	return panelBF16
}

// widened is a matrix in float32.
func widened(m MatrixBF16) Matrix {
	w := View(make([]float32, m.Rows*m.Cols), m.Rows, m.Cols)
	for i := range m.Rows {
		row := w.Row(i)
		for j, v := range m.Row(i) {
			row[j] = math.Float32frombits(uint32(v) << 16)
		}
	}
	return w
}
