package kernels

import (
	"fmt"
	"testing"
)

// What is left of the arithmetic peak when a band of weights is packed and meets all tokens.
func BenchmarkMulPacked(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		for _, c := range [][3]int{{512, 128, 2048}, {512, 64, 5632}, {64, 128, 2048}, {8, 128, 2048}} {
			m, n, k := c[0], c[1], c[2]
			x, d := View(fill(newRand(), m*k), m, k), View(make([]float32, m*n), m, n)
			rows := randomBlocks(newRand(), "f16", n*k, true)
			l := s.NewLeft(make([]float32, s.LeftLen(m, k)), m, k)
			s.PackLeft(l, x, 0, m)
			pack, buf := s.PackStored("f16"), make([]float32, s.RightLen(n, k))
			b.Run(fmt.Sprintf("%dx%dx%d", m, n, k), func(b *testing.B) {
				for b.Loop() {
					s.MulPacked(d, l, pack(buf, rows, n, k), false)
				}
				gflops(b, float64(m)*float64(n)*float64(k))
			})
		}
	})
}

func BenchmarkPack(b *testing.B) {
	eachLevel(b, func(b *testing.B, s *Set) {
		const n, k = 128, 2048
		x := View(fill(newRand(), n*k), n, k)
		rows := randomBlocks(newRand(), "f16", n*k, true)
		l, buf := s.NewLeft(make([]float32, s.LeftLen(n, k)), n, k), make([]float32, s.RightLen(n, k))
		for name, fn := range map[string]func(){
			"left":  func() { s.PackLeft(l, x, 0, n) },
			"right": func() { s.PackRight(buf, x) },
			"f16":   func() { s.PackStored("f16")(buf, rows, n, k) },
		} {
			b.Run(name, func(b *testing.B) {
				for b.Loop() {
					fn()
				}
				b.ReportMetric(n*k*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gelem/s")
			})
		}
	})
}
