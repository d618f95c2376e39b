package kernels

import "testing"

// Layers of small networks for images: what a pixel costs.
func BenchmarkConv(b *testing.B) {
	layers := []struct {
		name            string
		in, out, h, w   int
		k               Kernel
		planes, channel bool
	}{
		{"first 3x3/2 3-16", 3, 16, 160, 160, Kernel{3, 3, 2, 2, 1, 1}, true, false},
		{"1x1 16-16", 16, 16, 160, 160, Plain(1, 1), false, false},
		{"3x3 each of 16", 16, 16, 160, 160, Plain(3, 3), false, true},
		{"1x1 16-64", 16, 64, 80, 80, Plain(1, 1), false, false},
		{"1x1 64-64", 64, 64, 80, 80, Plain(1, 1), false, false},
		{"3x3 each of 64", 64, 64, 80, 80, Plain(3, 3), false, true},
		{"1x1 64-64 small", 64, 64, 10, 10, Plain(1, 1), false, false},
		{"5x5 8-16", 8, 16, 14, 14, Plain(5, 5), false, false},
		{"5 256-512", 256, 512, 508, 1, Plain(5, 1), false, false},
		{"dense 257-512", 257, 512, 1, 1, Plain(1, 1), false, false},
	}
	eachLevel(b, func(b *testing.B, s *Set) {
		for _, l := range layers {
			b.Run(l.name, func(b *testing.B) {
				rng := newRand()
				h, w := l.k.Span(l.h, l.w)
				dst := NewImage(make([]float32, l.h*l.w*l.out), l.h, l.w, l.out)
				x := NewImage(fill(rng, h*w*l.in), h, w, l.in)
				work := l.h * l.w * l.out * l.k.H * l.k.W
				if l.channel {
					d := s.NewDepthwise(l.k, l.in, fill(rng, l.in*l.k.H*l.k.W), nil)
					for b.Loop() {
						d.Run(dst, x, 0, infinity)
					}
				} else {
					work *= l.in
					c := s.NewConv(l.k, l.out, l.in, l.planes, fill(rng, l.in*l.out*l.k.H*l.k.W), nil)
					win := c.Windows(x.Row, x.Pixel, 0)
					if l.planes {
						win = c.Windows(w, 1, h*w)
					}
					for b.Loop() {
						c.Run(dst, x.Data, win, Finish{Lo: 0, Hi: infinity})
					}
				}
				gflops(b, float64(work))
			})
		}
	})
}
