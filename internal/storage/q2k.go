package storage

// Q2_K: 16 bytes of scales (low nibble scale, high nibble minimum), 64 bytes of code pairs, f16 d,
// f16 dmin.
func init() {
	registerBlocks(codec{
		info: Info{
			Type: Q2K, BlockElems: super, BlockBytes: 84, GGML: 10, FileType: 10, Fallback: Q4_0,
			Doc: "256 elements in 16 sub-blocks: 4-bit scales and minima, 2-bit codes, f16 d and dmin; w = d*sc*q - dmin*mn",
		},
		halves: []int{80, 82},
		decode: func(dst []float32, b []byte) {
			var l codes256
			unpackPairs(&l, b[16:80])
			d, dmin := half(b[80:]), half(b[82:])
			for j, s := range b[:16] {
				dl, ml := float32(d*float32(s&15)), float32(dmin*float32(s>>4))
				out, q := dst[16*j:16*j+16], l[16*j:16*j+16]
				for i := range out {
					out[i] = float32(dl*float32(q[i])) - ml
				}
			}
		},
		plain:    encodeQ2K,
		weighted: encodeQ2KWeighted,
		sub:      16, lo: 0, hi: 3,
		grid: func(g *Grid, b []byte) {
			d, dmin := half(b[80:]), half(b[82:])
			for _, s := range b[:16] {
				g.Scale = append(g.Scale, d*float32(s&15))
				g.Min = append(g.Min, -(dmin * float32(s>>4)))
			}
		},
		set: func(b []byte, q []int8) {
			var l codes256
			setSuper(&l, q, 0)
			packPairs(b[16:80], &l)
		},
	})
}

func encodeQ2K(b []byte, x []float32) {
	var (
		l            codes256
		w            [super]float32
		scales, mins [16]float32
		top, topMin  float32
	)
	for i, v := range x {
		w[i] = abs(v)
	}
	fitAffineSubs(x, &w, &l, scales[:], mins[:], 3, gridQ2K)
	for j := range scales {
		top, topMin = maxf(top, scales[j]), maxf(topMin, mins[j])
	}
	var sc, mn [16]uint8
	var d, dmin float32
	if top > 0 {
		is := 15 / top
		for j, s := range scales {
			sc[j] = uint8(nearest(float32(is * s)))
		}
		d = top / 15
	}
	if topMin > 0 {
		is := 15 / topMin
		for j, m := range mins {
			mn[j] = uint8(nearest(float32(is * m)))
		}
		dmin = topMin / 15
	}
	finishQ2K(b, x, &l, &sc, &mn, d, dmin)
}

func encodeQ2KWeighted(b []byte, x, qw []float32, _ float32) {
	var (
		l                codes256
		w                [super]float32
		scales, mins, sw [16]float32
		sc, mn           [16]uint8
	)
	weigh(w[:], x, qw, sumSquares(x)/super)
	sumSubs(sw[:], &w)
	fitAffineSubs(x, &w, &l, scales[:], mins[:], 3, gridFine)
	d := fitPositive(scales[:], sw[:], sc[:], 15)
	dmin := fitPositive(mins[:], sw[:], mn[:], 15)
	finishQ2K(b, x, &l, &sc, &mn, d, dmin)
}

func finishQ2K(b []byte, x []float32, l *codes256, sc, mn *[16]uint8, d, dmin float32) {
	d, dmin = putHalf(b[80:], d), putHalf(b[82:], dmin)
	for j := range 16 {
		s := sc[j] | mn[j]<<4
		b[j] = s
		recode(l[16*j:16*j+16], x[16*j:16*j+16], d*float32(s&15), float32(dmin*float32(s>>4)), 3)
	}
	packPairs(b[16:80], l)
}
