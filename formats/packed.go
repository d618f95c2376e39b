package formats

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// compressed-tensors stores codes of 4 and 8 bits as unsigned numbers (signed code plus half the
// range) in int32 words, the first element in the lowest bits. In a little-endian file that is the
// low nibble of a byte first, so words need not be looked at. A row is padded to whole words.
// Zero points are packed likewise, but down the columns of [rows, groups].
// Source: compressed_tensors/compressors/pack_quantized/helpers.py, version 0.20.

// packedRow is the number of bytes of a packed row, or of a packed column of zero points.
func packedRow(n, bits int) int { return (n*bits + 31) / 32 * 4 }

// packedSource gives the planes of a tensor that is stored so. Loose codes (int-quantized) are
// int8, one byte each; their zero points too.
type packedSource struct {
	rows, cols   int
	scheme       storage.Scheme
	loose        bool
	words, scale *ir.Tensor
	zero         *ir.Tensor // nil for symmetric schemes
}

// ReadRaw implements ir.Source.
func (s *packedSource) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	if err := ir.CheckRange(s.rows, lo, hi); err != nil {
		return err
	}
	switch part {
	case ir.PartCodes:
		return s.codes(ctx, dst, lo, hi)
	case ir.PartScales:
		if s.scheme.Group == storage.GroupTensor {
			lo, hi = 0, 1
		}
		return s.scale.Data.ReadRaw(ctx, ir.PartData, dst, lo, hi)
	case ir.PartZeros:
		if s.zero != nil {
			return s.zeros(ctx, dst, lo, hi)
		}
	}
	return fmt.Errorf("no part %q", part)
}

func (s *packedSource) codes(ctx context.Context, dst []byte, lo, hi int) error {
	bits, row := s.scheme.Bits, packedRow(s.cols, s.scheme.Bits)
	flip := byte(0) // from unsigned to signed codes: the sign bit turns, as half the range is its value
	if s.loose {
		bits, row = 8, s.cols
	}
	if s.scheme.Symmetric != s.loose {
		flip = 1 << (bits - 1)
	}
	step := max(1, readChunk/max(row, 1))
	buf := make([]byte, min(step, hi-lo)*row)
	for r := lo; r < hi; r += step {
		n := min(step, hi-r)
		if err := s.words.Data.ReadRaw(ctx, ir.PartData, buf[:n*row], r, r+n); err != nil {
			return err
		}
		for i := range n {
			unpack(dst[(r-lo+i)*s.cols:(r-lo+i+1)*s.cols], buf[i*row:], bits, flip, s.scheme.Symmetric)
		}
	}
	return nil
}

// unpack takes len(dst) codes of bits 2, 4 or 8 out of src. Signed codes are extended to a byte.
func unpack(dst, src []byte, bits int, flip byte, signed bool) {
	per, mask := 8/bits, byte(1<<bits-1)
	for i := range dst {
		c := src[i/per]>>(i%per*bits)&mask ^ flip
		if signed {
			c = byte(int8(c<<(8-bits)) >> (8 - bits)) //nolint:gosec // arithmetic shift of the same bits
		}
		dst[i] = c
	}
}

// pack is the reverse of unpack; the rest of dst is cleared.
func pack(dst, src []byte, bits int, flip byte) {
	per, mask := 8/bits, byte(1<<bits-1)
	clear(dst)
	for i, c := range src {
		dst[i/per] |= (c ^ flip) & mask << (i % per * bits)
	}
}

func (s *packedSource) zeros(ctx context.Context, dst []byte, lo, hi int) error {
	groups := s.scheme.Groups(s.cols)
	if s.loose {
		if err := s.zero.Data.ReadRaw(ctx, ir.PartData, dst, lo, hi); err != nil {
			return err
		}
		for i := range dst {
			dst[i] ^= 0x80
		}
		return nil
	}
	per := 32 / s.scheme.Bits // rows in a word
	first, last := lo/per, (hi+per-1)/per
	buf := make([]byte, (last-first)*groups*4)
	if err := s.zero.Data.ReadRaw(ctx, ir.PartData, buf, first, last); err != nil {
		return err
	}
	mask := uint32(1)<<s.scheme.Bits - 1
	for r := lo; r < hi; r++ {
		for g := range groups {
			word := binary.LittleEndian.Uint32(buf[((r/per-first)*groups+g)*4:])
			dst[(r-lo)*groups+g] = byte(word >> (r % per * s.scheme.Bits) & mask) //nolint:gosec // masked to a byte
		}
	}
	return nil
}

// ReadRows implements ir.Source: w = scale * (code - zero), rounded once.
func (s *packedSource) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if err := ir.CheckRange(s.rows, lo, hi); err != nil {
		return err
	}
	groups := s.scheme.Groups(s.cols)
	size := s.scheme.Group
	if size <= 0 {
		size = s.cols
	}
	step := max(1, readChunk/max(s.cols, 1))
	codes := make([]byte, min(step, hi-lo)*s.cols)
	scales := make([]float32, min(step, hi-lo)*groups)
	zeros := make([]byte, len(scales))
	for r := lo; r < hi; r += step {
		n := min(step, hi-r)
		if err := s.codes(ctx, codes[:n*s.cols], r, r+n); err != nil {
			return err
		}
		if err := s.readScales(ctx, scales[:n*groups], r, r+n); err != nil {
			return err
		}
		if s.zero != nil {
			if err := s.zeros(ctx, zeros[:n*groups], r, r+n); err != nil {
				return err
			}
		}
		for i := range n {
			out := dst[(r-lo+i)*s.cols:]
			for c := range s.cols {
				q, g := codes[i*s.cols+c], i*groups+c/size
				v := int(q) - int(zeros[g])
				if s.scheme.Symmetric {
					v = int(int8(q)) //nolint:gosec // the code is signed
				}
				out[c] = scales[g] * float32(v)
			}
		}
	}
	return nil
}

func (s *packedSource) readScales(ctx context.Context, dst []float32, lo, hi int) error {
	if s.scheme.Group != storage.GroupTensor {
		return s.scale.Data.ReadRows(ctx, dst, lo, hi)
	}
	var one [1]float32
	err := s.scale.Data.ReadRows(ctx, one[:], 0, 1)
	for i := range dst {
		dst[i] = one[0]
	}
	return err
}

// errPacked is the reason when the planes of a tensor do not fit together.
var errPacked = errors.New("packed tensor does not fit together")

// packing is what must be known to make a handle out of packed planes.
type packing struct {
	name               string
	words, scale, zero *ir.Tensor
	rows, cols         int
	loose              bool
	groups             []packedGroup // of the configuration
}

// handle finds the scheme from the shapes, with the configuration's help, and checks everything.
func (p packing) handle() (*ir.Tensor, error) {
	bad := func(format string, args ...any) (*ir.Tensor, error) {
		return nil, fmt.Errorf("%w: "+format, append([]any{errPacked}, args...)...)
	}
	if p.rows < 1 || p.cols < 1 || p.rows > math.MaxInt32 || p.cols > math.MaxInt32 {
		return bad("shape [%d %d]", p.rows, p.cols)
	}
	wantType := storage.I32
	if p.loose {
		wantType = storage.I8
	}
	if p.words.Type != wantType || len(p.words.Shape) != 2 || p.words.Shape[0] != p.rows {
		return bad("codes are %s %v for a weight [%d %d]", p.words.Type, p.words.Shape, p.rows, p.cols)
	}
	if info := storage.MustLookup(p.scale.Type); !info.Float {
		return bad("scales are %s", p.scale.Type)
	}
	s := storage.Scheme{Bits: p.bits(), Symmetric: p.zero == nil, Scale: p.scale.Type}
	if s.Bits == 0 {
		return bad("rows of %d words for %d columns: only 4 and 8 bits are read", p.words.Cols(), p.cols)
	}
	if p.zero == nil && !slices.ContainsFunc(p.groups, func(g packedGroup) bool { return g.Weights.Symmetric }) {
		return bad("the configuration asks for zero points and there are none")
	}
	switch n := p.scale.Elems(); {
	case n == 1 && (p.rows > 1 || p.strategy(s.Bits) == "tensor"):
		s.Group = storage.GroupTensor
	case n == int64(p.rows):
		s.Group = storage.GroupChannel
	case p.scale.Rows() != p.rows:
		return bad("scales %v for a weight [%d %d]", p.scale.Shape, p.rows, p.cols)
	default:
		if s.Group = p.groupSize(s.Bits); s.Group == 0 {
			return bad("scales %v for a weight [%d %d], and no group size of the configuration fits", p.scale.Shape, p.rows, p.cols)
		}
	}
	if z := p.zero; z != nil {
		groups := s.Groups(p.cols)
		want, typ := []int{packedRow(p.rows, s.Bits) / 4, groups}, storage.I32
		if p.loose {
			want, typ = []int{p.rows, groups}, storage.I8
		}
		if s.Group == storage.GroupTensor || z.Type != typ || len(z.Shape) != 2 || z.Shape[0] != want[0] || z.Shape[1] != want[1] {
			return bad("zero points are %s %v, expected %s %v", z.Type, z.Shape, typ, want)
		}
	}
	return &ir.Tensor{
		Name: p.name, Block: -1, Shape: []int{p.rows, p.cols}, Type: storage.Planes, Scheme: &s,
		Data: &packedSource{rows: p.rows, cols: p.cols, scheme: s, loose: p.loose, words: p.words, scale: p.scale, zero: p.zero},
	}, nil
}

// bits finds the width of codes that explains the width of a packed row, 0 when none does.
func (p packing) bits() int {
	if p.loose {
		return 8
	}
	for _, b := range []int{4, 8} {
		if packedRow(p.cols, b) == 4*p.words.Cols() {
			for _, g := range p.groups {
				if g.Weights.NumBits == b {
					return b
				}
			}
		}
	}
	return 0
}

func (p packing) strategy(bits int) string {
	for _, g := range p.groups {
		if g.Weights.NumBits == bits {
			return g.Weights.Strategy
		}
	}
	return ""
}

// groupSize is a group size of the configuration that gives the number of scales there are.
func (p packing) groupSize(bits int) int {
	for _, g := range p.groups {
		n := 0
		if g.Weights.GroupSize != nil {
			n = *g.Weights.GroupSize
		}
		if g.Weights.NumBits == bits && n > 0 && (p.cols+n-1)/n == p.scale.Cols() {
			return n
		}
	}
	return 0
}
