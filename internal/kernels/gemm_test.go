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

// randomDense is a matrix whose rows end in NaN, between zones of NaN.
func randomDense[T float32 | float64](rng *rand.Rand, rows, cols, pad int) Dense[T] {
	all := make([]T, guard+rows*(cols+pad)+guard)
	for i := range all {
		all[i] = T(math.NaN())
	}
	m := Dense[T]{all[guard : len(all)-guard], rows, cols, cols + pad}
	for i := range rows {
		for j := range m.Data[i*m.Stride:][:cols] {
			m.Data[i*m.Stride+j] = T(rng.NormFloat64())
		}
	}
	return m
}

func transposed[T float32 | float64](m Dense[T]) Dense[T] {
	out := View(make([]T, m.Rows*m.Cols), m.Cols, m.Rows)
	for i := range m.Rows {
		for j, v := range m.Row(i) {
			out.Data[j*out.Stride+i] = v
		}
	}
	return out
}

// orderedSum is pieceSum for both types.
func orderedSum[T float32 | float64](a, b []T, dst T, add bool) T {
	switch a := any(a).(type) {
	case []float32:
		return T(pieceSum(a, any(b).([]float32), float32(dst), add))
	case []float64:
		for k := 0; k < len(a); k += 256 {
			var s float64
			for i := k; i < min(len(a), k+256); i++ {
				s = math.FMA(a[i], float64(b[i]), s)
			}
			if k > 0 || add {
				s = float64(dst) + s
			}
			dst = T(s)
		}
		if len(a) == 0 && !add {
			dst = 0
		}
	}
	return dst
}

// checkGemm compares all forms on one and several threads with sums in double precision and, at the
// levels that promise it, with the documented order, bit for bit.
func checkGemm[T float32 | float64](t *testing.T, s *Set, m, n, k int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(m*1000+n), uint64(k)))
	a, b := randomDense[T](rng, m, k, 3), randomDense[T](rng, n, k, 1)
	at, bt := transposed(a), transposed(b)
	start := randomDense[T](rng, m, n, 2)
	unit := eps * 32
	if isDouble[T]() {
		unit = 32. / (1 << 53)
	}
	for _, add := range []bool{false, true} {
		if !add && m*n > 4000 {
			continue
		}
		for form, ab := range map[Form][2]Dense[T]{NT: {a, b}, NN: {a, bt}, TN: {at, bt}} {
			for _, threads := range []int{1, 3} {
				got := start
				got.Data = slices.Clone(start.Data)
				if err := Gemm(t.Context(), s, threads, form, got, ab[0], ab[1], add); err != nil {
					t.Fatal(err)
				}
				for i := range m {
					for _, v := range got.Data[i*got.Stride+n:][:2] {
						if v == v {
							t.Fatal("wrote between the rows")
						}
					}
					for j := range n {
						if m*n > 4000 && (i*n+j)%997 > 0 && i < m-3 && j < n-1 {
							continue // a sample of large products, and their ends
						}
						v, was := got.Row(i)[j], start.Row(i)[j]
						what := fmt.Sprintf("form %d %dx%dx%d add %v threads %d [%d,%d]", form, m, n, k, add, threads, i, j)
						var want, size float64
						for p, x := range a.Row(i) {
							y := float64(x) * float64(b.Row(j)[p])
							want += y
							size += math.Abs(y)
						}
						if add {
							want += float64(was)
							size += math.Abs(float64(was))
						}
						near(t, what, float64(v), want, unit*size)
						if s.Level() == cpu.Portable || m*n > 300 && (i+j)%7 > 0 {
							continue
						}
						if exact := orderedSum(a.Row(i), b.Row(j), was, add); exact != v {
							t.Fatalf("%s is %v, in the documented order %v", what, v, exact)
						}
					}
				}
			}
		}
	}
}

func TestGemm(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		for _, m := range []int{0, 1, 4, 13, 37} {
			for _, n := range []int{0, 1, 16, 31, 70} {
				for _, k := range []int{0, 7, 300} {
					checkGemm[float32](t, s, m, n, k)
					checkGemm[float64](t, s, m, n, k)
				}
			}
		}
		if testing.Short() || s.Level() == cpu.Portable {
			return
		}
		checkGemm[float32](t, s, 4500, 3, 5)     // two blocks of rows
		checkGemm[float64](t, s, 4096, 40, 1100) // two of k
		checkGemm[float32](t, s, 60, 700, 600)   // bands of columns
		checkGemm[float32](t, s, 700, 20, 600)   // parts of the rows of a band
		checkGemm[float32](t, s, 400, 1300, 300) // on several threads, bands that are packed by one and by all
		checkGemm[float32](t, s, 157, 1031, 600) // rows of dst pages apart: sums wait elsewhere
		checkGemm[float64](t, s, 133, 521, 600)
	})
}

func TestGemmCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	levels(t, func(t *testing.T, s *Set) {
		x := View(make([]float32, 400*400), 400, 400)
		if err := Gemm(ctx, s, 2, NT, View(make([]float32, 400*400), 400, 400), x, x, false); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want cancelled", err)
		}
	})
}
