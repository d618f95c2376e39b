package storage

import (
	"encoding/binary"
	"math"
)

// Four-bit types whose codes index a table instead of a uniform grid.
const (
	IQ4NL Type = "iq4_nl" // 4 bit non-linear, scale per 32
	IQ4XS Type = "iq4_xs" // the same in superblocks with 6-bit scales per 32
	MXFP4 Type = "mxfp4"  // E2M1 floats with a power-of-two scale per 32 (OCP microscaling)
)

// nonlinear are the values of IQ4 codes (ggml-common.h, kvalues_iq4nl), denser around zero.
var nonlinear = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

var nonlinearF = func() (v [16]float32) {
	for i, n := range nonlinear {
		v[i] = float32(n)
	}
	return v
}()

// tinyFloats are twice the E2M1 values, so that they are integers; the scale is halved in exchange.
var tinyFloats = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

func init() {
	registerBlocks(codec{
		info: Info{
			Type: IQ4NL, BlockElems: 32, BlockBytes: 18, GGML: 20, FileType: 25, Fallback: F16,
			Doc: "32 elements: f16 d, 16 bytes of nibbles; w = d*table[q]",
		},
		halves: []int{0},
		decode: func(dst []float32, b []byte) { decodeTable(dst, half(b), b[2:18], &nonlinearF) },
		plain:  func(b []byte, x []float32) { encodeIQ4NL(b, x, nil) },
		weighted: func(b []byte, x, qw []float32, _ float32) {
			encodeIQ4NL(b, x, qw)
		},
	})
	registerBlocks(codec{
		info: Info{
			Type: IQ4XS, BlockElems: super, BlockBytes: 136, GGML: 23, FileType: 30, Fallback: IQ4NL,
			Doc: "256 elements in 8 sub-blocks: f16 d, 6-bit scales, 4-bit codes; w = d*(sc-32)*table[q]",
		},
		halves: []int{0},
		decode: func(dst []float32, b []byte) {
			d, high := half(b), int(binary.LittleEndian.Uint16(b[2:]))
			for j := range 8 {
				ls := int(b[4+j/2]>>(4*(j&1))&15) | high>>(2*j)&3<<4
				decodeTable(dst[32*j:], d*float32(ls-32), b[8+16*j:24+16*j], &nonlinearF)
			}
		},
		plain:    func(b []byte, x []float32) { encodeIQ4XS(b, x, nil) },
		weighted: func(b []byte, x, qw []float32, _ float32) { encodeIQ4XS(b, x, qw) },
	})
	registerBlocks(codec{
		info: Info{
			Type: MXFP4, BlockElems: 32, BlockBytes: 17, GGML: 39, FileType: 38, Fallback: F16,
			Doc: "32 elements: power-of-two scale byte, 16 bytes of E2M1 nibbles",
		},
		decode: func(dst []float32, b []byte) { decodeTable(dst, halfPower(b[0]), b[1:17], &tinyFloats) },
		plain:  encodeMXFP4,
	})
}

func decodeTable(dst []float32, d float32, qs []byte, table *[16]float32) {
	dst, qs = dst[:32], qs[:16]
	for j, b := range qs {
		dst[j] = table[b&15] * d
		dst[j+16] = table[b>>4] * d
	}
}

// nearestNonlinear is the code whose value is nearest to v, the upper one in the middle. The sums of
// neighbouring values are integers, so 2v reaches the same of them as its floor.
func nearestNonlinear(v float32) int {
	v += v
	if !(v > -256) {
		return 0
	}
	if v > 255 {
		return 15
	}
	i := int(v)
	if float32(i) > v {
		i--
	}
	return int(codeOfFloor[(i+256)&511])
}

// codeOfFloor is the code for floor(2v) = i-256.
var codeOfFloor = func() (t [512]uint8) {
	for i := range t {
		for c := range 15 {
			if i-256 >= int(nonlinear[c])+int(nonlinear[c+1]) {
				t[i] = uint8(c + 1)
			}
		}
	}
	return t
}()

// fitNonlinear finds the scale of one sub-block: the best of 15 that map the signed maximum near the
// ends of the table, by the gain of fitSym.
func fitNonlinear(x, w []float32) float32 {
	v, amax := signedMax(x)
	if amax < tiny {
		return 0
	}
	lx, l2 := gainNonlinear(x, w, 1/(-v/nonlinearF[0]))
	d := lx / l2
	best := d * lx
	for k := -7; k <= 7; k++ {
		lx, l2 = gainNonlinear(x, w, (float32(k)+nonlinearF[0])/v)
		if l2 > 0 && lx*lx > best*l2 {
			d = lx / l2
			best = d * lx
		}
	}
	return d
}

func gainNonlinear(x, w []float32, id float32) (lx, l2 float32) {
	w = w[:len(x)]
	for i, v := range x {
		q := nonlinearF[nearestNonlinear(float32(id*v))]
		wq := float32(w[i] * q)
		lx += float32(wq * v)
		l2 += float32(wq * q)
	}
	return lx, l2
}

// weighNonlinear fills the weights of one sub-block; sigma2 is twice the mean square of the block.
func weighNonlinear(w, x, qw []float32, sigma2 float32) {
	if qw != nil {
		weigh(w, x, qw, sigma2)
		return
	}
	for i, v := range x {
		w[i] = v * v
	}
}

func codeNonlinear(b []byte, x []float32, d float32) {
	var q codes32
	id := inverse(d)
	for i := range q {
		q[i] = uint8(nearestNonlinear(float32(id * x[i])))
	}
	packNibbles(b, q)
}

func encodeIQ4NL(b []byte, x, qw []float32) {
	var w [32]float32
	weighNonlinear(w[:], x, qw, sumSquares(x)*(2.0/32))
	d := fitNonlinear(x, w[:])
	putHalf(b, d)
	codeNonlinear(b[2:18], x, d)
}

func encodeIQ4XS(b []byte, x, qw []float32) {
	var (
		w      [32]float32
		scales [8]float32
	)
	sigma2 := sumSquares(x) * (2.0 / super)
	for j := range scales {
		var imp []float32
		if qw != nil {
			imp = qw[32*j : 32*j+32]
		}
		weighNonlinear(w[:], x[32*j:32*j+32], imp, sigma2)
		scales[j] = fitNonlinear(x[32*j:32*j+32], w[:])
	}
	v, _ := signedMax(scales[:])
	d := -v / 32 // codes follow the unrounded d, unlike in the K types
	putHalf(b, d)
	id := inverse(d)
	clear(b[2:8])
	var high int
	for j, s := range scales {
		l := clamp(nearest(float32(id*s)), -32, 31)
		codeNonlinear(b[8+16*j:24+16*j], x[32*j:32*j+32], d*float32(l))
		b[4+j/2] |= uint8(l+32) & 15 << (4 * (j & 1))
		high |= (l + 32) >> 4 << (2 * j)
	}
	binary.LittleEndian.PutUint16(b[2:], uint16(high))
}

// halfPower is 2^(e-128), half of what the scale byte says, for the doubled values of the table.
func halfPower(e byte) float32 {
	if e < 2 {
		return math.Float32frombits(0x00200000 << e)
	}
	return math.Float32frombits(uint32(e-1) << 23)
}

// encodeMXFP4 takes the largest power of two at which 4 still fits under the maximum (OCP
// microscaling specification 1.0, section 6.3), so values in (6,8) times it are clipped to 6.
func encodeMXFP4(b []byte, x []float32) {
	_, amax := signedMax(x)
	var e byte
	if amax > 0 {
		// rounded to float32 before the floor, as the reference does
		e = byte(max(0, min(254, int(math.Floor(float64(float32(math.Log2(float64(amax))))))+125)))
	}
	b[0] = e
	d := halfPower(e)
	var q codes32
	for i, v := range x {
		best := float32(math.Inf(1))
		for c, t := range tinyFloats {
			if err := abs(float32(t*d) - v); err < best {
				best, q[i] = err, uint8(c)
			}
		}
	}
	packNibbles(b[1:17], q)
}
