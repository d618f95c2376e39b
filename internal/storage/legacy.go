package storage

import (
	"encoding/binary"
	"math"
)

// The types of 32 elements (ggml/src/ggml-common.h, block_q4_0 and so on). Byte j of the nibbles
// holds element j in its low half and element j+16 in its high half.
//
// Without importance the scale comes from the extremes alone and the codes from the scale before
// it is rounded to half precision; with importance a search picks both.
func init() {
	registerBlocks(codec{
		info: Info{
			Type: Q4_0, BlockElems: 32, BlockBytes: 18, GGML: 2, FileType: 2, Fallback: F16,
			Doc: "32 elements: f16 d, 16 bytes of nibbles; w = d*(q-8)",
		},
		halves: []int{0},
		decode: func(dst []float32, b []byte) { decodeSym(dst, half(b), 0, b[2:18], -8) },
		plain: func(b []byte, x []float32) {
			packNibbles(b[2:18], symCodes(x, 8, b))
		},
		weighted: func(b []byte, x, qw []float32, sigma2 float32) {
			packNibbles(b[2:18], searchSym(x, qw, sigma2, 8, b))
		},
		mean: true,
		sub:  32, lo: -8, hi: 7,
		grid: func(g *Grid, b []byte) { g.Scale = append(g.Scale, half(b)) },
		set:  func(b []byte, q []int8) { packNibbles(b[2:18], fromSigned(q, 8)) },
	})
	registerBlocks(codec{
		info: Info{
			Type: Q4_1, BlockElems: 32, BlockBytes: 20, GGML: 3, FileType: 3, Fallback: F16,
			Doc: "32 elements: f16 d, f16 m, 16 bytes of nibbles; w = d*q + m",
		},
		halves: []int{0, 2},
		decode: func(dst []float32, b []byte) { decodeAffine(dst, half(b), half(b[2:]), 0, b[4:20]) },
		plain: func(b []byte, x []float32) {
			packNibbles(b[4:20], affineCodes(x, 15, b))
		},
		weighted: func(b []byte, x, qw []float32, sigma2 float32) {
			packNibbles(b[4:20], searchAffine(x, qw, sigma2, 15, b))
		},
		mean: true,
		sub:  32, lo: 0, hi: 15,
		grid: gridAffine,
		set:  func(b []byte, q []int8) { packNibbles(b[4:20], fromSigned(q, 0)) },
	})
	registerBlocks(codec{
		info: Info{
			Type: Q5_0, BlockElems: 32, BlockBytes: 22, GGML: 6, FileType: 8, Fallback: F16,
			Doc: "32 elements: f16 d, u32 of fifth bits, 16 bytes of nibbles; w = d*(q-16)",
		},
		halves: []int{0},
		decode: func(dst []float32, b []byte) {
			decodeSym(dst, half(b), binary.LittleEndian.Uint32(b[2:]), b[6:22], -16)
		},
		plain: func(b []byte, x []float32) {
			packFive(b[2:22], symCodes(x, 16, b))
		},
		weighted: func(b []byte, x, qw []float32, sigma2 float32) {
			packFive(b[2:22], searchSym(x, qw, sigma2, 16, b))
		},
		mean: true,
		sub:  32, lo: -16, hi: 15,
		grid: func(g *Grid, b []byte) { g.Scale = append(g.Scale, half(b)) },
		set:  func(b []byte, q []int8) { packFive(b[2:22], fromSigned(q, 16)) },
	})
	registerBlocks(codec{
		info: Info{
			Type: Q5_1, BlockElems: 32, BlockBytes: 24, GGML: 7, FileType: 9, Fallback: F16,
			Doc: "32 elements: f16 d, f16 m, u32 of fifth bits, 16 bytes of nibbles; w = d*q + m",
		},
		halves: []int{0, 2},
		decode: func(dst []float32, b []byte) {
			decodeAffine(dst, half(b), half(b[2:]), binary.LittleEndian.Uint32(b[4:]), b[8:24])
		},
		plain: func(b []byte, x []float32) {
			packFive(b[4:24], affineCodes(x, 31, b))
		},
		weighted: func(b []byte, x, qw []float32, sigma2 float32) {
			packFive(b[4:24], searchAffine(x, qw, sigma2, 31, b))
		},
		mean: true,
		sub:  32, lo: 0, hi: 31,
		grid: gridAffine,
		set:  func(b []byte, q []int8) { packFive(b[4:24], fromSigned(q, 0)) },
	})
	registerBlocks(codec{
		info: Info{
			Type: Q8_0, BlockElems: 32, BlockBytes: 34, GGML: 8, FileType: 7, Fallback: F16,
			Doc: "32 elements: f16 d, 32 signed bytes; w = d*q",
		},
		halves: []int{0},
		decode: func(dst []float32, b []byte) {
			d := half(b)
			for i, q := range b[2:34] {
				dst[i] = float32(int8(q)) * d
			}
		},
		plain: encodeQ8_0,
		sub:   32, lo: -127, hi: 127,
		grid: func(g *Grid, b []byte) { g.Scale = append(g.Scale, half(b)) },
		set: func(b []byte, q []int8) {
			for i, v := range q {
				b[2+i] = byte(v)
			}
		},
	})
}

// codes32 is one code for each element of a block, not negative.
type codes32 [32]uint8

func packNibbles(dst []byte, q codes32) {
	_ = dst[15]
	for j := range 16 {
		dst[j] = q[j]&15 | q[j+16]<<4
	}
}

// packFive stores the fifth bits as a little-endian u32, bit j for element j, then the nibbles.
func packFive(dst []byte, q codes32) {
	var high uint32
	for j, v := range q {
		high |= uint32(v>>4) << j
	}
	binary.LittleEndian.PutUint32(dst, high)
	packNibbles(dst[4:], q)
}

// fromSigned shifts codes of a Grid to stored codes.
func fromSigned(q []int8, zero int8) (out codes32) {
	for i := range out {
		out[i] = uint8(q[i] + zero)
	}
	return out
}

// decodeSym writes d*(q+zero); bit j of high is the fifth bit of element j.
func decodeSym(dst []float32, d float32, high uint32, qs []byte, zero int) {
	dst, qs = dst[:32], qs[:16]
	for j, b := range qs {
		lo := int(b&15) | int(high>>j&1)<<4
		hi := int(b>>4) | int(high>>(j+16)&1)<<4
		dst[j] = float32(lo+zero) * d
		dst[j+16] = float32(hi+zero) * d
	}
}

func decodeAffine(dst []float32, d, m float32, high uint32, qs []byte) {
	dst, qs = dst[:32], qs[:16]
	for j, b := range qs {
		lo := int(b&15) | int(high>>j&1)<<4
		hi := int(b>>4) | int(high>>(j+16)&1)<<4
		dst[j] = float32(float32(lo)*d) + m
		dst[j+16] = float32(float32(hi)*d) + m
	}
}

func gridAffine(g *Grid, b []byte) {
	g.Scale = append(g.Scale, half(b))
	g.Min = append(g.Min, half(b[2:]))
}

// signedMax is the element of largest magnitude, the first of equals.
func signedMax(x []float32) (v, amax float32) {
	for _, e := range x {
		if a := abs(e); a > amax {
			amax, v = a, e
		}
	}
	return v, amax
}

// inverse is 1/d, or 0 when d is 0 or so small that 1/d overflows: such a scale is stored as 0 and
// every code then decodes to the same value.
func inverse(d float32) float32 {
	id := 1 / d
	if d == 0 || math.IsInf(float64(id), 0) {
		return 0
	}
	return id
}

// symCodes maps the signed maximum to the lowest code, so that all 2n levels are used; the scale,
// which may be negative, goes to b.
func symCodes(x []float32, n int, b []byte) (q codes32) {
	v, _ := signedMax(x)
	d := v / float32(-n)
	id := inverse(d)
	putHalf(b, d)
	if id == 0 && d != 0 {
		return q
	}
	shift := float32(n) + 0.5
	most := 2*n - 1
	for i := range q {
		q[i] = uint8(min(most, int(float32(x[i]*id)+shift)))
	}
	return q
}

// affineCodes spreads codes 0..n over [min,max]; scale and minimum go to b.
func affineCodes(x []float32, n int, b []byte) (q codes32) {
	lo, hi := x[0], x[0]
	for _, v := range x {
		lo, hi = minf(lo, v), maxf(hi, v)
	}
	d := (hi - lo) / float32(n)
	id := inverse(d)
	putHalf(b, d)
	putHalf(b[2:], lo)
	for i := range q {
		q[i] = uint8(min(n, int(float32((x[i]-lo)*id)+0.5)))
	}
	return q
}

func searchSym(x, qw []float32, sigma2 float32, n int, b []byte) codes32 {
	var w [32]float32
	var q codes32
	weigh(w[:], x, qw, sigma2)
	putHalf(b, fitSym(x, w[:], q[:], n))
	return q
}

func searchAffine(x, qw []float32, sigma2 float32, n int, b []byte) codes32 {
	var w [32]float32
	var q codes32
	weigh(w[:], x, qw, sigma2)
	d, m := fitAffine(x, w[:], q[:], n, gridFine)
	putHalf(b, d)
	putHalf(b[2:], -m)
	return q
}

// encodeQ8_0 rounds halves away from zero, as C's roundf does.
func encodeQ8_0(b []byte, x []float32) {
	_, amax := signedMax(x)
	d := amax / 127
	id := inverse(d)
	putHalf(b, d)
	for i, v := range x {
		s := float32(v * id)
		if s < 0 {
			b[2+i] = byte(int8(-roundUp(-s)))
		} else {
			b[2+i] = byte(int8(roundUp(s)))
		}
	}
}

// roundUp rounds v >= 0 to the nearest integer, halves up. Adding 0.5 first would round twice.
func roundUp(v float32) int {
	i := int(v)
	if v-float32(i) >= 0.5 {
		i++
	}
	return i
}

func minf(a, b float32) float32 {
	if b < a {
		return b
	}
	return a
}

func maxf(a, b float32) float32 {
	if b > a {
		return b
	}
	return a
}
