package kernels

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// atEdge is a copy of x that ends where memory ends: reading one byte further is a fault.
func atEdge[T any](t *testing.T, x []T) []T {
	t.Helper()
	page, size := unix.Getpagesize(), len(x)*int(unsafe.Sizeof(*new(T)))
	whole := (size + page - 1) / page * page
	b, err := unix.Mmap(-1, 0, whole+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	if err := unix.Mprotect(b[whole:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	if len(x) == 0 {
		return nil
	}
	out := unsafe.Slice((*T)(unsafe.Pointer(&b[whole-size])), len(x))
	copy(out, x)
	return out
}

// Operands may lie at the end of a mapped file, behind which nothing is: no kernel reads there, not even
// what it would throw away.
func TestNothingBehindOperands(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for name := range blocks {
			b := blocks[name]
			for _, n := range []int{1, 2, 3, 5, 17} {
				src := atEdge(t, randomBlocks(rng, name, n, true))
				s.DecodeRow(name)(atEdge(t, make([]float32, n*b.elems)), src)
			}
			if s.Tiler(name) == nil {
				continue
			}
			tl := s.Tiler(name)
			for _, rows := range []int{1, 7, 16} {
				cols := 3 * b.elems
				raw := atEdge(t, tileRows(rng, name, rows, cols, true))
				tile := atEdge(t, make([]byte, tl.Bytes(cols)))
				tl.Pack(tile, raw, rows, cols)
				for _, tokens := range []int{1, 2, 3, 5, 13} {
					var a Activations
					a.Reset(tokens, cols)
					s.Quantize(&a, View(atEdge(t, make([]float32, tokens*cols)), tokens, cols), 0, tokens)
					a.blocks = atEdge(t, a.blocks)
					tl.Mul(View(atEdge(t, make([]float32, tokens*rows)), tokens, rows), &a, tile, true)
				}
			}
		}
		for name, e := range encoders {
			for _, n := range []int{1, 3, 17, 70} {
				x := atEdge(t, random(rng, n*e.elems))
				s.Encode(name, atEdge(t, make([]byte, n*e.bytes)), x, nil, 0)
				w := atEdge(t, make([]float32, len(x)))
				for i := range w {
					w[i] = 1
				}
				s.Encode(name, atEdge(t, make([]byte, n*e.bytes)), x, w, 1)
			}
		}
		for _, k := range []int{1, 7, 31, 33, 63, 129, 300} {
			x := atEdge(t, random(rng, k))
			for _, n := range []int{1, 3, 5, 17, 33, 37} {
				dst := atEdge(t, make([]float32, n))
				for _, name := range []string{"f16", "bf16"} {
					raw := atEdge(t, make([]byte, 2*n*k))
					s.MulStored(name)(dst, raw, x, false)
					s.MulStored(name)(dst, raw, x, true)
					buf := make([]float32, s.RightLen(n, k))
					r := s.PackStored(name)(buf, raw, n, k)
					l := s.NewLeft(make([]float32, s.LeftLen(1, k)), 1, k)
					s.PackLeft(l, View(x, 1, k), 0, 1)
					s.MulPacked(View(dst, 1, n), l, r, true)
				}
				w := View(atEdge(t, random(rng, n*k)), n, k)
				for _, m := range []int{1, 2, 4, 5, 9} {
					a := View(atEdge(t, random(rng, m*k)), m, k)
					d := View(atEdge(t, make([]float32, m*n)), m, n)
					s.GemmNT(d, a, w, true)
					s.GemmNN(d, a, View(w.Data, k, n), true)
					a64, w64 := View(atEdge(t, make([]float64, m*k)), m, k), atEdge(t, make([]float64, n*k))
					d64 := View(atEdge(t, make([]float64, m*n)), m, n)
					s.GemmNT64(d64, a64, View(w64, n, k), true)
					s.GemmNN64(d64, a64, View(w64, k, n), true)
					ab, wb := View(atEdge(t, make([]uint16, m*k)), m, k), atEdge(t, make([]uint16, n*k))
					for form, b := range map[Form]MatrixBF16{NT: View(wb, n, k), NN: View(wb, k, n), TN: View(wb, k, n)} {
						l := ab
						if form == TN {
							l = View(ab.Data, k, m)
						}
						if err := GemmBF16(t.Context(), s, 1, form, d, l, b, true); err != nil {
							t.Fatal(err)
						}
					}
					if err := Gemm(t.Context(), s, 1, TN, d, View(a.Data, k, m), View(w.Data, k, n), true); err != nil {
						t.Fatal(err)
					}
				}
				for _, bits := range []int{4, 8} {
					for _, group := range []int{k, 8, 5} {
						p := &Planes{Rows: n, Cols: k, Bits: bits, Group: group, Codes: atEdge(t, make([]byte, n*PlaneBytes(bits, k)))}
						p.Scales = atEdge(t, make([]float32, n*((k+group-1)/group)))
						p.Zeros = atEdge(t, make([]byte, len(p.Scales)))
						if len(p.Scales) == 1 && p.Group < k {
							continue
						}
						if err := p.Check(); err != nil {
							t.Fatal(err)
						}
						s.MulPlanes(dst, x, p, 0, true)
						s.DecodePlanes(atEdge(t, make([]float32, k)), p, n-1)
					}
				}
			}
		}
		for _, dim := range []int{1, 2, 15, 16, 20, 32, 33, 64, 80, 96, 128} {
			for _, n := range []int{1, 31, 32, 96} {
				panels := (n + Panel - 1) / Panel
				for _, m := range []int{1, 2, 3, 5} {
					q, scores := View(atEdge(t, random(rng, m*dim)), m, dim), atEdge(t, make([]float32, m*panels*Panel))
					kinds := []Cached{{Floats: atEdge(t, make([]float32, panels*Panel*dim))}, {Halves: atEdge(t, make([]uint16, panels*Panel*dim))}}
					values := []Cached{{Floats: atEdge(t, make([]float32, n*dim))}, {Halves: atEdge(t, make([]uint16, n*dim))}}
					if dim%32 == 0 {
						kinds = append(kinds, Cached{Quants: Quants{atEdge(t, make([]int8, panels*Panel*dim)), atEdge(t, make([]uint16, panels*dim))}})
						values = append(values, Cached{Quants: Quants{atEdge(t, make([]int8, n*dim)), atEdge(t, make([]uint16, n*dim/32))}})
					}
					for i := range kinds {
						sc := View(scores, m, panels*Panel)
						s.AttendScores(sc, q, kinds[i], Ahead{})
						s.AttendWeights(sc, atEdge(t, make([]float32, m)), atEdge(t, make([]float32, m)), Span{0, n, 0}, 1)
						s.AttendValues(View(atEdge(t, make([]float32, m*dim)), m, dim), sc.Slice(0, m, 0, n), values[i], Span{0, n, 0}, Ahead{})
					}
				}
			}
		}
	})
}
