package storage

// Q3_K: 32 bytes of third bits, 64 bytes of code pairs, 12 bytes of 6-bit scale codes, f16 d.
func init() {
	registerBlocks(codec{
		info: Info{
			Type: Q3K, BlockElems: super, BlockBytes: 110, GGML: 11, FileType: 12, Fallback: Q4_0,
			Doc: "256 elements in 16 sub-blocks: 6-bit scales, 3-bit codes, f16 d; w = d*(sc-32)*(q-4)",
		},
		halves: []int{108},
		decode: func(dst []float32, b []byte) {
			var l codes256
			var sc [16]int8
			unpackThirds(&l, b)
			unpackScalesQ3K(&sc, b[96:108])
			d := half(b[108:])
			for j, s := range sc {
				dl := d * float32(s)
				out, q := dst[16*j:16*j+16], l[16*j:16*j+16]
				for i := range out {
					out[i] = dl * float32(int(q[i])-4)
				}
			}
		},
		plain: func(b []byte, x []float32) {
			var (
				l      codes256
				scales [16]float32
				sc     [16]uint8
			)
			for j := range scales {
				scales[j] = fitSweep(x[16*j:16*j+16], l[16*j:16*j+16], 4)
			}
			v, _ := signedMax(scales[:])
			if v == 0 { // all scales zero: scale codes stay 0, which reads as -32 times nothing
				finishQ3K(b, x, &l, &sc, 0)
				return
			}
			is := float32(-32) / v
			for j, s := range scales {
				sc[j] = uint8(clamp(nearest(float32(is*s)), -32, 31) + 32)
			}
			finishQ3K(b, x, &l, &sc, 1/is)
		},
		weighted: func(b []byte, x, qw []float32, _ float32) {
			var (
				l          codes256
				w          [super]float32
				scales, sw [16]float32
				sc         [16]uint8
			)
			weigh(w[:], x, qw, 2*sumSquares(x)/super)
			sumSubs(sw[:], &w)
			fitSymSubs(x, &w, &l, scales[:], 4)
			d := fitSym(scales[:], sw[:], sc[:], 32)
			finishQ3K(b, x, &l, &sc, d)
		},
		sub: 16, lo: -4, hi: 3,
		grid: func(g *Grid, b []byte) {
			var sc [16]int8
			unpackScalesQ3K(&sc, b[96:108])
			d := half(b[108:])
			for _, s := range sc {
				g.Scale = append(g.Scale, d*float32(s))
			}
		},
		set: func(b []byte, q []int8) {
			var l codes256
			setSuper(&l, q, 4)
			packThirds(b, &l)
		},
	})
}

func finishQ3K(b []byte, x []float32, l *codes256, sc *[16]uint8, d float32) {
	d = putHalf(b[108:], d)
	packScalesQ3K(b[96:108], sc)
	for j, s := range sc {
		recodeSigned(l[16*j:16*j+16], x[16*j:16*j+16], d*float32(int(s)-32), 4)
	}
	packThirds(b, l)
}

// packThirds stores 3-bit codes: the low two bits as pairs from byte 32 on, the third bit of element
// i in bit i/32 of byte i%32.
func packThirds(b []byte, l *codes256) {
	packPairs(b[32:96], l)
	for i := range 32 {
		var h uint8
		for k := range 8 {
			h |= l[32*k+i] >> 2 << k
		}
		b[i] = h
	}
}

func unpackThirds(l *codes256, b []byte) {
	unpackPairs(l, b[32:96])
	for i, h := range b[:32] {
		for k := range 8 {
			l[32*k+i] |= h >> k & 1 << 2
		}
	}
}

// packScalesQ3K stores sixteen 6-bit codes: low nibbles of j and j+8 share byte j, the top two bits
// of j lie in bits 2*(j/4) of byte 8+j%4.
func packScalesQ3K(dst []byte, sc *[16]uint8) {
	_ = dst[11]
	for j := range 8 {
		dst[j] = sc[j]&15 | sc[j+8]<<4
	}
	for j := range 4 {
		dst[8+j] = sc[j]>>4 | sc[j+4]>>4<<2 | sc[j+8]>>4<<4 | sc[j+12]>>4<<6
	}
}

func unpackScalesQ3K(sc *[16]int8, src []byte) {
	_ = src[11]
	for j := range sc {
		low := src[j&7] >> ((j >> 3) * 4) & 15
		high := src[8+(j&3)] >> ((j >> 2) * 2) & 3
		sc[j] = int8(low|high<<4) - 32
	}
}
