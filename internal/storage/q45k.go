package storage

// Q4_K: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles. Q5_K has 32
// bytes of fifth bits before the nibbles: bit 2c of byte i for element 64c+i, bit 2c+1 for 64c+32+i.
func init() {
	registerBlocks(codec{
		info: Info{
			Type: Q4K, BlockElems: super, BlockBytes: 144, GGML: 12, FileType: 15, Fallback: Q5_0,
			Doc: "256 elements in 8 sub-blocks: f16 d and dmin, 6-bit scales and minima, 4-bit codes; w = d*sc*q - dmin*mn",
		},
		halves: []int{0, 2},
		decode: func(dst []float32, b []byte) {
			var l codes256
			unpackHalves(&l, b[16:144])
			decodeSixes(dst, &l, b)
		},
		plain: func(b []byte, x []float32) {
			var l codes256
			encodeSixes(b, x, &l, 15, gridQ4K)
			packHalves(b[16:144], &l)
		},
		weighted: func(b []byte, x, qw []float32, _ float32) {
			var l codes256
			encodeSixesWeighted(b, x, qw, &l, 15)
			packHalves(b[16:144], &l)
		},
		sub: 32, lo: 0, hi: 15,
		grid: gridSixes,
		set: func(b []byte, q []int8) {
			var l codes256
			setSuper(&l, q, 0)
			packHalves(b[16:144], &l)
		},
	})
	registerBlocks(codec{
		info: Info{
			Type: Q5K, BlockElems: super, BlockBytes: 176, GGML: 13, FileType: 17, Fallback: Q5_1,
			Doc: "256 elements in 8 sub-blocks: f16 d and dmin, 6-bit scales and minima, 5-bit codes; w = d*sc*q - dmin*mn",
		},
		halves: []int{0, 2},
		decode: func(dst []float32, b []byte) {
			var l codes256
			unpackHalves(&l, b[48:176])
			for i, h := range b[16:48] {
				for k := range 8 {
					l[32*k+i] |= h >> k & 1 << 4
				}
			}
			decodeSixes(dst, &l, b)
		},
		plain: func(b []byte, x []float32) {
			var l codes256
			encodeSixes(b, x, &l, 31, gridQ5K)
			packFifths(b, &l)
		},
		weighted: func(b []byte, x, qw []float32, _ float32) {
			var l codes256
			encodeSixesWeighted(b, x, qw, &l, 31)
			packFifths(b, &l)
		},
		sub: 32, lo: 0, hi: 31,
		grid: gridSixes,
		set: func(b []byte, q []int8) {
			var l codes256
			setSuper(&l, q, 0)
			packFifths(b, &l)
		},
	})
}

func packFifths(b []byte, l *codes256) {
	packHalves(b[48:176], l)
	for i := range 32 {
		var h uint8
		for k := range 8 {
			h |= l[32*k+i] >> 4 << k
		}
		b[16+i] = h
	}
}

func decodeSixes(dst []float32, l *codes256, b []byte) {
	var sc, mn [8]uint8
	unpackSixes(&sc, &mn, b[4:16])
	d, dmin := half(b), half(b[2:])
	for j := range sc {
		dl, ml := d*float32(sc[j]), float32(dmin*float32(mn[j]))
		out, q := dst[32*j:32*j+32], l[32*j:32*j+32]
		for i := range out {
			out[i] = float32(dl*float32(q[i])) - ml
		}
	}
}

func gridSixes(g *Grid, b []byte) {
	var sc, mn [8]uint8
	unpackSixes(&sc, &mn, b[4:16])
	d, dmin := half(b), half(b[2:])
	for j := range sc {
		g.Scale = append(g.Scale, d*float32(sc[j]))
		g.Min = append(g.Min, -(dmin * float32(mn[j])))
	}
}

// encodeSixes weighs an error on x with rms(sub-block) + |x|.
func encodeSixes(b []byte, x []float32, l *codes256, n int, grid affineGrid) {
	var (
		w            [super]float32
		scales, mins [8]float32
		top, topMin  float32
	)
	for j := range scales {
		xs := x[32*j : 32*j+32]
		rms := sqrt(sumSquares(xs) / 32)
		for i, v := range xs {
			w[32*j+i] = rms + abs(v)
		}
	}
	fitAffineSubs(x, &w, l, scales[:], mins[:], n, grid)
	for j := range scales {
		top, topMin = maxf(top, scales[j]), maxf(topMin, mins[j])
	}
	var is, im float32
	if top > 0 {
		is = 63 / top
	}
	if topMin > 0 {
		im = 63 / topMin
	}
	var sc, mn [8]uint8
	for j := range sc {
		sc[j] = min(63, uint8(nearest(float32(is*scales[j]))))
		mn[j] = min(63, uint8(nearest(float32(im*mins[j]))))
	}
	finishSixes(b, x, l, &sc, &mn, top/63, topMin/63, n)
}

func encodeSixesWeighted(b []byte, x, qw []float32, l *codes256, n int) {
	var (
		w                [super]float32
		scales, mins, sw [8]float32
		sc, mn           [8]uint8
	)
	weigh(w[:], x, qw, 2*sumSquares(x)/super)
	sumSubs(sw[:], &w)
	fitAffineSubs(x, &w, l, scales[:], mins[:], n, gridFine)
	d := fitPositive(scales[:], sw[:], sc[:], 63)
	dmin := fitPositive(mins[:], sw[:], mn[:], 63)
	finishSixes(b, x, l, &sc, &mn, d, dmin, n)
}

func finishSixes(b []byte, x []float32, l *codes256, sc, mn *[8]uint8, d, dmin float32, n int) {
	d, dmin = putHalf(b, d), putHalf(b[2:], dmin)
	packSixes(b[4:16], sc, mn)
	for j := range sc {
		recode(l[32*j:32*j+32], x[32*j:32*j+32], d*float32(sc[j]), float32(dmin*float32(mn[j])), n)
	}
}
