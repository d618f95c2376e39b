package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// levels runs a test for every level that this machine and binary have.
func levels(t *testing.T, fn func(t *testing.T, s *Set)) {
	for _, s := range All() {
		t.Run(string(s.Level()), func(t *testing.T) { fn(t, s) })
	}
}

const guard = 33 // odd, so that rows are not aligned to a vector

// guarded returns n numbers between zones of NaN: reading past either end poisons a sum, and check
// says whether anything was written there.
func guarded(n int) (x []float32, check func(t *testing.T)) {
	all := make([]float32, n+2*guard)
	nan := float32(math.NaN())
	for i := range all {
		all[i] = nan
	}
	return all[guard : guard+n : guard+n], func(t *testing.T) {
		t.Helper()
		for i, v := range all {
			if (i < guard || i >= guard+n) && v == v {
				t.Fatalf("wrote outside the slice, at %d of %d", i-guard, n)
			}
		}
	}
}

func random(rng *rand.Rand, n int) []float32 {
	x, _ := guarded(n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// sizes are all lengths to 70 and a few long ones, around the pieces that kernels work in.
func sizes() []int {
	var n []int
	for i := range 71 {
		n = append(n, i)
	}
	return append(n, 127, 128, 129, 255, 257, 1000)
}

// near fails unless got is within tol of want, or both are NaN or the same infinity.
func near(t *testing.T, what string, got, want, tol float64) {
	t.Helper()
	if got == want || math.IsNaN(got) && math.IsNaN(want) {
		return
	}
	if !(math.Abs(got-want) <= tol) {
		t.Fatalf("%s: got %v, want %v ± %v", what, got, want, tol)
	}
}

// dot64 is the dot product in double precision and the sum of the magnitudes, which scales the error.
func dot64(a, b []float32) (sum, size float64) {
	for i := range a {
		p := float64(a[i]) * float64(b[i])
		sum += p
		size += math.Abs(p)
	}
	return sum, size
}

// eps is the rounding unit of float32; a sum of n products errs by at most about n units of the sum of
// magnitudes, in practice by far less.
const eps = 1. / (1 << 24)

func TestDot(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, n := range sizes() {
			a, b := random(rng, n), random(rng, n)
			want, size := dot64(a, b)
			near(t, fmt.Sprint("n=", n), float64(s.Dot(a, b)), want, 8*eps*size)
		}
	})
}

func matrix(rng *rand.Rand, rows, cols, pad int) Matrix {
	m := Matrix{random(rng, rows*(cols+pad)), rows, cols, cols + pad}
	for i := range rows {
		for j := range pad {
			m.Data[i*m.Stride+cols+j] = float32(math.NaN())
		}
	}
	return m
}

func TestGemmNT(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, m := range []int{0, 1, 2, 3, 4, 5, 7, 9, 66} {
			for _, n := range []int{0, 1, 2, 5, 6, 7, 13, 25} {
				for _, k := range []int{0, 1, 3, 15, 16, 17, 33, 100, 1024, 1537, 2600} {
					if k > 100 && m > 9 && n > 7 {
						continue
					}
					x, w := matrix(rng, m, k, 3), matrix(rng, n, k, 5)
					dst, check := guarded(m * (n + 2))
					d := Matrix{dst, m, n, n + 2}
					for _, add := range []bool{false, true} {
						before := slices.Clone(dst)
						s.GemmNT(d, x, w, add)
						check(t)
						for i := range m {
							for j := range n {
								want, size := dot64(x.Row(i), w.Row(j))
								if add {
									want += float64(before[i*d.Stride+j])
									size += math.Abs(want)
								}
								near(t, fmt.Sprintf("%dx%dx%d add %v [%d,%d]", m, n, k, add, i, j), float64(d.Row(i)[j]), want, 8*eps*size)
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

// The bits of an element depend on its row, its column and k alone.
func TestGemmIgnoresTiles(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, k := range []int{7, 64, 1000, 3000} {
			const m, n = 21, 50
			x, w, b := matrix(rng, m, k, 1), matrix(rng, n, k, 0), matrix(rng, k, n, 2)
			for name, gemm := range map[string]func(dst Matrix, r0, r1, c0, c1 int){
				"nt": func(d Matrix, r0, r1, c0, c1 int) { s.GemmNT(d, x.Slice(r0, r1, 0, k), w.Slice(c0, c1, 0, k), false) },
				"nn": func(d Matrix, r0, r1, c0, c1 int) { s.GemmNN(d, x.Slice(r0, r1, 0, k), b.Slice(0, k, c0, c1), false) },
			} {
				whole := View(make([]float32, m*n), m, n)
				gemm(whole, 0, m, 0, n)
				for range 60 {
					r0, c0 := rng.IntN(m), rng.IntN(n)
					r1, c1 := r0+1+rng.IntN(m-r0), c0+1+rng.IntN(n-c0)
					part := View(make([]float32, (r1-r0)*(c1-c0)), r1-r0, c1-c0)
					gemm(part, r0, r1, c0, c1)
					for i := r0; i < r1; i++ {
						if !slices.Equal(part.Row(i-r0), whole.Row(i)[c0:c1]) {
							t.Fatalf("%s k=%d: rows %d:%d, columns %d:%d differ from the whole", name, k, r0, r1, c0, c1)
						}
					}
				}
			}
		}
	})
}

func TestGemmNN(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, m := range []int{0, 1, 2, 3, 7, 8, 9, 70} {
			for _, n := range []int{0, 1, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 70} {
				for _, k := range []int{0, 1, 2, 5, 17, 300} {
					a, b := matrix(rng, m, k, 1), matrix(rng, k, n, 3)
					dst, check := guarded(m * (n + 1))
					d := Matrix{dst, m, n, n + 1}
					for _, add := range []bool{false, true} {
						before := slices.Clone(dst)
						s.GemmNN(d, a, b, add)
						check(t)
						col := make([]float32, k)
						for i := range m {
							for j := range n {
								for p := range col {
									col[p] = b.Row(p)[j]
								}
								want, size := dot64(a.Row(i), col)
								if add {
									want += float64(before[i*d.Stride+j])
									size += math.Abs(float64(before[i*d.Stride+j]))
								}
								near(t, fmt.Sprintf("%dx%dx%d add %v [%d,%d]", m, n, k, add, i, j), float64(d.Row(i)[j]), want, 40*eps*size)
							}
							if v := dst[i*d.Stride+n]; v == v {
								t.Fatal("wrote between the rows")
							}
						}
					}
				}
			}
		}
	})
}

// The double-precision product against the definition, at every shape of edge.
func TestGemmNN64(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, m := range []int{0, 1, 7, 8, 9, 17, 70} {
			for _, n := range []int{0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 66, 70} {
				for _, k := range []int{0, 1, 5, 300} {
					a, b, d := View(make([]float64, m*k), m, k), View(make([]float64, k*n), k, n), View(make([]float64, m*n), m, n)
					for _, x := range []Matrix64{a, b, d} {
						for i := range x.Data {
							x.Data[i] = rng.NormFloat64()
						}
					}
					for _, add := range []bool{true, false} {
						before := slices.Clone(d.Data)
						s.GemmNN64(d, a, b, add)
						for i := range m {
							for j := range n {
								want := 0.
								if add {
									want = before[i*n+j]
								}
								for p := range k {
									want += a.Row(i)[p] * b.Row(p)[j]
								}
								near(t, fmt.Sprintf("%dx%dx%d add %v [%d,%d]", m, n, k, add, i, j), d.Row(i)[j], want, 1e-13*float64(k+1))
							}
						}
					}
				}
			}
		}
	})
}

func TestGram(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, k := range []int{1, 5, 31, 32, 33, 50, 70} {
			const rows = 700
			x := random(rng, rows*k)
			g := s.NewGram(k)
			if err := g.Add(t.Context(), 2, x); err != nil {
				t.Fatal(err)
			}
			sum, err := g.Sum(t.Context(), 2)
			if err != nil || g.Rows() != rows {
				t.Fatal(g.Rows(), err)
			}
			for i := range k {
				for j := range k {
					var want, size float64
					for r := range rows {
						p := float64(x[r*k+i]) * float64(x[r*k+j])
						want += p
						size += math.Abs(p)
					}
					near(t, fmt.Sprintf("k=%d [%d,%d]", k, i, j), sum[i*k+j], want, 16*eps*size)
				}
			}
			// neither the pieces nor the threads change a bit
			h := s.NewGram(k)
			for at := 0; at < rows; {
				n := min(1+rng.IntN(300), rows-at)
				if err := h.Add(t.Context(), 1, x[at*k:(at+n)*k]); err != nil {
					t.Fatal(err)
				}
				at += n
			}
			if again, err := h.Sum(t.Context(), 1); err != nil || !slices.Equal(again, sum) {
				t.Errorf("k=%d: the sum depends on how the rows were given (%v)", k, err)
			}
		}
	})
}

func TestShapesPanic(t *testing.T) {
	s := All()[0]
	for name, fn := range map[string]func(){
		"dot": func() { s.Dot(make([]float32, 2), make([]float32, 3)) },
		"gemm": func() {
			s.GemmNT(View(make([]float32, 4), 2, 2), View(make([]float32, 6), 2, 3), View(make([]float32, 8), 2, 4), false)
		},
		"short": func() {
			s.GemmNN(View(make([]float32, 3), 2, 2), View(make([]float32, 4), 2, 2), View(make([]float32, 4), 2, 2), false)
		},
		"decode": func() { s.DecodeRow("q8_0")(make([]float32, 32), make([]byte, 33)) },
		"part":   func() { s.DecodeRow("q4_k")(make([]float32, 255), make([]byte, 144)) },
		"slice":  func() { Matrix{}.Slice(0, 1, 0, 0) },
		"add":    func() { s.Add(make([]float32, 1), nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			fn()
		}()
	}
}
