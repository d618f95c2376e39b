package storage

// Q6_K: 128 bytes of low nibbles, 64 bytes of bit pairs, 16 signed scales, f16 d. Of each 128
// elements, with i < 32: nibble byte i holds elements i and i+64, byte i+32 holds i+32 and i+96, and
// pair byte i the top two bits of i, i+32, i+64 and i+96.
func init() {
	registerBlocks(codec{
		info: Info{
			Type: Q6K, BlockElems: super, BlockBytes: 210, GGML: 14, FileType: 18, Fallback: Q8_0,
			Doc: "256 elements in 16 sub-blocks: 6-bit codes, signed 8-bit scales, f16 d; w = d*sc*(q-32)",
		},
		halves: []int{208},
		decode: func(dst []float32, b []byte) {
			d := half(b[208:])
			for h := range 2 {
				low, high, sc, out := b[64*h:64*h+64], b[128+32*h:160+32*h], b[192+8*h:200+8*h], dst[128*h:128*h+128]
				for i, t := range high {
					a, c, s := low[i], low[i+32], i/16
					out[i] = d * float32(int8(sc[s])) * float32(int(a&15|t&3<<4)-32)
					out[i+32] = d * float32(int8(sc[s+2])) * float32(int(c&15|t>>2&3<<4)-32)
					out[i+64] = d * float32(int8(sc[s+4])) * float32(int(a>>4|t>>4&3<<4)-32)
					out[i+96] = d * float32(int8(sc[s+6])) * float32(int(c>>4|t>>6<<4)-32)
				}
			}
		},
		plain:    func(b []byte, x []float32) { encodeQ6K(b, x, nil) },
		weighted: func(b []byte, x, qw []float32, _ float32) { encodeQ6K(b, x, qw) },
		sub:      16, lo: -32, hi: 31,
		grid: func(g *Grid, b []byte) {
			d := half(b[208:])
			for _, s := range b[192:208] {
				g.Scale = append(g.Scale, d*float32(int8(s)))
			}
		},
		set: func(b []byte, q []int8) {
			var l codes256
			setSuper(&l, q, 32)
			packQ6K(b, &l)
		},
	})
}

// encodeQ6K takes the importance itself as the weight of an error, without the factor that the
// other types add.
func encodeQ6K(b []byte, x, qw []float32) {
	var l codes256
	var scales [16]float32
	var w [super]float32
	if qw != nil {
		copy(w[:], qw)
	} else {
		for i, v := range x {
			w[i] = v * v
		}
	}
	fitSymSubs(x, &w, &l, scales[:], 32)
	v, amax := signedMax(scales[:])
	if amax < tiny {
		clear(b)
		return
	}
	is := float32(-128) / v
	d := putHalf(b[208:], 1/is)
	for j, s := range scales {
		c := int8(min(127, nearest(float32(is*s))))
		b[192+j] = byte(c)
		recodeSigned(l[16*j:16*j+16], x[16*j:16*j+16], d*float32(c), 32)
	}
	packQ6K(b, &l)
}

func packQ6K(b []byte, l *codes256) {
	for h := range 2 {
		low, high, s := b[64*h:64*h+64], b[128+32*h:160+32*h], l[128*h:128*h+128]
		for i := range high {
			low[i] = s[i]&15 | s[i+64]<<4
			low[i+32] = s[i+32]&15 | s[i+96]<<4
			high[i] = s[i]>>4 | s[i+32]>>4<<2 | s[i+64]>>4<<4 | s[i+96]>>4<<6
		}
	}
}
