package kernels

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
)

// fenced copies b between bytes that are codes of their own, so that reading them shows in a result, and
// begins it at an odd address. What is handed out ends where b ends.
func fenced(b []byte) []byte {
	all := slices.Concat(bytes.Repeat([]byte{0xa5}, 2*guard), b, bytes.Repeat([]byte{0x5a}, 2*guard))
	return all[2*guard : 2*guard+len(b) : 2*guard+len(b)]
}

func randomPlanes(rng *rand.Rand, rows, cols, bits, group int, zeros bool) *Planes {
	p := &Planes{Rows: rows, Cols: cols, Bits: bits, Group: group, Zero: byte(rng.IntN(1 << bits))}
	random8 := func(n, below int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.IntN(below))
		}
		return fenced(b)
	}
	p.Codes = random8(rows*PlaneBytes(bits, cols), 256)
	n := rows * ((cols + max(1, group) - 1) / max(1, group))
	if group == 0 { // one scale for the whole
		p.Group, n = cols, 1
	}
	p.Scales = random(rng, n)
	if zeros {
		p.Zeros = random8(n, 256)
	}
	return p
}

// planesCases calls fn with matrices of sizes around what kernels take at a time.
func planesCases(fn func(rng *rand.Rand, what string, p *Planes)) {
	rng := newRand()
	for _, bits := range []int{4, 8} {
		for _, cols := range []int{1, 2, 15, 16, 31, 32, 33, 64, 127, 255, 256, 257, 300, 544, 1025} {
			for _, group := range []int{0, 1, 7, 16, 32, 48, 64, 128, 300, 2000} { // 2000: a channel
				for _, rows := range []int{1, 3, 8, 16, 17, 37} {
					for _, zeros := range []bool{false, true} {
						what := fmt.Sprintf("[%d,%d] int%d g%d zeros %v", rows, cols, bits, group, zeros)
						fn(rng, what, randomPlanes(rng, rows, cols, bits, group, zeros))
					}
				}
			}
		}
	}
}

// Worked out by hand: codes 1, 15, 8 and 0 of four bits are bytes 0xf1 and 0x08.
func TestPlanesKnown(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		p := &Planes{Rows: 1, Cols: 4, Bits: 4, Codes: []byte{0xf1, 0x08}, Group: 3, Scales: []float32{0.5, 3}, Zeros: []byte{8, 2}}
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		y := make([]float32, 4)
		s.DecodePlanes(y, p, 0)
		if want := []float32{-3.5, 3.5, 0, -6}; !slices.Equal(y, want) {
			t.Errorf("%v, want %v", y, want)
		}
		p = &Planes{Rows: 2, Cols: 2, Bits: 8, Codes: []byte{0, 255, 128, 129}, Group: 2, Scales: []float32{0.25}, Zero: 128}
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		dst := []float32{100, 200}
		s.MulPlanes(dst, []float32{1, 2}, p, 0, true)
		if want := []float32{100 - 32 + 63.5, 200.5}; !slices.Equal(dst, want) {
			t.Errorf("%v, want %v", dst, want)
		}
	})
}

func TestDecodePlanes(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		planesCases(func(_ *rand.Rand, what string, p *Planes) {
			if err := p.Check(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			want := make([]float32, p.Cols)
			for row := 0; row < p.Rows; row += 5 {
				got, check := guarded(p.Cols)
				s.DecodePlanes(got, p, row)
				check(t)
				p.decodePortable(want, row)
				for i := range want {
					if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
						t.Fatalf("%s: element %d of row %d is %v, want %v", what, i, row, got[i], want[i])
					}
				}
			}
		})
	})
}

// The sums are those of packed products and of GemmNT with decoded weights, bit for bit.
func TestMulPlanes(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		planesCases(func(rng *rand.Rand, what string, p *Planes) {
			x, w := random(rng, p.Cols), View(make([]float32, p.Rows*p.Cols), p.Rows, p.Cols)
			for i := range p.Rows {
				p.decodePortable(w.Row(i), i)
			}
			got, check := guarded(p.Rows)
			for _, add := range []bool{false, true} {
				if add {
					copy(got, random(rng, p.Rows))
				}
				was := slices.Clone(got)
				want := slices.Clone(got)
				s.GemmNT(View(want, 1, p.Rows), View(x, 1, p.Cols), w, add)
				cut := p.Rows / 3 // in two parts
				s.MulPlanes(got[:cut], x, p, 0, add)
				s.MulPlanes(got[cut:], x, p, cut, add)
				check(t)
				for i := range want {
					if s.Level() != cpu.Portable {
						if exact := pieceSum(x, w.Row(i), was[i], add); math.Float32bits(exact) != math.Float32bits(want[i]) {
							t.Fatalf("%s: GemmNT gives %v for row %d, its order %v", what, want[i], i, exact)
						}
					}
					if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
						t.Fatalf("%s add %v: row %d is %v, want %v", what, add, i, got[i], want[i])
					}
				}
			}
		})
	})
}

// More weights than one call takes.
func TestMulPlanesLong(t *testing.T) {
	s, rng := For(""), newRand()
	const cols = planesWork / 20 // sixteen rows a call
	p := randomPlanes(rng, 35, cols, 4, 128, true)
	x, w := random(rng, cols), View(make([]float32, cols), 1, cols)
	got, want := make([]float32, p.Rows), make([]float32, 1)
	s.MulPlanes(got, x, p, 0, false)
	for i := range got {
		p.decodePortable(w.Row(0), i)
		if s.GemmNT(View(want, 1, 1), View(x, 1, cols), w, false); got[i] != want[0] {
			t.Fatalf("row %d is %v, want %v", i, got[i], want[0])
		}
	}
}

func TestPlanesCheck(t *testing.T) {
	good := func() *Planes { return randomPlanes(newRand(), 3, 33, 4, 16, true) }
	for what, spoil := range map[string]func(p *Planes){
		"bits":     func(p *Planes) { p.Bits = 5 },
		"no group": func(p *Planes) { p.Group = 0 },
		"codes":    func(p *Planes) { p.Codes = p.Codes[1:] },
		"scales":   func(p *Planes) { p.Scales = p.Scales[1:] },
		"one":      func(p *Planes) { p.Scales, p.Zeros = p.Scales[:1], p.Zeros[:1] },
		"zeros":    func(p *Planes) { p.Zeros = p.Zeros[1:] },
	} {
		p := good()
		if spoil(p); p.Check() == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if err := good().Check(); err != nil {
		t.Error(err)
	}
}
