package kernels

import "math"

// portable is the packing in Go.
func (p packing) portable(dst, rows []byte, a *tilePackArgs) {
	width := 4
	switch p.fn {
	case fnPackHalves:
		width = 2
	case fnPackBytes:
		width = 1
	}
	var from, to [32]byte // the bytes of one row
	for b := range a.blocks {
		unit := dst[b*a.unit+p.to:]
		for r := range TileRows {
			for i := 0; i < p.count; i += len(from) / width { // as many as fit
				n := min(p.count-i, len(from)/width) * width
				if r < a.n {
					copy(from[:n], rows[r*a.ld+b*a.size+p.from+i*width:][:n])
				} else {
					clear(from[:n])
				}
				switch p.fn {
				case fnPackBits:
					packBits(&to, &from)
				case fnPackGroups:
					packGroups(&to, &from)
				default:
					to = from
				}
				for k := 0; k < n; k += width {
					copy(unit[((i+k/width)*TileRows+r)*width:][:width], to[k:])
				}
			}
		}
	}
}

// packBits moves bit k of 32 to byte k%4: the fifth bits of codes 4j..4j+3 become bit j of four bytes.
func packBits(to, from *[32]byte) {
	clear(to[:4])
	for k := range 32 {
		to[k%4] |= from[k/8] >> (k % 8) & 1 << (k / 4)
	}
}

// packGroups halves eight fours of bytes, whose bits belong to eight groups: two fours become one with
// the bits of the first four groups and one with those of the others.
func packGroups(to, from *[32]byte) {
	for i := range 16 {
		v, w := from[i/4*8+i%4], from[i/4*8+4+i%4]
		to[i], to[16+i] = v&15|w&15<<4, v>>4|w&0xf0
	}
}

// group is 32 weights of sixteen rows, with codes as they count and factors as numbers. A line has four
// codes of every row; factors and minima are of the group or of its halves.
type group struct {
	codes         [8]codeLine
	factor, least [2][TileRows]float32
}

type codeLine [tileLine]int8

func (t *Tiler) portable(dst Matrix, x *Activations, tiles []byte, add bool) {
	size := t.Bytes(x.cols)
	var buf [8]group
	groups := buf[:t.t.groups]
	for j := 0; j < dst.Cols; j += TileRows {
		tile, n := tiles[j/TileRows*size:][:size], min(TileRows, dst.Cols-j)
		for b := 0; len(tile) > 0; b += len(groups) {
			t.t.portable(groups, tile[:t.t.unit])
			tile = tile[t.t.unit:]
			for i := range dst.Rows {
				var y [TileRows]float32
				d := dst.Row(i)[j : j+n]
				if b > 0 || add {
					copy(y[:], d)
				}
				for g := range groups {
					groups[g].mul(&y, x.block(i, b+g), t.t.halves, t.t.min)
				}
				copy(d, y[:])
			}
		}
	}
}

// mul adds the products with a block of activations to y, step by step as Tiler says.
func (g *group) mul(y *[TileRows]float32, a *act, halves int, least bool) {
	var sum [2][TileRows]int32
	for j := range g.codes {
		q0, q1, q2, q3 := int32(a.q[4*j]), int32(a.q[4*j+1]), int32(a.q[4*j+2]), int32(a.q[4*j+3])
		c, s := &g.codes[j], &sum[j/4]
		for r := range s {
			s[r] += int32(c[4*r])*q0 + int32(c[4*r+1])*q1 + int32(c[4*r+2])*q2 + int32(c[4*r+3])*q3
		}
	}
	for r, v := range y {
		if halves == 1 {
			v = fma32(firstTerm(sum[0][r]+sum[1][r], g.factor[0][r]), a.d, v)
			if least {
				v = fma32(g.least[0][r], a.sum, v)
			}
		} else {
			v = fma32(fma32(float32(sum[1][r]), g.factor[1][r], firstTerm(sum[0][r], g.factor[0][r])), a.d, v)
			if least {
				v = fma32(g.least[1][r], a.sum16[1], fma32(g.least[0][r], a.sum16[0], v))
			}
		}
		y[r] = v
	}
}

// firstTerm is isum*f rounded to float32, worked out as compiled kernels do.
func firstTerm(isum int32, f float32) float32 { return fma32(float32(magic+isum), f, -magic*f) }

// fma32 is a*b + c in float32, rounded once. The product is exact in float64; the sum is rounded to odd
// there, which keeps what the second rounding has to know (Boldo and Melquiond, 2008).
func fma32(a, b, c float32) float32 {
	p, z := float64(a)*float64(b), float64(c)
	s := p + z
	// the error of the sum, exactly (Knuth)
	v := s - p
	if e := (p - (s - v)) + (z - v); e != 0 && !math.IsInf(s, 0) && e == e {
		if bits := math.Float64bits(s); bits&1 == 0 {
			if (e > 0) == (s > 0) {
				bits++
			} else {
				bits--
			}
			s = math.Float64frombits(bits)
		}
	}
	return float32(s)
}
