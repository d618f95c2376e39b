package kernels

import (
	"encoding/binary"
	"math"
)

// The portable decoders follow ggml-quants.c. Every product is rounded before it is added.

func half(b []byte) float32 { return halfBits(binary.LittleEndian.Uint16(b)) }

// halfBits widens an IEEE binary16 number exactly; a signalling NaN becomes quiet.
func halfBits(h uint16) float32 {
	sign, e, m := uint32(h&0x8000)<<16, uint32(h>>10)&31, uint32(h)&0x3ff
	switch {
	case e == 31 && m != 0:
		return math.Float32frombits(sign | 0x7fc00000 | m<<13)
	case e == 31:
		return math.Float32frombits(sign | 0x7f800000)
	case e != 0:
		return math.Float32frombits(sign | (e+112)<<23 | m<<13)
	}
	// subnormal: m units of 2^-24, exact in float32
	v := float32(m) * (1. / (1 << 24))
	return math.Float32frombits(math.Float32bits(v) | sign)
}

func decodeF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = half(src[2*i:])
	}
}

func decodeBF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

// each calls fn for every block of e numbers in b bytes.
func each(dst []float32, src []byte, e, b int, fn func(y []float32, x []byte)) {
	for ; len(dst) >= e; dst, src = dst[e:], src[b:] {
		fn(dst[:e:e], src[:b:b])
	}
}

func decodeQ80(dst []float32, src []byte) {
	each(dst, src, 32, 34, func(y []float32, x []byte) {
		d := half(x)
		for i := range y {
			y[i] = float32(int8(x[2+i])) * d
		}
	})
}

func decodeQ40(dst []float32, src []byte) {
	each(dst, src, 32, 18, func(y []float32, x []byte) {
		d := half(x)
		for i, q := range x[2:] {
			y[i] = float32(int(q&15)-8) * d
			y[i+16] = float32(int(q>>4)-8) * d
		}
	})
}

func decodeQ41(dst []float32, src []byte) {
	each(dst, src, 32, 20, func(y []float32, x []byte) {
		d, m := half(x), half(x[2:])
		for i, q := range x[4:] {
			y[i] = float32(float32(q&15)*d) + m
			y[i+16] = float32(float32(q>>4)*d) + m
		}
	})
}

func decodeQ50(dst []float32, src []byte) {
	each(dst, src, 32, 22, func(y []float32, x []byte) {
		d, h := half(x), binary.LittleEndian.Uint32(x[2:])
		for i, q := range x[6:] {
			y[i] = float32(int(q&15|byte(h>>i&1)<<4)-16) * d
			y[i+16] = float32(int(q>>4|byte(h>>(i+16)&1)<<4)-16) * d
		}
	})
}

func decodeQ51(dst []float32, src []byte) {
	each(dst, src, 32, 24, func(y []float32, x []byte) {
		d, m, h := half(x), half(x[2:]), binary.LittleEndian.Uint32(x[4:])
		for i, q := range x[8:] {
			y[i] = float32(float32(q&15|byte(h>>i&1)<<4)*d) + m
			y[i+16] = float32(float32(q>>4|byte(h>>(i+16)&1)<<4)*d) + m
		}
	})
}

// u8 scales[16], u8 qs[64], f16 d, f16 dmin: sixteen sub-blocks of 16, scale in the low nibble and
// minimum in the high one.
func decodeQ2K(dst []float32, src []byte) {
	each(dst, src, 256, 84, func(y []float32, x []byte) {
		d, dmin := half(x[80:]), half(x[82:])
		for i := range y {
			sc := x[i/16]
			q := x[16+i/128*32+i%32] >> (i % 128 / 32 * 2) & 3
			y[i] = float32(float32(d*float32(sc&15))*float32(q)) - float32(dmin*float32(sc>>4))
		}
	})
}

// u8 hmask[32], u8 qs[64], u8 scales[12], f16 d: sixteen 6-bit scales.
func decodeQ3K(dst []float32, src []byte) {
	each(dst, src, 256, 110, func(y []float32, x []byte) {
		d := half(x[108:])
		var dl [16]float32
		for j := range dl {
			l := x[96+j%8] >> (j / 8 * 4) & 15
			l |= x[96+8+j%4] >> (j / 4 * 2) & 3 << 4
			dl[j] = d * float32(int(l)-32)
		}
		for i := range y {
			q := int(x[32+i/128*32+i%32] >> (i % 128 / 32 * 2) & 3)
			if x[i%32]>>(i/32)&1 == 0 {
				q -= 4
			}
			y[i] = dl[i/16] * float32(q)
		}
	})
}

// pair6 unpacks the 6-bit scale and minimum of sub-block j from twelve bytes.
func pair6(s []byte, j int) (sc, mn byte) {
	if j < 4 {
		return s[j] & 63, s[j+4] & 63
	}
	return s[j+4]&15 | s[j-4]>>6<<4, s[j+4]>>4 | s[j]>>6<<4
}

// f16 d, f16 dmin, u8 scales[12], u8 qs[128]: eight sub-blocks of 32.
func decodeQ4K(dst []float32, src []byte) {
	each(dst, src, 256, 144, func(y []float32, x []byte) {
		d, dmin := half(x), half(x[2:])
		for j := range 8 {
			sc, mn := pair6(x[4:], j)
			dl, ml := d*float32(sc), dmin*float32(mn)
			for i, q := range x[16+j/2*32:][:32] {
				y[32*j+i] = float32(dl*float32(q>>(j%2*4)&15)) - ml
			}
		}
	})
}

// f16 d, f16 dmin, u8 scales[12], u8 qh[32], u8 qs[128].
func decodeQ5K(dst []float32, src []byte) {
	each(dst, src, 256, 176, func(y []float32, x []byte) {
		d, dmin := half(x), half(x[2:])
		for j := range 8 {
			sc, mn := pair6(x[4:], j)
			dl, ml := d*float32(sc), dmin*float32(mn)
			for i, q := range x[48+j/2*32:][:32] {
				q = q>>(j%2*4)&15 | x[16+i]>>j&1<<4
				y[32*j+i] = float32(dl*float32(q)) - ml
			}
		}
	})
}

// u8 ql[128], u8 qh[64], i8 scales[16], f16 d.
func decodeQ6K(dst []float32, src []byte) {
	each(dst, src, 256, 210, func(y []float32, x []byte) {
		d := half(x[208:])
		for i := range y {
			h, r := i/128, i%128 // half of the block, place in it
			q := x[64*h+r%64] >> (r / 64 * 4) & 15
			q |= x[128+32*h+r%32] >> (r / 32 * 2) & 3 << 4
			y[i] = float32(d*float32(int8(x[192+i/16]))) * float32(int(q)-32)
		}
	})
}

// look multiplies 32 numbers of a table, whose places are nibbles, with a factor.
func look(y []float32, table *[16]int8, d float32, qs []byte) {
	for i, q := range qs[:16] {
		y[i], y[16+i] = float32(table[q&15])*d, float32(table[q>>4])*d
	}
}

// f16 d, u8 qs[16].
func decodeIQ4NL(dst []float32, src []byte) {
	each(dst, src, 32, 18, func(y []float32, x []byte) { look(y, &nonlinear, half(x), x[2:]) })
}

// f16 d, u16 scales_h, u8 scales_l[4], u8 qs[128].
func decodeIQ4XS(dst []float32, src []byte) {
	each(dst, src, 256, 136, func(y []float32, x []byte) {
		d, high := half(x), binary.LittleEndian.Uint16(x[2:])
		for j := range 8 {
			sc := int(x[4+j/2]>>(j%2*4)&15) | int(high>>(2*j)&3)<<4
			look(y[32*j:], &nonlinear, d*float32(sc-32), x[8+16*j:])
		}
	})
}

// u8 e, u8 qs[16]: the table has twice the numbers, the factor is 2^(e-128).
func decodeMXFP4(dst []float32, src []byte) {
	each(dst, src, 32, 17, func(y []float32, x []byte) {
		look(y, &tinyFloats, float32(math.Ldexp(1, int(x[0])-128)), x[1:])
	})
}
