package kernels

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

func eachLevel(b *testing.B, fn func(b *testing.B, s *Set)) {
	for _, s := range All() {
		b.Run(string(s.Level()), func(b *testing.B) { fn(b, s) })
	}
}

// gflops reports 2*mnk operations a run as GFLOP/s.
func gflops(b *testing.B, ops float64) {
	b.ReportMetric(2*ops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}

func BenchmarkGemmNT(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		for _, c := range [][3]int{{1, 4096, 4096}, {4, 1024, 4096}, {8, 1024, 4096}, {512, 256, 256}, {512, 512, 1024}, {512, 512, 4096}, {512, 64, 11008}} {
			m, n, k := c[0], c[1], c[2]
			b.Run(fmt.Sprintf("%dx%dx%d", m, n, k), func(b *testing.B) {
				rng := newRand()
				x, w, d := View(fill(rng, m*k), m, k), View(fill(rng, n*k), n, k), View(make([]float32, m*n), m, n)
				b.ReportAllocs()
				for b.Loop() {
					s.GemmNT(d, x, w, false)
				}
				gflops(b, float64(m)*float64(n)*float64(k))
				b.ReportMetric(4*float64(n*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
			})
		}
	})
	b.Run("gonum/512x512x1024", func(b *testing.B) {
		rng := newRand()
		x, w, d := fill(rng, 512*1024), fill(rng, 512*1024), make([]float32, 512*512)
		for b.Loop() {
			gonum.Implementation{}.Sgemm(blas.NoTrans, blas.Trans, 512, 512, 1024, 1, x, 1024, w, 1024, 0, d, 512)
		}
		gflops(b, 512*512*1024)
	})
}

func BenchmarkGemmNN(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		for _, c := range [][3]int{{512, 4096, 16}, {512, 2048, 128}, {8, 128, 2048}, {512, 512, 512}} {
			m, n, k := c[0], c[1], c[2]
			b.Run(fmt.Sprintf("%dx%dx%d", m, n, k), func(b *testing.B) {
				rng := newRand()
				x, w, d := View(fill(rng, m*k), m, k), View(fill(rng, n*k), k, n), View(make([]float32, m*n), m, n)
				for b.Loop() {
					s.GemmNN(d, x, w, false)
				}
				gflops(b, float64(m)*float64(n)*float64(k))
			})
		}
	})
}

// Whole products on one thread, of float32 and of bfloat16.
func BenchmarkGemm(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		for _, n := range []int{1024, 2048} {
			x, y, d := View(fill(newRand(), n*n), n, n), View(fill(newRand(), n*n), n, n), View(make([]float32, n*n), n, n)
			hx, hy := View(make([]uint16, n*n), n, n), View(make([]uint16, n*n), n, n)
			for i := range x.Data {
				hx.Data[i], hy.Data[i] = uint16(math.Float32bits(x.Data[i])>>16), uint16(math.Float32bits(y.Data[i])>>16)
			}
			for _, c := range []struct {
				name string
				fn   func() error
			}{
				{"f32", func() error { return Gemm(context.Background(), s, 1, NN, d, x, y, false) }},
				{"bf16", func() error { return GemmBF16(context.Background(), s, 1, NN, d, hx, hy, false) }},
			} {
				b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
					for b.Loop() {
						if err := c.fn(); err != nil {
							b.Fatal(err)
						}
					}
					gflops(b, float64(n)*float64(n)*float64(n))
				})
			}
		}
	})
}

func BenchmarkGram(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		const rows, k = 512, 1024
		x := fill(newRand(), rows*k)
		g := s.NewGram(k)
		for b.Loop() {
			if err := g.Add(context.Background(), 1, x); err != nil {
				b.Fatal(err)
			}
		}
		gflops(b, rows*k*(k+gramCols)/2)
	})
}

func BenchmarkDot(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		x, y := fill(newRand(), 4096), fill(newRand(), 4096)
		for b.Loop() {
			s.Dot(x, y)
		}
		gflops(b, 4096)
	})
}

func BenchmarkDecodeRow(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		for _, name := range []string{"f16", "bf16", "q8_0", "q4_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"} {
			b.Run(name, func(b *testing.B) {
				const n = 1 << 14
				src, dst, decode := randomBlocks(newRand(), name, n/blocks[name].elems, true), make([]float32, n), s.DecodeRow(name)
				for b.Loop() {
					decode(dst, src)
				}
				b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gelem/s")
			})
		}
	})
}

func BenchmarkMulStored(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		for _, name := range []string{"f16", "bf16"} {
			b.Run(name, func(b *testing.B) {
				const n, k = 8192, 2048 // from memory
				rows, x, dst, mul := randomBlocks(newRand(), name, n*k, true), fill(newRand(), k), make([]float32, n), s.MulStored(name)
				b.SetBytes(int64(len(rows)))
				for b.Loop() {
					mul(dst, rows, x, false)
				}
			})
		}
	})
}

func BenchmarkRows(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		const n = 4096
		rng := newRand()
		x, y, z := fill(rng, n), fill(rng, n), make([]float32, n)
		for name, fn := range map[string]func(){
			"softmax": func() { copy(z, x); s.Softmax(z) },
			"rmsnorm": func() { s.RMSNorm(z, x, y, 1e-5) },
			"silu":    func() { s.SiLUMul(z, x, y) },
			"rope":    func() { copy(z, x); s.RoPE(z, y[:n/2], y[n/2:]) },
			"axpy":    func() { s.Axpy(z, 1e-9, x) },
			"stats":   func() { s.LogitStats(x) },
			"pair":    func() { s.LogitPair(x, y) },
			"deviate": func() { s.Deviation(x, y) },
		} {
			b.Run(name, func(b *testing.B) {
				for b.Loop() {
					fn()
				}
				b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gelem/s")
			})
		}
	})
}

// fill makes n random numbers that begin on a page, as large allocations do.
func fill(rng *rand.Rand, n int) []float32 {
	x := make([]float32, max(n, 1<<14))[:n]
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

func BenchmarkMax(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		x := fill(newRand(), 1<<14)
		b.SetBytes(4 << 14)
		for b.Loop() {
			s.Max(x)
		}
	})
}
