package kernels

import (
	"math"
)

// portable is the packing in Go.
func (p packing) portable(dst, rows []byte, a *tilePackArgs) {
	width := 4
	if p.fn == fnPackHalves {
		width = 2
	}
	for b := range a.blocks {
		unit := dst[b*a.unit+p.to:]
		for r := range TileRows {
			for i := range p.count {
				to := unit[(i*TileRows+r)*width:][:width]
				if r < a.n {
					copy(to, rows[r*a.ld+b*a.size+p.from+i*width:])
				} else {
					clear(to)
				}
			}
		}
	}
}

// panel is a tile with its codes as they count and its factors as numbers, by rows. Sub-blocks are
// groups of 32, or their halves.
type panel struct {
	codes  [TileRows][]int8    // less the code of zero
	factor [TileRows][]float32 // of every sub-block
	least  [TileRows][]float32
}

// untileQ80 and its like append a unit of sixteen rows to a panel.
func untileQ80(p *panel, u []byte) {
	for r := range TileRows {
		for i := range 32 {
			p.codes[r] = append(p.codes[r], int8(u[i/4*tileLine+4*r+i%4]))
		}
		p.factor[r] = append(p.factor[r], half(u[512+2*r:]))
	}
}

func untileQ40(p *panel, u []byte) {
	for r := range TileRows {
		for i := range 32 {
			b := u[i%16/4*tileLine+4*r+i%4]
			p.codes[r] = append(p.codes[r], int8(b>>(i/16*4)&15)-8)
		}
		p.factor[r] = append(p.factor[r], half(u[256+2*r:]))
	}
}

func (t *Tiler) portable(dst Matrix, x *Activations, tiles []byte, add bool) {
	size, n := t.Bytes(x.cols), TileRows
	var p panel
	for j := 0; j < dst.Cols; j += TileRows {
		for r := range TileRows {
			p.codes[r], p.factor[r], p.least[r] = p.codes[r][:0], p.factor[r][:0], p.least[r][:0]
		}
		for u := tiles[j/TileRows*size:][:size]; len(u) > 0; u = u[t.t.unit:] {
			t.t.portable(&p, u[:t.t.unit])
		}
		n = min(n, dst.Cols-j)
		for i := range dst.Rows {
			acts := x.row(i)
			for r, y := range dst.Row(i)[j : j+n] {
				if !add {
					y = 0
				}
				dst.Row(i)[j+r] = p.dot(acts, r, t.t.halves, t.t.min, y)
			}
		}
	}
}

// dot adds the product of row r with a row of activations to y, step by step as Tiler says.
func (p *panel) dot(x []act, r, halves int, least bool, y float32) float32 {
	codes, factor, low := p.codes[r], p.factor[r], p.least[r]
	for b := range x {
		a, w := &x[b], codes[b*actBlock:][:actBlock]
		var isum [2]int32
		for h := range isum {
			var s int32
			for i, c := range w[16*h : 16*h+16] {
				s += int32(c) * int32(a.q[16*h+i])
			}
			isum[h] = s
		}
		var u float32
		if halves == 1 {
			u = firstTerm(isum[0]+isum[1], factor[b])
		} else {
			u = fma32(float32(isum[1]), factor[2*b+1], firstTerm(isum[0], factor[2*b]))
		}
		y = fma32(u, a.d, y)
		switch {
		case !least:
		case halves == 1:
			y = fma32(low[b], a.sum, y)
		default:
			y = fma32(low[2*b+1], a.sum16[1], fma32(low[2*b], a.sum16[0], y))
		}
	}
	return y
}

// firstTerm is isum*f rounded to float32, worked out as compiled kernels do: fma(magic+isum, f,
// -magic*f), whose products are exact in float64 too. That makes NaN of an f that is not finite.
func firstTerm(isum int32, f float32) float32 {
	return float32(float64(magic+isum)*float64(f) + float64(-magic)*float64(f))
}

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
