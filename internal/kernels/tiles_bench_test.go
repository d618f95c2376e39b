package kernels

import (
	"fmt"
	"sync"
	"testing"
)

// BenchmarkTiles multiplies one token with more weights than the caches hold, by one worker and by two
// (GB/s), and a batch of tokens with a weight of usual size (GMAC/s).
func BenchmarkTiles(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		for _, name := range tiledNames() {
			tl := s.Tiler(name)
			for _, workers := range []int{1, 2} {
				b.Run(fmt.Sprintf("%s/decode/%d", name, workers), func(b *testing.B) {
					const cols, tiles = 2048, 12288
					one, _ := tileWeights(newRand(), []*Set{s}, name, TileRows, cols, true)
					w := make([]byte, 0, tiles*len(one))
					for range tiles {
						w = append(w, one...)
					}
					x, d := View(fill(newRand(), cols), 1, cols), make([]float32, tiles*TileRows)
					var a Activations
					a.Reset(1, cols)
					s.Quantize(&a, x, 0, 1)
					b.SetBytes(int64(len(w)))
					for b.Loop() {
						var wg sync.WaitGroup
						part := tiles / workers
						for i := range workers {
							wg.Go(func() {
								y := d[i*part*TileRows:][:part*TileRows]
								tl.Mul(View(y, 1, len(y)), &a, w[i*part*len(one):][:part*len(one)], false)
							})
						}
						wg.Wait()
					}
				})
			}
			for _, c := range [][3]int{{2, 2048, 2048}, {4, 2048, 2048}, {8, 2048, 2048}, {128, 2048, 2048}, {512, 512, 1024}, {512, 512, 5632}} {
				m, n, k := c[0], c[1], c[2]
				b.Run(fmt.Sprintf("%s/%dx%dx%d", name, m, n, k), func(b *testing.B) {
					w, _ := tileWeights(newRand(), []*Set{s}, name, n, k, true)
					x, d := View(fill(newRand(), m*k), m, k), View(make([]float32, m*n), m, n)
					var a Activations
					a.Reset(m, k)
					s.Quantize(&a, x, 0, m)
					for b.Loop() {
						tl.Mul(d, &a, w, false)
					}
					b.ReportMetric(float64(m)*float64(n)*float64(k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
				})
			}
		}
	})
}

func BenchmarkQuantizeActivations(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		const m, k = 16, 2048
		x := View(fill(newRand(), m*k), m, k)
		var a Activations
		a.Reset(m, k)
		b.SetBytes(4 * m * k)
		for b.Loop() {
			s.Quantize(&a, x, 0, m)
		}
	})
}

// BenchmarkPackTiles turns rows of a weight into tiles, in and out of memory.
func BenchmarkPackTiles(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		for _, name := range tiledNames() {
			b.Run(name, func(b *testing.B) {
				const cols, tiles = 2048, 512
				tl := s.Tiler(name)
				rows, dst := tileRows(newRand(), name, tiles*TileRows, cols, true), make([]byte, tiles*tl.Bytes(cols))
				ld := len(rows) / tiles
				b.SetBytes(int64(len(rows)))
				for b.Loop() {
					for i := range tiles {
						size := tl.Bytes(cols)
						tl.Pack(dst[i*size:][:size], rows[i*ld:][:ld], TileRows, cols)
					}
				}
			})
		}
	})
}
