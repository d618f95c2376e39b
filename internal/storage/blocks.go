package storage

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
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
	// eight is weighted for eight blocks of 32 at once, which is faster; nil when there is no gain.
	eight func(b []byte, x, qw []float32, sigma2 float32)

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
			return c.encodeRow(dst, src, importance)
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

func (c *codec) encodeRow(dst []byte, src, importance []float32) error {
	n, size := c.info.BlockElems, c.info.BlockBytes
	if len(src)%n != 0 {
		return fmt.Errorf("%w: %d values, %s blocks hold %d", ErrNotBlock, len(src), c.info.Type, n)
	}
	if len(dst) != len(src)/n*size {
		return fmt.Errorf("%s: %d bytes for %d values, want %d", c.info.Type, len(dst), len(src), len(src)/n*size)
	}
	for _, v := range src {
		if v-v != 0 {
			return fault.ErrNotFinite
		}
		if len(c.halves) > 0 && abs(v) > beyond {
			return fmt.Errorf("%s: %v needs a scale beyond half precision: %w", c.info.Type, v, fault.ErrNotFinite)
		}
	}
	weighted := importance != nil && c.weighted != nil
	var sigma2 float32
	if weighted {
		if len(importance) != len(src) {
			return fmt.Errorf("%d importances for a row of %d", len(importance), len(src))
		}
		for _, v := range importance {
			if v-v != 0 || v < 0 {
				return fmt.Errorf("importance %v: %w", v, fault.ErrNotFinite)
			}
		}
		sigma2 = sumSquares(src) / float32(len(src))
	}
	imp := importance
	if !weighted {
		imp = nil
	}
	for i, o := 0, 0; !vectors.Encode(string(c.info.Type), dst, src, imp, sigma2) && i < len(src); i, o = i+n, o+size {
		b := dst[o : o+size : o+size]
		if !weighted {
			c.plain(b, src[i:i+n:i+n])
		} else if c.eight != nil && len(src)-i >= super {
			c.eight(dst[o:o+8*size], src[i:i+super:i+super], importance[i:i+super:i+super], sigma2)
			i, o = i+7*n, o+7*size
		} else {
			c.weighted(b, src[i:i+n:i+n], importance[i:i+n:i+n], sigma2)
		}
	}
	for o := 0; o < len(dst); o += size {
		for _, h := range c.halves {
			if binary.LittleEndian.Uint16(dst[o+h:])&0x7c00 == 0x7c00 {
				return fmt.Errorf("%s: block %d needs a scale beyond half precision: %w", c.info.Type, o/size, fault.ErrNotFinite)
			}
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
