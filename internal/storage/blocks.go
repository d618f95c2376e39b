package storage

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
)

// Block types of GGUF. A block is a run of consecutive elements of a row that share scales; K types
// group 16 sub-blocks of 16 or 8 of 32 into a superblock of 256, whose sub-block scales are
// themselves small integers times one half-precision scale.
const (
	Q4_0 Type = "q4_0" // 4 bit, scale per 32
	Q4_1 Type = "q4_1" // 4 bit, scale and minimum per 32
	Q5_0 Type = "q5_0" // 5 bit, scale per 32
	Q5_1 Type = "q5_1" // 5 bit, scale and minimum per 32
	Q8_0 Type = "q8_0" // 8 bit, scale per 32
	Q2K  Type = "q2_k" // 2 bit, 4-bit scales and minima per 16
	Q3K  Type = "q3_k" // 3 bit, 6-bit scales per 16
	Q4K  Type = "q4_k" // 4 bit, 6-bit scales and minima per 32
	Q5K  Type = "q5_k" // 5 bit, 6-bit scales and minima per 32
	Q6K  Type = "q6_k" // 6 bit, 8-bit scales per 16
)

// vectors are the kernels that encode and decode rows where this machine has them. They give the bits of
// the code here, so which level runs never shows in a file.
var vectors = kernels.For(cpu.Best())

// Use takes the kernels of another level from now on, while nothing is encoded or decoded: what a program
// does at its start where its user forces one.
func Use(level cpu.Level) {
	if level != vectors.Level() {
		vectors = kernels.For(level)
	}
}

const super = 256 // elements in a superblock of the K types

// beyond is above every value that a type with half-precision scales can hold (65504*128*32 for
// Q6_K); larger ones would overflow the sums of the searches.
const beyond = 1 << 28

// codec is one block type in terms of a single block; registerBlocks makes it an Info for rows.
type codec struct {
	info   Info
	halves []int // offsets of the half-precision scales in a block, which must be finite

	decode func(dst []float32, b []byte)
	// plain encodes without importance; weighted with it: qw weighs each element and sigma2 is the
	// mean square of the whole row. A nil weighted means the type ignores importance.
	plain    func(b []byte, x []float32)
	weighted func(b []byte, x, qw []float32, sigma2 float32)
	mean     bool // weighted uses sigma2

	// grid appends the scales (and minima) of a block; set writes its codes, counted from lo.
	sub, lo, hi int
	grid        func(g *Grid, b []byte)
	set         func(b []byte, q []int8)
}

// registerBlocks lifts the functions of one block to rows and registers the type.
func registerBlocks(c codec) {
	n, size := c.info.BlockElems, c.info.BlockBytes
	info := c.info
	info.Decode = func(dst []float32, src []byte) {
		for len(src) >= size && len(dst) >= n {
			c.decode(dst[:n:n], src[:size:size])
			dst, src = dst[n:], src[size:]
		}
	}
	if c.plain != nil {
		info.Encode = func(dst []byte, src, importance []float32) error {
			if err := c.encodeRows(dst, src, importance); err != nil {
				return err
			}
			return c.checkScales(dst)
		}
	}
	if c.grid != nil {
		info.Grid = func(g *Grid, row []byte) {
			g.Sub, g.Lo, g.Hi = c.sub, c.lo, c.hi
			g.Scale, g.Min = g.Scale[:0], g.Min[:0]
			for ; len(row) >= size; row = row[size:] {
				c.grid(g, row[:size:size])
			}
			if len(g.Min) == 0 {
				g.Min = nil
			}
		}
		info.SetCodes = func(row []byte, codes []int8) {
			for len(row) >= size && len(codes) >= n {
				c.set(row[:size:size], codes[:n:n])
				row, codes = row[size:], codes[n:]
			}
		}
	}
	register(info)
}

// encodeRows encodes rows that share one importance, or any number of blocks without.
func (c *codec) encodeRows(dst []byte, src, importance []float32) error {
	n, size := c.info.BlockElems, c.info.BlockBytes
	if len(src)%n != 0 {
		return fmt.Errorf("%w: %d values, %s blocks hold %d", ErrNotBlock, len(src), c.info.Type, n)
	}
	if len(dst) != len(src)/n*size {
		return fmt.Errorf("%s: %d bytes for %d values, want %d", c.info.Type, len(dst), len(src), len(src)/n*size)
	}
	if err := c.check(src); err != nil {
		return err
	}
	if importance == nil || c.weighted == nil {
		if !vectors.Encode(string(c.info.Type), dst, src, nil, 0) {
			for len(src) > 0 {
				c.plain(dst[:size:size], src[:n:n])
				dst, src = dst[size:], src[n:]
			}
		}
		return nil
	}
	if err := checkImportance(importance, len(src), n); err != nil {
		return err
	}
	cols := len(importance)
	row := cols / n * size
	var sums [16]float32
	for r := 0; len(src) > 0; r++ {
		if i := r % len(sums); i == 0 && c.mean {
			rows := min(len(sums), len(src)/cols)
			vectors.RowSquares(sums[:rows], src[:rows*cols], cols)
		}
		c.encodeRow(dst[:row], src[:cols], importance, sums[r%len(sums)]/float32(cols))
		dst, src = dst[row:], src[cols:]
	}
	return nil
}

// encodeRow encodes one row with importance.
func (c *codec) encodeRow(dst []byte, src, importance []float32, sigma2 float32) {
	if vectors.Encode(string(c.info.Type), dst, src, importance, sigma2) {
		return
	}
	n, size := c.info.BlockElems, c.info.BlockBytes
	for len(src) > 0 {
		c.weighted(dst[:size:size], src[:n:n], importance[:n:n], sigma2)
		dst, src, importance = dst[size:], src[n:], importance[n:]
	}
}

// check refuses values that the type cannot hold.
func (c *codec) check(src []float32) error {
	limit := float32(math.MaxFloat32)
	if len(c.halves) > 0 {
		limit = beyond
	}
	if top, _ := vectors.Extent(src); top <= limit {
		return nil
	}
	for _, v := range src {
		if v-v != 0 {
			return fault.ErrNotFinite
		}
		if abs(v) > limit {
			return fmt.Errorf("%s: %v needs a scale beyond half precision: %w", c.info.Type, v, fault.ErrNotFinite)
		}
	}
	return nil
}

// checkScales refuses blocks whose scales have overflowed.
func (c *codec) checkScales(dst []byte) error {
	for _, h := range c.halves {
		for o := h; o < len(dst); o += c.info.BlockBytes {
			if binary.LittleEndian.Uint16(dst[o:])&0x7c00 == 0x7c00 {
				return fmt.Errorf("%s: block %d needs a scale beyond half precision: %w", c.info.Type, o/c.info.BlockBytes, fault.ErrNotFinite)
			}
		}
	}
	return nil
}

// checkImportance wants whole rows of values, of whole blocks.
func checkImportance(importance []float32, values, block int) error {
	if n := len(importance); n == 0 || values%n != 0 || n%block != 0 {
		return fmt.Errorf("%d importances for rows of %d", n, values)
	}
	if top, negative := vectors.Extent(importance); top <= math.MaxFloat32 && !negative {
		return nil
	}
	for _, v := range importance {
		if v-v != 0 || v < 0 {
			return fmt.Errorf("importance %v: %w", v, fault.ErrNotFinite)
		}
	}
	return nil
}

// sumSquares adds x[i]^2 in index order.
func sumSquares(x []float32) float32 {
	var s float32
	for _, v := range x {
		s += float32(v * v)
	}
	return s
}

// weigh fills w with qw*sqrt(sigma2 + x^2), the weight of an error on x when an importance is known.
func weigh(w, x, qw []float32, sigma2 float32) {
	w, qw = w[:len(x)], qw[:len(x)]
	for i, v := range x {
		w[i] = float32(qw[i] * sqrt(sigma2+float32(v*v)))
	}
}

// sqrt is the correctly rounded square root; the compiler makes it one instruction.
func sqrt(v float32) float32 { return float32(math.Sqrt(float64(v))) }

func abs(v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ (1 << 31)) }

func half(b []byte) float32 { return F16ToF32(binary.LittleEndian.Uint16(b)) }

// putHalf stores v rounded to half precision and returns what was stored.
func putHalf(b []byte, v float32) float32 {
	h := F32ToF16(v)
	binary.LittleEndian.PutUint16(b, h)
	return F16ToF32(h)
}

// nearest rounds to an integer, ties to even, for |v| < 2^22: adding 1.5*2^23 leaves the integer in
// the low mantissa bits. Beyond that range, for infinities and for NaN it answers as the reference
// does on every machine, which the callers then clamp. The conversion keeps a product that is passed
// in from being fused with the sum.
func nearest(v float32) int {
	return int(math.Float32bits(float32(v)+12582912)&0x7fffff) - 0x400000
}

func clamp(v, lo, hi int) int { return min(max(v, lo), hi) }
