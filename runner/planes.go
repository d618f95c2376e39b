package runner

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// codeBits is how many bits a code of a scheme takes in memory.
func codeBits(s *storage.Scheme) int {
	if s.Bits <= 4 {
		return 4
	}
	return 8
}

// loadPlanes keeps codes of four or eight bits and float32 scales. Signed codes are moved up by half
// their range, and their zero with them: differences, of which weights are made, stay what they are.
func (l *linear) loadPlanes(ctx context.Context, k *kernels.Set, t *ir.Tensor) error {
	s := t.Scheme
	if s.Bits < 2 || s.Bits > 8 {
		return fmt.Errorf("%d-bit codes cannot be executed", s.Bits)
	}
	p := &kernels.Planes{Rows: l.rows, Cols: l.cols, Bits: codeBits(s), Group: s.Group}
	if s.Group <= 0 {
		p.Group = l.cols
	}
	if s.Symmetric {
		p.Zero = 1 << (p.Bits - 1)
	}
	if err := readCodes(ctx, p, t); err != nil {
		return err
	}
	scales, err := readPlane(ctx, t, ir.PartScales)
	if err != nil {
		return err
	}
	info := storage.MustLookup(s.Scale)
	p.Scales = make([]float32, len(scales)/info.BlockBytes)
	info.Decode(p.Scales, scales)
	if !s.Symmetric {
		if p.Zeros, err = readPlane(ctx, t, ir.PartZeros); err != nil {
			return err
		}
	}
	if err := p.Check(); err != nil {
		return err
	}
	l.planes, l.rowBytes = p, kernels.PlaneBytes(p.Bits, l.cols)
	l.decode = func(dst []float32, row int) { k.DecodePlanes(dst, p, row) }
	return nil
}

// readCodes reads codes, one to a byte, a band at a time and packs them.
func readCodes(ctx context.Context, p *kernels.Planes, t *ir.Tensor) error {
	size := kernels.PlaneBytes(p.Bits, p.Cols)
	p.Codes = make([]byte, p.Rows*size)
	var buf []byte
	for _, b := range ir.Bands(p.Rows, int64(p.Cols)*4, readBand) {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := (b.Hi - b.Lo) * p.Cols
		if cap(buf) < n {
			buf = make([]byte, n)
		}
		codes := buf[:n]
		if err := t.Data.ReadRaw(ctx, ir.PartCodes, codes, b.Lo, b.Hi); err != nil {
			return err
		}
		for row := b.Lo; row < b.Hi; row, codes = row+1, codes[p.Cols:] {
			if err := packCodes(p.Codes[row*size:][:size], codes[:p.Cols], p.Bits, p.Zero); err != nil {
				return fmt.Errorf("row %d: %w", row, err)
			}
		}
	}
	return nil
}

// packCodes moves a row of codes up by zero and puts two in a byte where they take four bits.
func packCodes(dst, codes []byte, bits int, zero byte) error {
	if bits == 8 {
		for i, q := range codes {
			dst[i] = q + zero
		}
		return nil
	}
	for i, q := range codes {
		q += zero
		if q > 15 {
			return fmt.Errorf("code %d does not fit in four bits", codes[i])
		}
		dst[i/2] |= q << (i % 2 * 4)
	}
	return nil
}

// readPlane reads what stands beside codes, a band at a time; one number for the whole belongs to
// every band.
func readPlane(ctx context.Context, t *ir.Tensor, part ir.Part) ([]byte, error) {
	total, err := t.PartBytes(part, 0, t.Rows())
	if err != nil {
		return nil, err
	}
	plane, bands := make([]byte, total), ir.Bands(t.Rows(), int64(t.Cols())*4, readBand)
	if t.Scheme.Group == storage.GroupTensor {
		bands = []ir.Band{{Lo: 0, Hi: t.Rows()}}
	}
	rest := plane
	for _, b := range bands {
		n, err := t.PartBytes(part, b.Lo, b.Hi)
		if err != nil {
			return nil, err
		}
		if err := t.Data.ReadRaw(ctx, part, rest[:n], b.Lo, b.Hi); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	return plane, nil
}
