package kernels

import (
	"encoding/binary"
	"math"
)

// How the units of every type are read; tiletypes.h has the same for compiled kernels.

// tileUnit is the bytes of a unit.
type tileUnit []byte

// bits takes the bits of a line that mask keeps after a shift to the right.
func (u tileUnit) bits(c *codeLine, line, shift int, mask byte) {
	for i, b := range u[tileLine*line:][:tileLine] {
		c[i] = int8(b >> shift & mask)
	}
}

// or adds one or two bits of a line on top of the bits there are.
func (u tileUnit) or(c *codeLine, line, shift int, mask byte, up int) {
	for i, b := range u[tileLine*line:][:tileLine] {
		c[i] |= int8(b >> shift & mask << up)
	}
}

func (c *codeLine) sub(zero int8) {
	for i := range c {
		c[i] -= zero
	}
}

// halves reads a number of every row at an offset.
func (u tileUnit) halves(f *[TileRows]float32, offset int) {
	for r := range f {
		f[r] = half(u[offset+2*r:])
	}
}

// bytes reads byte i of every row's four in a line.
func (u tileUnit) bytes(line, i int) (b [TileRows]byte) {
	for r := range b {
		b[r] = u[tileLine*line+4*r+i]
	}
	return b
}

func untileQ80(g []group, u tileUnit) {
	for j := range g[0].codes {
		u.bits(&g[0].codes[j], j, 0, 255)
	}
	u.halves(&g[0].factor[0], 512)
}

// nibbles are the codes of the legacy types with four bits.
func (g *group) nibbles(u tileUnit, zero int8) {
	for j := range g.codes {
		u.bits(&g.codes[j], j%4, j/4*4, 15)
		g.codes[j].sub(zero)
	}
}

func untileQ40(g []group, u tileUnit) {
	g[0].nibbles(u, 8)
	u.halves(&g[0].factor[0], 256)
}

func untileQ41(g []group, u tileUnit) {
	g[0].nibbles(u, 0)
	u.halves(&g[0].factor[0], 256)
	u.halves(&g[0].least[0], 288)
}

// fifths are the codes of the legacy types with five bits.
func (g *group) fifths(u tileUnit, zero int8) {
	g.nibbles(u, 0)
	for j := range g.codes {
		u.or(&g.codes[j], 4, j, 1, 4)
		g.codes[j].sub(zero)
	}
}

func untileQ50(g []group, u tileUnit) {
	g[0].fifths(u, 16)
	u.halves(&g[0].factor[0], 320)
}

func untileQ51(g []group, u tileUnit) {
	g[0].fifths(u, 0)
	u.halves(&g[0].factor[0], 320)
	u.halves(&g[0].least[0], 352)
}

// pairs are the factors and minima of q4_k and q5_k: twelve bytes of every row from a line on, d and m
// after them.
func pairs(g []group, u tileUnit, line int) {
	var d, m [TileRows]float32
	u.halves(&d, tileLine*(line+3))
	u.halves(&m, tileLine*(line+3)+2*TileRows)
	var s [12]byte
	for r := range TileRows {
		for i := range 3 {
			binary.LittleEndian.PutUint32(s[4*i:], binary.LittleEndian.Uint32(u[tileLine*(line+i)+4*r:]))
		}
		for j := range g {
			sc, mn := pair6(s[:], j)
			g[j].factor[0][r], g[j].least[0][r] = d[r]*float32(sc), -m[r]*float32(mn)
		}
	}
}

func untileQ4K(g []group, u tileUnit) {
	for i := range g {
		for j := range g[i].codes {
			u.bits(&g[i].codes[j], 8*(i/2)+j, i%2*4, 15)
		}
	}
	pairs(g, u, 32)
}

func untileQ5K(g []group, u tileUnit) {
	for i := range g {
		for j := range g[i].codes {
			u.bits(&g[i].codes[j], 8*(i/2)+j, i%2*4, 15)
			u.or(&g[i].codes[j], 32+4*(i/4)+j/2, j%2*4+i%4, 1, 4)
		}
	}
	pairs(g, u, 40)
}

func untileQ6K(g []group, u tileUnit) {
	var d [TileRows]float32
	u.halves(&d, 3328)
	for i := range g {
		for j := range g[i].codes {
			u.bits(&g[i].codes[j], 16*(i/4)+i%2*8+j, i%4/2*4, 15)
			u.or(&g[i].codes[j], 32+8*(i/4)+j, 2*(i%4), 3, 4)
			g[i].codes[j].sub(32)
		}
		for h := range 2 {
			for r, s := range u.bytes(48+i/2, i%2*2+h) {
				g[i].factor[h][r] = d[r] * float32(int8(s))
			}
		}
	}
}

func untileQ2K(g []group, u tileUnit) {
	var d, m [TileRows]float32
	u.halves(&d, 1280)
	u.halves(&m, 1312)
	for i := range g {
		for j := range g[i].codes {
			u.bits(&g[i].codes[j], 4+8*(i/4)+j, 2*(i%4), 3)
		}
		for h := range 2 {
			for r, s := range u.bytes(i/2, i%2*2+h) {
				g[i].factor[h][r], g[i].least[h][r] = d[r]*float32(s&15), -m[r]*float32(s>>4)
			}
		}
	}
}

func untileQ3K(g []group, u tileUnit) {
	var d [TileRows]float32
	u.halves(&d, 1728)
	for i := range g {
		for j := range g[i].codes {
			u.bits(&g[i].codes[j], 8+8*(i/4)+j, 2*(i%4), 3)
			u.or(&g[i].codes[j], 4*(i/4)+j/2, j%2*4+i%4, 1, 2)
			g[i].codes[j].sub(4)
		}
		for h := range 2 {
			n := 2*i + h // of the sixteen factors: four bits in one of eight bytes, two in one of four
			low, high := u.bytes(24+n%8/4, n%4), u.bytes(26, n%4)
			for r := range d {
				l := low[r]>>(n/8*4)&15 | high[r]>>(n/4*2)&3<<4
				g[i].factor[h][r] = d[r] * float32(int(l)-32)
			}
		}
	}
}

// look replaces nibbles by the values of a table.
func (c *codeLine) look(table *[16]int8) {
	for i, q := range c {
		c[i] = table[q&15]
	}
}

var (
	nonlinear  = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}
	tinyFloats = [16]int8{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}
)

func untileIQ4NL(g []group, u tileUnit) {
	g[0].nibbles(u, 0)
	for j := range g[0].codes {
		g[0].codes[j].look(&nonlinear)
	}
	u.halves(&g[0].factor[0], 256)
}

func untileIQ4XS(g []group, u tileUnit) {
	var d [TileRows]float32
	u.halves(&d, 2144)
	for i := range g {
		for j := range g[i].codes {
			u.bits(&g[i].codes[j], 4*i+j%4, j/4*4, 15)
			g[i].codes[j].look(&nonlinear)
		}
		for r, low := range u.bytes(32, i/2) {
			high := binary.LittleEndian.Uint16(u[2112+2*r:]) >> (2 * i) & 3
			g[i].factor[0][r] = d[r] * float32(int(low>>(i%2*4)&15)+int(high)<<4-32)
		}
	}
}

func untileMXFP4(g []group, u tileUnit) {
	g[0].nibbles(u, 0)
	for j := range g[0].codes {
		g[0].codes[j].look(&tinyFloats)
	}
	for r, e := range u[256:272] {
		g[0].factor[0][r] = float32(math.Ldexp(1, int(e)-128))
	}
}
