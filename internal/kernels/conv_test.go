package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// convCase is a convolution, and how its images lie.
type convCase struct {
	in, out, h, w int // channels, output pixels
	k             Kernel
	planes        bool
	gap           int // between pixels and between rows of images
	add           bool
	lo, hi        float32
}

var infinity = float32(math.Inf(1))

func convCases(rng *rand.Rand) []convCase {
	cases := []convCase{
		{16, 64, 3, 20, Plain(1, 1), false, 0, false, -infinity, infinity},
		{3, 16, 5, 13, Kernel{3, 3, 2, 2, 1, 1}, true, 0, false, 0, infinity},
		{1, 8, 7, 14, Plain(5, 5), false, 0, false, 0, infinity},
		{256, 130, 11, 1, Plain(5, 1), false, 0, true, -1, 1},
		{100, 70, 5, 7, Plain(3, 3), false, 0, false, -1, 1}, // windows taken in parts, by segments of 300
		{30, 70, 5, 7, Plain(5, 3), true, 2, false, -1, 1},   // and of 3
		{1, 34, 3, 1, Kernel{256, 1, 128, 1, 1, 1}, false, 0, false, -infinity, infinity},
	}
	for range 150 {
		pick := func(n ...int) int { return n[rng.IntN(len(n))] }
		c := convCase{in: 1 + rng.IntN(9), out: 1 + rng.IntN(140), h: 1 + rng.IntN(3), w: 1 + rng.IntN(29), planes: rng.IntN(3) == 0, gap: pick(0, 0, 3), add: rng.IntN(2) == 0, lo: -infinity, hi: infinity}
		c.k = Kernel{pick(1, 2, 3), pick(1, 3, 5), pick(1, 2), pick(1, 2, 3), pick(1, 2), pick(1, 2)}
		if rng.IntN(2) == 0 {
			c.lo, c.hi = -0.5, 1.5
		}
		cases = append(cases, c)
	}
	return cases
}

// image is h x w pixels of c random numbers between zones of NaN, with NaN in the gaps.
func image(rng *rand.Rand, h, w, c, gap int) (Image, func(t *testing.T)) {
	m := Image{H: h, W: w, C: c, Pixel: c + gap, Row: w*(c+gap) + gap}
	data, check := guarded(m.need(c))
	m.Data = data
	for i := range data {
		data[i] = float32(math.NaN())
	}
	for y := range h {
		for x := range w {
			for i := range c {
				data[y*m.Row+x*m.Pixel+i] = float32(rng.NormFloat64())
			}
		}
	}
	return m, check
}

// The definition of ONNX: y[o] = b[o] + sum of x[i, y*s+ky*d, x*s+kx*d] * w[o,i,ky,kx], in double precision.
func TestConv(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for n, c := range convCases(rng) {
			k := c.k
			spanH, spanW := k.Span(c.h, c.w)
			window := c.in * k.H * k.W
			weights, bias := random(rng, c.out*window), random(rng, c.out)
			if n%4 == 0 {
				bias = nil
			}
			conv := s.NewConv(k, c.out, c.in, c.planes, weights, bias)
			var x []float32
			var win Windows
			var value func(i, y, x int) float32
			if c.planes {
				row := spanW + c.gap
				plane := spanH*row + c.gap
				x, _ = guarded(c.in * plane)
				for i := range x {
					x[i] = float32(rng.NormFloat64())
				}
				win = conv.Windows(row, 1, plane)
				value = func(i, y, px int) float32 { return x[i*plane+y*row+px] }
			} else {
				m, _ := image(rng, spanH, spanW, c.in, c.gap)
				x, win = m.Data, conv.Windows(m.Row, m.Pixel, 0)
				value = func(i, y, px int) float32 { return x[y*m.Row+px*m.Pixel+i] }
			}
			dst, check := image(rng, c.h, c.w, c.out, c.gap)
			f := Finish{Lo: c.lo, Hi: c.hi}
			before := append([]float32(nil), dst.Data...)
			if c.add {
				f.Add = &dst
			}
			conv.Run(dst, x, win, f)
			check(t)
			for y := range c.h {
				for px := range c.w {
					for o := range c.out {
						var want, size float64
						if bias != nil {
							want = float64(bias[o])
						}
						for i := range c.in {
							for ky := range k.H {
								for kx := range k.W {
									p := float64(value(i, y*k.StrideH+ky*k.DilationH, px*k.StrideW+kx*k.DilationW)) * float64(weights[((o*c.in+i)*k.H+ky)*k.W+kx])
									want += p
									size += math.Abs(p)
								}
							}
						}
						at := y*dst.Row + px*dst.Pixel + o
						if c.add {
							want += float64(before[at])
						}
						want = min(max(want, float64(c.lo)), float64(c.hi))
						near(t, fmt.Sprintf("case %d %+v: %d,%d,%d", n, c, y, px, o), float64(dst.Data[at]), want, 1e-6*(size+4))
					}
				}
			}
			for i, v := range dst.Data {
				if before[i] != before[i] && v == v {
					t.Fatalf("case %d %+v: wrote between pixels, at %d", n, c, i)
				}
			}
		}
	})
}

// Pixels come out the same bits alone and among others, at every compiled level.
func TestConvBits(t *testing.T) {
	rng := newRand()
	for _, in := range []int{5, 64} { // the window of 64 is taken in parts, except alone
		convBits(t, rng, in)
	}
}

func convBits(t *testing.T, rng *rand.Rand, in int) {
	weights, bias := random(rng, 70*9*in), random(rng, 70)
	x, _ := image(rng, 3, 31, in, 0)
	var first []float32
	for _, s := range All() {
		if s.code == nil {
			continue
		}
		conv := s.NewConv(Plain(3, 3), 70, in, false, weights, bias)
		win := conv.Windows(x.Row, x.Pixel, 0)
		whole, single := NewImage(make([]float32, 29*70), 1, 29, 70), NewImage(make([]float32, 29*70), 1, 29, 70)
		conv.Run(whole, x.Data, win, Linear)
		for px := range 29 {
			conv.Run(single.At(0, px, 1, 1), x.Data[px*x.Pixel:], win, Linear)
		}
		if first == nil {
			first = whole.Data
		}
		for i, v := range whole.Data {
			if v != single.Data[i] || v != first[i] {
				t.Fatalf("%s: number %d is %v, alone %v, at the first level %v", s.level, i, v, single.Data[i], first[i])
			}
		}
	}
}

func TestDense(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, c := range [][3]int{{1, 10, 256}, {5, 129, 33}, {64, 214, 512}} {
			m, n, k := c[0], c[1], c[2]
			x, w := View(random(rng, m*k), m, k), random(rng, k*n)
			d := s.NewDense(n, k, false, w, nil)
			dst := NewImage(make([]float32, m*n), 1, m, n)
			d.Run(dst, x.Data, d.Windows(0, k, 0), Linear)
			for i := range m {
				for j := range n {
					var want, size float64
					for p, v := range x.Row(i) {
						want += float64(v) * float64(w[p*n+j])
						size += math.Abs(float64(v) * float64(w[p*n+j]))
					}
					near(t, fmt.Sprint(c, i, j), float64(dst.Data[i*n+j]), want, 1e-6*size)
				}
			}
		}
	})
}

func TestDepthwiseAndPools(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for range 120 {
			pick := func(n ...int) int { return n[rng.IntN(len(n))] }
			k := Kernel{pick(1, 2, 3, 5), pick(1, 3, 3, 5), pick(1, 2), pick(1, 1, 2), pick(1, 2), pick(1, 1, 2)}
			h, w, n, gap := 1+rng.IntN(3), 1+rng.IntN(21), 1+rng.IntN(70), pick(0, 0, 5)
			spanH, spanW := k.Span(h, w)
			x, _ := image(rng, spanH, spanW, n, gap)
			weights, bias := random(rng, n*k.H*k.W), random(rng, n)
			what := fmt.Sprintf("%+v %dx%dx%d gap %d", k, h, w, n, gap)
			each := func(dst Image, want func(window []float32, c int) (v, size float64)) {
				t.Helper()
				window := make([]float32, k.H*k.W)
				for y := range h {
					for px := range w {
						for c := range n {
							for i := range window {
								window[i] = x.Data[(y*k.StrideH+i/k.W*k.DilationH)*x.Row+(px*k.StrideW+i%k.W*k.DilationW)*x.Pixel+c]
							}
							v, size := want(window, c)
							near(t, what, float64(dst.Data[y*dst.Row+px*dst.Pixel+c]), v, 1e-6*size)
						}
					}
				}
			}
			dst, check := image(rng, h, w, n, gap)
			s.NewDepthwise(k, n, weights, bias).Run(dst, x, -0.75, 1)
			check(t)
			each(dst, func(window []float32, c int) (float64, float64) {
				v, size := dot64(window, weights[c*len(window):][:len(window)])
				return min(max(v+float64(bias[c]), -0.75), 1), size + 1
			})
			s.MaxPool(k, dst, x)
			check(t)
			each(dst, func(window []float32, _ int) (float64, float64) {
				m := math.Inf(-1)
				for _, v := range window {
					m = max(m, float64(v))
				}
				return m, 0
			})
			s.MeanPool(k, dst, x, 0.25)
			check(t)
			each(dst, func(window []float32, _ int) (float64, float64) {
				var sum, size float64
				for _, v := range window {
					sum += float64(v)
					size += math.Abs(float64(v))
				}
				return sum / 4, size
			})
		}
		// NaN anywhere in a window is found
		for at := range 9 {
			x := NewImage(make([]float32, 9), 3, 3, 1)
			x.Data[at] = float32(math.NaN())
			dst := NewImage(make([]float32, 1), 1, 1, 1)
			if s.MaxPool(Plain(3, 3), dst, x); dst.Data[0] == dst.Data[0] {
				t.Errorf("NaN at %d of a window is passed over", at)
			}
		}
	})
}

func TestTranspose(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for rows := 1; rows < 22; rows++ {
			for _, cols := range []int{1, 2, 3, 4, 5, 7, 8, 31, 64} {
				src := Dense[float32]{random(rng, rows*(cols+3)), rows, cols, cols + 3}
				data, check := guarded(cols * (rows + 1))
				dst := Dense[float32]{data, cols, rows, rows + 1}
				s.Transpose(dst, src)
				check(t)
				for i := range rows {
					for j, v := range src.Row(i) {
						if dst.Data[j*dst.Stride+i] != v {
							t.Fatalf("%dx%d: %d,%d is %v, want %v", rows, cols, i, j, dst.Data[j*dst.Stride+i], v)
						}
					}
				}
			}
		}
	})
}
