package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
)

// pieceSum is the documented order of a packed product's sum.
func pieceSum(a, b []float32, dst float32, add bool) float32 {
	for k := 0; k < len(a); k += 256 {
		var s float32
		for i := k; i < min(len(a), k+256); i++ {
			s = fma32(a[i], b[i], s)
		}
		if k > 0 || add {
			s = dst + s
		}
		dst = s
	}
	if len(a) == 0 && !add {
		dst = 0
	}
	return dst
}

// packedProduct packs x in parts and multiplies it in parts, with guards around every buffer.
func packedProduct(t *testing.T, s *Set, dst, x, w Matrix, add bool) {
	t.Helper()
	lbuf, lcheck := guarded(s.LeftLen(x.Rows, x.Cols))
	rbuf, rcheck := guarded(s.RightLen(w.Rows, w.Cols))
	l, g := s.NewLeft(lbuf, x.Rows, x.Cols), s.LeftGroup()
	for lo := 0; lo < x.Rows; lo += 2 * g {
		s.PackLeft(l, x, lo, min(x.Rows, lo+2*g))
	}
	r := s.PackRight(rbuf, w)
	for lo := 0; lo < x.Rows; lo += 3 * g {
		hi := min(x.Rows, lo+3*g)
		s.MulPacked(dst.Slice(lo, hi, 0, dst.Cols), l.Rows(lo, hi), r, add)
	}
	lcheck(t)
	rcheck(t)
}

// Against double precision everywhere, and bit for bit against the documented order at the levels
// that have it.
func TestMulPacked(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, m := range []int{0, 1, 2, 4, 5, 9, 12, 13, 20, 61} {
			for _, n := range []int{0, 1, 4, 7, 12, 16, 17, 31, 33, 71} {
				for _, k := range []int{0, 1, 3, 64, 255, 257, 600} {
					if k > 64 && m > 12 && n > 17 && k != 257 {
						continue
					}
					x, w := matrix(rng, m, k, 3), matrix(rng, n, k, 5)
					dst, check := guarded(m * (n + 2))
					d := Matrix{dst, m, n, n + 2}
					for _, add := range []bool{false, true} {
						before := slices.Clone(dst)
						packedProduct(t, s, d, x, w, add)
						check(t)
						for i := range m {
							for j := range n {
								got, was := d.Row(i)[j], before[i*d.Stride+j]
								what := fmt.Sprintf("%dx%dx%d add %v [%d,%d]", m, n, k, add, i, j)
								want, size := dot64(x.Row(i), w.Row(j))
								if add {
									want += float64(was)
									size += math.Abs(want)
								}
								near(t, what, float64(got), want, 32*eps*size)
								if s.Level() == cpu.Portable || (i+j)%7 > 0 {
									continue
								}
								if exact := pieceSum(x.Row(i), w.Row(j), was, add); exact != got {
									t.Fatalf("%s is %v, in the documented order %v", what, got, exact)
								}
							}
							for _, v := range dst[i*d.Stride+n:][:2] {
								if v == v {
									t.Fatal("wrote between the rows")
								}
							}
						}
					}
				}
			}
		}
	})
}

// The oracle itself, where rounding twice would go wrong: 1 + 2^-24 + 2^-60 lies above the middle
// between two floats, which float64 cannot see.
func TestFMA32Ties(t *testing.T) {
	tiny := float32(math.Ldexp(1, -30))
	for _, c := range []struct{ a, b, c, want float32 }{
		{tiny, tiny, 1, 1},
		{1 + 1./(1<<12), 1 + 1./(1<<12), 0, 1 + 1./(1<<11)},                           // exact: + 2^-24, to even
		{1 + 1./(1<<12), 1 + 1./(1<<12), tiny * tiny, 1 + 1./(1<<11) + 1./(1<<23)},    // above the middle
		{-1 - 1./(1<<12), 1 + 1./(1<<12), -tiny * tiny, -1 - 1./(1<<11) - 1./(1<<23)}, // below it
		{-1 - 1./(1<<12), 1 + 1./(1<<12), tiny * tiny, -1 - 1./(1<<11)},               // towards zero
		{3, 5, -15, 0},
	} {
		if got := fma32(c.a, c.b, c.c); got != c.want {
			t.Errorf("fma32(%v, %v, %v) = %v, want %v", c.a, c.b, c.c, got, c.want)
		}
	}
}

// Packing stored rows gives what packing the decoded ones does.
func TestPackStored(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, name := range []string{"f16", "bf16"} {
			for _, k := range []int{0, 1, 3, 4, 257, 300} {
				for _, n := range []int{0, 1, 5, 17, 40} {
					raw := make([]byte, 2*n*k)
					for i := range n * k {
						binary.LittleEndian.PutUint16(raw[2*i:], uint16(rng.Uint32())&0xbfff) // below infinity
					}
					w := View(make([]float32, n*k), n, k)
					s.DecodeRow(name)(w.Data, raw)
					odd := append(make([]byte, 1, 1+len(raw)), raw...)[1:] // not aligned
					buf, check := guarded(s.RightLen(n, k))
					got := s.PackStored(name)(buf, odd, n, k)
					want := s.PackRight(make([]float32, s.RightLen(n, k)), w)
					check(t)
					if got.rows != n || got.k != k || !slices.Equal(got.data, want.data) {
						t.Fatalf("%s [%d,%d]: packed numbers differ", name, n, k)
					}
				}
			}
		}
		if s.PackStored("q8_0") != nil {
			t.Error("a type that has to be decoded first is packed")
		}
	})
}

// A product of stored rows with one input has the bits that it has among many.
func TestMulStored(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, name := range []string{"f16", "bf16"} {
			for _, k := range []int{0, 1, 7, 32, 100, 256, 257, 300, 600, 1056} {
				for _, n := range []int{0, 1, 3, 4, 8, 15, 16, 17, 31, 33, 64, 83} {
					raw := randomBlocks(rng, name, n*k, true)
					odd := append(make([]byte, 1, 1+len(raw)), raw...)[1:] // not aligned
					x := matrix(rng, 6, k, 3)
					l := s.NewLeft(make([]float32, s.LeftLen(6, k)), 6, k)
					s.PackLeft(l, x, 0, 6)
					w := s.PackStored(name)(make([]float32, s.RightLen(n, k)), raw, n, k)
					for _, add := range []bool{false, true} {
						many := matrix(rng, 6, n, 0)
						one, check := guarded(n)
						copy(one, many.Row(4))
						s.MulStored(name)(one, odd, x.Row(4), add)
						check(t)
						s.MulPacked(many, l, w, add)
						for j, want := range many.Row(4) {
							if one[j] != want {
								t.Fatalf("%s [%d,%d] add %v: row %d alone gives %v, among others %v", name, n, k, add, j, one[j], want)
							}
						}
					}
				}
			}
			func() {
				defer func() {
					if recover() == nil {
						t.Error("rows cut short were accepted")
					}
				}()
				s.MulStored(name)(make([]float32, 2), make([]byte, 127), make([]float32, 32), false)
			}()
		}
		if s.MulStored("q8_0") != nil {
			t.Error("a type that has to be decoded first is multiplied")
		}
	})
}

// So do products of real numbers: what takes few rows as they lie and what is packed agree.
func TestMulFew(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, k := range []int{1, 255, 256, 600} {
			for _, n := range []int{1, 16, 33} {
				x, w := matrix(rng, 7, k, 3), matrix(rng, n, k, 5)
				for _, add := range []bool{false, true} {
					many, one := View(make([]float32, 7*n), 7, n), View(make([]float32, n), 1, n)
					copy(many.Data, fill(rng, 7*n))
					copy(one.Data, many.Row(5))
					packedProduct(t, s, many, x, w, add)
					s.GemmNT(one, x.Slice(5, 6, 0, k), w, add)
					if !slices.Equal(one.Data, many.Row(5)) {
						t.Fatalf("[%d,%d] add %v: a row alone has other bits", n, k, add)
					}
				}
			}
		}
	})
}

func TestPackedPanics(t *testing.T) {
	levels(t, testPackedPanics)
}

func testPackedPanics(t *testing.T, s *Set) {
	x := View(make([]float32, 300), 30, 10)
	for name, fn := range map[string]func(){
		"short left":  func() { s.NewLeft(make([]float32, 299), 30, 10) },
		"short right": func() { s.PackRight(make([]float32, 299), x) },
		"bytes":       func() { s.PackStored("f16")(make([]float32, 1000), make([]byte, 9), 1, 5) },
		"middle":      func() { s.PackLeft(s.NewLeft(make([]float32, 400), 30, 10), x, 1, 30) },
		"end":         func() { s.NewLeft(make([]float32, 400), 30, 10).Rows(0, 29) },
		"k": func() {
			s.MulPacked(View(x.Data, 30, 5), s.NewLeft(make([]float32, 400), 30, 10), s.PackRight(make([]float32, 400), View(x.Data, 5, 9)), false)
		},
	} {
		func() {
			defer func() {
				// Portable keeps no groups: any row may begin or end a part
				if free := s.Level() == cpu.Portable && (name == "middle" || name == "end"); (recover() == nil) != free {
					t.Errorf("%s on %s: a panic is wrong: %v", name, s.Level(), free)
				}
			}()
			fn()
		}()
	}
}
