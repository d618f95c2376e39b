package kernels

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
)

// randomBF16 is a matrix whose rows end in NaN, between zones of NaN.
func randomBF16(rng *rand.Rand, rows, cols, pad int) MatrixBF16 {
	all := slices.Repeat([]uint16{0x7fc0}, guard+rows*(cols+pad)+guard)
	m := MatrixBF16{all[guard : len(all)-guard], rows, cols, cols + pad}
	for i := range rows {
		for j := range cols {
			m.Data[i*m.Stride+j] = uint16(math.Float32bits(float32(rng.NormFloat64())) >> 16)
		}
	}
	return m
}

// turned is a transposed copy with padded rows.
func turned(m MatrixBF16, pad int) MatrixBF16 {
	out := randomBF16(newRand(), m.Cols, m.Rows, pad)
	for i := range m.Rows {
		for j, v := range m.Row(i) {
			out.Data[j*out.Stride+i] = v
		}
	}
	return out
}

// toOdd is a+b rounded to odd, as arm64 adds products of bfloat16: cut off, and odd when anything was.
func toOdd(a, b float32) float32 {
	x, y := float64(a), float64(b)
	sum := x + y
	part := sum - x
	rest := (x - (sum - part)) + (y - part) // what sum lacks: exact, by Knuth's two-sum
	cut := math.Float32bits(float32(sum))
	if v := float64(float32(sum)); math.Abs(v) > math.Abs(sum) || v == sum && rest != 0 && math.Signbit(rest) != math.Signbit(sum) {
		cut--
	}
	if float64(math.Float32frombits(cut)) != sum || rest != 0 {
		cut |= 1
	}
	return math.Float32frombits(cut)
}

// pairSum is the documented order of products of pairs.
func pairSum(level cpu.Level, a, b []float32, dst float32, add bool) float32 {
	for k := 0; k < len(a); k += 512 {
		var s float32
		for i := k; i < min(len(a), k+512); i += 2 {
			var a1, b1 float32
			if i+1 < len(a) {
				a1, b1 = a[i+1], b[i+1]
			}
			if level == cpu.BF16 {
				s = toOdd(s, toOdd(a[i]*b[i], a1*b1))
			} else {
				s = fma32(a[i], b[i], fma32(a1, b1, s))
			}
		}
		if k > 0 || add {
			s = dst + s
		}
		dst = s
	}
	return dst
}

func TestToOdd(t *testing.T) {
	ulp := float32(1. / (1 << 23))
	for _, c := range []struct{ a, b, want float32 }{
		{1, 2, 3},                 // exact
		{1, ulp / 4, 1 + ulp},     // cut to 1, which is even
		{1 + ulp, 1e-20, 1 + ulp}, // odd already, the rest far below double precision's last bit
		{1, -1e-20, 1 - ulp/2},    // just below 1, whose neighbour is odd
		{-1, 1e-20, -1 + ulp/2},
		{1 + 2*ulp, 1e-30, 1 + 3*ulp},
	} {
		if got := toOdd(c.a, c.b); got != c.want {
			t.Errorf("%v + %v is %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

// Against double precision, and bit for bit in the documented order at the levels that have one.
func TestGemmBF16(t *testing.T) {
	check := func(t *testing.T, s *Set, m, n, k int) {
		rng := rand.New(rand.NewPCG(uint64(m*1000+n), uint64(k)))
		a, b := randomBF16(rng, m, k, 3), randomBF16(rng, n, k, 2)
		forms := map[Form][2]MatrixBF16{NT: {a, b}, NN: {a, turned(b, 1)}, TN: {turned(a, 4), turned(b, 0)}}
		wa, wb := widened(a), widened(b)
		start := randomDense[float32](rng, m, n, 2)
		for _, add := range []bool{false, true} {
			for form, ab := range forms {
				for _, threads := range []int{1, 3} {
					got := start
					got.Data = slices.Clone(start.Data)
					if err := GemmBF16(t.Context(), s, threads, form, got, ab[0], ab[1], add); err != nil {
						t.Fatal(err)
					}
					for i := range m {
						for _, v := range got.Data[i*got.Stride+n:][:2] {
							if v == v {
								t.Fatal("wrote between the rows")
							}
						}
						for j := range n {
							if m*n > 2000 && (i*n+j)%97 > 0 && i < m-2 && j < n-1 {
								continue // a sample of large products, and their ends
							}
							v, was := got.Row(i)[j], start.Row(i)[j]
							what := fmt.Sprintf("form %d %dx%dx%d add %v threads %d [%d,%d]", form, m, n, k, add, threads, i, j)
							want, size := dot64(wa.Row(i), wb.Row(j))
							if add {
								want += float64(was)
								size += math.Abs(float64(was))
							}
							near(t, what, float64(v), want, 32*eps*size)
							exact := v
							switch {
							case k == 0 || s.Level() == cpu.Portable:
							case s.Level() == cpu.AVX512BF16 || s.Level() == cpu.BF16:
								exact = pairSum(s.Level(), wa.Row(i), wb.Row(j), was, add)
							default:
								exact = pieceSum(wa.Row(i), wb.Row(j), was, add)
							}
							if exact != v {
								t.Fatalf("%s is %v, in the documented order %v", what, v, exact)
							}
						}
					}
				}
			}
		}
	}
	levels(t, func(t *testing.T, s *Set) {
		for _, m := range []int{0, 1, 4, 13, 37} {
			for _, n := range []int{0, 1, 16, 31, 70} {
				for _, k := range []int{0, 1, 7, 300} {
					check(t, s, m, n, k)
				}
			}
		}
		if testing.Short() || s.Level() == cpu.Portable {
			return
		}
		check(t, s, 4500, 3, 5)    // two blocks of rows
		check(t, s, 60, 700, 1201) // bands of columns, pieces of an odd k
		check(t, s, 157, 1031, 513)
	})
}

// Pairs are multiplied by processors that take numbers below the normal ones for zeros; others widen them.
func TestGemmBF16Tiny(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		dst := View([]float32{5}, 1, 1)
		a, b := View([]uint16{1}, 1, 1), View([]uint16{0x7e80}, 1, 1) // 2^-133 and 2^126
		if err := GemmBF16(t.Context(), s, 1, NN, dst, a, b, false); err != nil {
			t.Fatal(err)
		}
		want := float32(1. / 128)
		if s.Level() == cpu.AVX512BF16 || s.Level() == cpu.BF16 {
			want = 0
		}
		if dst.Data[0] != want {
			t.Errorf("got %v, want %v", dst.Data[0], want)
		}
	})
}

func TestGemmBF16Cancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	levels(t, func(t *testing.T, s *Set) {
		x := View(make([]uint16, 400*400), 400, 400)
		if err := GemmBF16(ctx, s, 2, NT, View(make([]float32, 400*400), 400, 400), x, x, false); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want cancelled", err)
		}
	})
}
