package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// attention64 is softmax(scale q K^T) V of one row over positions [from,to), in double precision.
func attention64(q []float32, key, value func(j int) []float32, from, to int, scale float64) []float64 {
	out := make([]float64, len(q))
	top, sum := math.Inf(-1), 0.
	scores := make([]float64, to)
	for j := from; j < to; j++ {
		s, _ := dot64(q, key(j))
		scores[j] = s * scale
		top = max(top, scores[j])
	}
	for j := from; j < to; j++ {
		w := math.Exp(scores[j] - top)
		sum += w
		for d, v := range value(j) {
			out[d] += w * float64(v)
		}
	}
	for d := range out {
		out[d] /= sum
	}
	return out
}

// pageTest is how many positions the pages of these tests have.
const pageTest = 96

// attend runs pages of keys and values over rows of queries as the runner does.
func attend(t *testing.T, s *Set, q, k, v Matrix, span Span, scale float32) Matrix {
	m, dim := q.Rows, q.Cols
	matrix := func(rows, cols int) (Matrix, func(*testing.T)) {
		x, check := guarded(rows * cols)
		return View(x, rows, cols), check
	}
	acc, checkAcc := matrix(m, dim)
	sums := Sums{acc, make([]float32, m), make([]float32, m)}
	sums.Empty()
	for lo := 0; lo < k.Rows; lo += pageTest {
		n := min(pageTest, k.Rows-lo)
		panels := (n + Panel - 1) / Panel
		keys, checkKeys := matrix(panels*dim, Panel)
		clear(keys.Data)
		values, checkValues := matrix(n, dim)
		for at := 0; at < n; { // in unequal pieces
			end := min(n, at+1+at%7)
			s.PutF32(keys.Data, values.Data, Place{k.Slice(lo+at, lo+end, 0, dim), v.Slice(lo+at, lo+end, 0, dim), at})
			at = end
		}
		checkKeys(t)
		checkValues(t)
		scores, checkScores := matrix(m, panels*Panel)
		s.AttendScores(scores, q, Cached{Floats: keys.Data}, AheadOf(values.Data))
		checkScores(t)
		part, checkPart := matrix(m, dim)
		page := Sums{part, make([]float32, m), make([]float32, m)}
		s.AttendWeights(scores, page.Top, page.Sum, Span{span.From - lo, span.To - lo, span.Step}, scale)
		checkScores(t)
		s.AttendValues(part, scores.Slice(0, m, 0, n), Cached{Floats: values.Data}, Span{span.From - lo, span.To - lo, span.Step}, AheadOf(keys.Data[:n%3]))
		checkPart(t)
		s.AttendMerge(sums, page)
		checkAcc(t)
	}
	for r := range m {
		s.Scale(acc.Row(r), 1/sums.Sum[r])
	}
	return acc
}

// Attention by pages is attention: every level, heads of all widths, queries that see different
// positions, windows that leave whole pages out; and a row alone has the bits it has among others.
func TestAttend(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, dim := range []int{1, 2, 15, 16, 20, 32, 64, 80, 128} {
			for _, m := range []int{1, 2, 3, 4, 5, 7, 8, 9, 15, 20} {
				for _, n := range []int{40, 96, 97, 250} {
					if dim > 32 && n == 250 && m > 9 {
						continue
					}
					q, k, v := matrix(rng, m, dim, 3), matrix(rng, n, dim, 1), matrix(rng, n, dim, 2)
					for _, span := range []Span{{0, n, 0}, {0, n - m + 1, 1}, {n - m - 19, n - m + 1, 1}, {100 - n, n - m + 1, 1}} {
						scale := float32(1 / math.Sqrt(float64(dim)))
						got := attend(t, s, q, k, v, span, scale)
						for r := range m {
							from, to := max(0, span.From+r*span.Step), span.To+r*span.Step
							want := attention64(q.Row(r), k.Row, v.Row, from, to, float64(scale))
							for d, w := range want {
								near(t, fmt.Sprintf("dim %d, %d rows over %d, %+v: [%d,%d]", dim, m, n, span, r, d), float64(got.Row(r)[d]), w, 2e-5)
							}
						}
						if r := m - 1; n == 97 {
							alone := attend(t, s, q.Slice(r, m, 0, dim), k, v, Span{span.From + r*span.Step, span.To + r*span.Step, 0}, scale)
							if !slices.Equal(alone.Row(0), got.Row(r)) {
								t.Fatalf("dim %d, %d rows, %+v: the last row alone has other bits", dim, m, span)
							}
						}
					}
				}
			}
		}
	})
}

// Scores of halves and of codes, and sums of them, have the bits of those of the numbers they stand for.
func TestAttendCached(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, dim := range []int{1, 2, 15, 20, 32, 64, 80, 96, 128} {
			for _, n := range []int{1, 31, 32, 64, 96} {
				panels := (n + Panel - 1) / Panel
				place := Place{matrix(rng, n, dim, 3), matrix(rng, n, dim, 5), 0}
				k, v := make([]float32, panels*Panel*dim), make([]float32, n*dim)
				var keys, values [2]Cached
				keys[0].Halves, values[0].Halves = make([]uint16, len(k)), make([]uint16, len(v))
				s.PutF16(keys[0].Halves, values[0].Halves, place)
				kinds := 1
				if dim%32 == 0 {
					keys[1].Quants = Quants{make([]int8, len(k)), make([]uint16, len(k)/32)}
					values[1].Quants = Quants{make([]int8, len(v)), make([]uint16, len(v)/32)}
					s.PutQ8(keys[1].Quants, values[1].Quants, place)
					kinds = 2
				}
				for kind := range kinds {
					if kind == 0 {
						s.Widen(k, keys[0].Halves)
						s.Widen(v, values[0].Halves)
					} else {
						s.KeysQ8(k, keys[1].Quants, dim)
						s.ValuesQ8(v, values[1].Quants, dim)
					}
					for _, m := range []int{1, 2, 3, 4, 5, 6, 7, 8, 11, 16} {
						q, w := matrix(rng, m, dim, 3), matrix(rng, m, n, 3)
						got, checkGot := guarded(m * panels * Panel)
						want := View(make([]float32, len(got)), m, panels*Panel)
						s.AttendScores(View(got, m, panels*Panel), q, keys[kind], AheadOf(v))
						checkGot(t)
						s.AttendScores(want, q, Cached{Floats: k}, Ahead{})
						if !slices.Equal(got, want.Data) {
							t.Fatalf("type %d, dim %d, %d rows: other scores of %d positions than of float32", kind, dim, m, n)
						}
						for _, span := range []Span{{0, n, 0}, {n / 3, n - n/4, 0}} {
							got, checkGot := guarded(m * dim)
							want := View(make([]float32, len(got)), m, dim)
							s.AttendValues(View(got, m, dim), w, values[kind], span, AheadOf(k))
							checkGot(t)
							s.AttendValues(want, w, Cached{Floats: v}, span, Ahead{})
							if !slices.Equal(got, want.Data) {
								t.Fatalf("type %d, dim %d, %d rows: other sums of %d positions than of float32", kind, dim, m, n)
							}
						}
					}
				}
			}
		}
	})
}

// What a row does not see does not reach it, not even as 0 times infinity.
func TestAttendMasks(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, dim := range []int{1, 16, 20, 64, 128} {
			for _, m := range []int{1, 2, 3, 5, 8, 13, 32} {
				for _, span := range []Span{{0, 3, 1}, {-2, 3, 1}, {40 - m, 44 - m, 1}, {7, 9, 0}, {-9, -3, 1}} {
					const n = 44
					w, v := matrix(rng, m, n, 3), matrix(rng, n, dim, 5)
					for _, c := range []float32{inf, -inf, nan} {
						for r := range m {
							from, to := span.of(r, n)
							// all that this row does not see is c
							bad := View(slices.Repeat([]float32{c}, n*dim), n, dim)
							for j := range n {
								if j < from || j >= to {
									w.Row(r)[j] = 0
								} else {
									copy(bad.Row(j), v.Row(j))
								}
							}
							got, check := guarded(m * dim)
							dst := View(got, m, dim)
							s.AttendValues(dst, w, Cached{Floats: bad.Data}, span, Ahead{})
							check(t)
							for d, g := range dst.Row(r) {
								want, size := 0., 0.
								for j := from; j < to; j++ {
									p := float64(w.Row(r)[j]) * float64(v.Row(j)[d])
									want, size = want+p, size+math.Abs(p)
								}
								near(t, fmt.Sprintf("dim %d, %d rows, %+v among %v: [%d,%d]", dim, m, span, c, r, d), float64(g), want, 32*eps*size)
							}
						}
					}
				}
			}
		}
	})
}

// A row that sees nothing, scores that are all -Inf, and NaN.
func TestAttendWeightsSpecial(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	levels(t, func(t *testing.T, s *Set) {
		for _, n := range []int{1, 3, 16, 21, 40} {
			for _, c := range []struct {
				fill     float32
				to       int
				top, sum float64
			}{
				{nan, 0, math.Inf(-1), 0},
				{-inf, n, math.Inf(-1), 0},
				{2, n, 1, float64(n)},
				{nan, n, 0, math.NaN()},
			} {
				row, check := guarded(n)
				for i := range row {
					row[i] = c.fill
				}
				top, sum := []float32{7}, []float32{7}
				s.AttendWeights(View(row, 1, n), top, sum, Span{0, c.to, 0}, 0.5)
				check(t)
				what := fmt.Sprintf("%d of %v, %d seen", n, c.fill, c.to)
				near(t, what, float64(top[0]), c.top, 0)
				near(t, what, float64(sum[0]), c.sum, 1e-5)
				if c.to == 0 && slices.ContainsFunc(row, func(v float32) bool { return v != 0 }) {
					t.Errorf("%s: what is not seen weighs something", what)
				}
			}
		}
		// nothing was seen before, and nothing is in the page
		acc := Sums{View(make([]float32, 5), 1, 5), make([]float32, 1), make([]float32, 1)}
		acc.Empty()
		s.AttendMerge(acc, Sums{View([]float32{nan, 1, 2, 3, 4}, 1, 5), []float32{-inf}, []float32{0}})
		if !math.IsInf(float64(acc.Top[0]), -1) || acc.Sum[0] != 0 || acc.Acc.Data[0] != 0 {
			t.Errorf("a page without weight left %+v", acc)
		}
	})
}
