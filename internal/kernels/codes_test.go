package kernels

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
)

// The definition of QLinearConv: saturate(round(sum(x-zero)(w) + bias) * scale) + zero of y), ties to even, in exact
// integers and the float32 factor.
func wantCode(sum int64, scale float32, c Codes) uint8 {
	v := math.RoundToEven(float64(float32(sum)*scale)) + float64(c.Zero)
	return uint8(min(max(v, float64(c.Lo)), float64(c.Hi)))
}

func randomBytes(rng *rand.Rand, n int) []uint8 {
	b := make([]uint8, n)
	for i := range b {
		b[i] = uint8(rng.IntN(256))
		if rng.IntN(3) == 0 {
			b[i] = 255 // where pairs of products would saturate in 16 bits
		}
	}
	return b
}

func randomWeights(rng *rand.Rand, n int) []int8 {
	w := make([]int8, n)
	for i, b := range randomBytes(rng, n) {
		w[i] = int8(b ^ 0x80) // many are 127
		if rng.IntN(4) == 0 {
			w[i] = -128
		}
	}
	return w
}

func TestCodeConv(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for n, c := range convCases(rng) {
			k := c.k
			window := c.in * k.H * k.W
			weights := randomWeights(rng, c.out*window)
			spec := CodeSpec{Kernel: k, Out: c.out, In: c.in, Planes: c.planes, Weights: weights, Zero: int32(rng.IntN(256)), Pixel: c.in + c.gap}
			bias, scale, shift := make([]int32, c.out), make([]float32, c.out), make([]float32, c.out)
			for o := range c.out {
				bias[o] = int32(rng.IntN(1<<16) - 1<<15)
				scale[o] = (0.5 + rng.Float32()) / (256 * 16 * float32(math.Sqrt(float64(window))))
				shift[o] = float32(rng.NormFloat64())
			}
			spec.Bias, spec.Scale = bias, scale
			spec.Codes = &Codes{int32(rng.IntN(256)), uint8(rng.IntN(20)), uint8(255 - rng.IntN(20))}
			asFloats, asSums := spec, spec
			asFloats.Codes, asFloats.Shift = nil, shift
			asSums.Codes, asSums.Scale = nil, nil
			conv, floats, sums := s.NewCodeConv(spec), s.NewCodeConv(asFloats), s.NewCodeConv(asSums)
			h, w := k.Span(c.h, c.w)
			row, plane := w*spec.Pixel+c.gap, 0
			if c.planes {
				row = w + c.gap
				plane = h*row + c.gap
			}
			x := randomBytes(rng, max(h*row, c.in*plane)+3)
			value := func(i, y, px int) int64 {
				if c.planes {
					return int64(x[i*plane+y*row+px]) - int64(spec.Zero)
				}
				return int64(x[y*row+px*spec.Pixel+i]) - int64(spec.Zero)
			}
			dst := NewImage(bytes.Repeat([]byte{77}, c.h*(c.w+c.gap)*(c.out+c.gap)+9), c.h, c.w, c.out)
			dst.Pixel, dst.Row = c.out+c.gap, (c.w+c.gap)*(c.out+c.gap)
			reals, ints := NewImage(make([]float32, c.h*c.w*c.out), c.h, c.w, c.out), NewImage(make([]int32, c.h*c.w*c.out), c.h, c.w, c.out)
			conv.Run(dst, x, conv.Windows(row, plane))
			floats.Floats(reals, x, floats.Windows(row, plane), nil)
			sums.Sums(ints, x, sums.Windows(row, plane), nil)
			written := make([]bool, len(dst.Data))
			for y := range c.h {
				for px := range c.w {
					for o := range c.out {
						sum := int64(bias[o])
						for i := range c.in {
							for ky := range k.H {
								for kx := range k.W {
									sum += value(i, y*k.StrideH+ky*k.DilationH, px*k.StrideW+kx*k.DilationW) * int64(weights[((o*c.in+i)*k.H+ky)*k.W+kx])
								}
							}
						}
						at := y*dst.Row + px*dst.Pixel + o
						written[at] = true
						if got, want := dst.Data[at], wantCode(sum, scale[o], *spec.Codes); got != want {
							t.Fatalf("case %d %+v: %d,%d,%d is %d, want %d", n, c, y, px, o, got, want)
						}
						at = (y*c.w+px)*c.out + o
						if got, want := reals.Data[at], float32(float32(sum)*scale[o])+shift[o]; got != want {
							t.Fatalf("case %d %+v: %d,%d,%d is %v, want %v", n, c, y, px, o, got, want)
						}
						if int64(ints.Data[at]) != sum {
							t.Fatalf("case %d %+v: %d,%d,%d sums to %d, want %d", n, c, y, px, o, ints.Data[at], sum)
						}
					}
				}
			}
			for i, v := range dst.Data {
				if !written[i] && v != 77 {
					t.Fatalf("case %d %+v: wrote between pixels, at %d", n, c, i)
				}
			}
			// another zero point and scale, known when it runs
			zero := int32(rng.IntN(256))
			var f Factors
			floats.Factors(&f, zero, 0.5)
			again := NewImage(make([]float32, len(reals.Data)), c.h, c.w, c.out)
			floats.Floats(again, x, floats.Windows(row, plane), &f)
			for i, v := range again.Data {
				o, total := i%c.out, int64(0)
				for _, w := range weights[o*window : (o+1)*window] {
					total += int64(w)
				}
				sum := int64(ints.Data[i]) + int64(spec.Zero-zero)*total
				if want := float32(float32(sum)*float32(0.5*scale[o])) + shift[o]; v != want {
					t.Fatalf("case %d %+v: number %d with zero point %d is %v, want %v", n, c, i, zero, v, want)
				}
			}
		}
	})
}

func TestCodeDepthwise(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for i := range 150 {
			pick := func(n ...int) int { return n[rng.IntN(len(n))] }
			k := Kernel{pick(1, 2, 3, 5), pick(1, 3, 3, 5), pick(1, 2), pick(1, 1, 2), pick(1, 2), pick(1, 1, 2)}
			if i%2 == 0 {
				k = Plain(3, 3)
			}
			h, w, n := 1+rng.IntN(5), 1+rng.IntN(21), pick(1+rng.IntN(70), 16, 24, 64, 96)
			hx, wx := k.Span(h, w)
			x := NewImage(randomBytes(rng, hx*wx*n+Slack), hx, wx, n)
			spec := CodeSpec{
				Kernel: k, Out: n, In: n, Weights: randomWeights(rng, n*k.H*k.W), Zero: int32(rng.IntN(256)),
				Bias: make([]int32, n), Scale: make([]float32, n), Codes: &Codes{int32(rng.IntN(256)), uint8(rng.IntN(9)), uint8(255 - rng.IntN(9))},
			}
			for c := range n {
				spec.Bias[c], spec.Scale[c] = int32(rng.IntN(1<<12)-1<<11), (0.5+rng.Float32())/2000
			}
			dst := NewImage(bytes.Repeat([]byte{77}, h*w*n+9), h, w, n)
			s.NewCodeDepthwise(spec).Run(dst, x)
			for at, got := range dst.Data {
				if at >= h*w*n {
					if got != 77 {
						t.Fatalf("%+v: wrote %d codes behind the last", spec.Kernel, at-h*w*n)
					}
					continue
				}
				c, px, y := at%n, at/n%w, at/n/w
				sum := int64(spec.Bias[c])
				for ky := range k.H {
					for kx := range k.W {
						sum += (int64(x.Data[(y*k.StrideH+ky*k.DilationH)*x.Row+(px*k.StrideW+kx*k.DilationW)*x.Pixel+c]) - int64(spec.Zero)) * int64(spec.Weights[(c*k.H+ky)*k.W+kx])
					}
				}
				if want := wantCode(sum, spec.Scale[c], *spec.Codes); got != want {
					t.Fatalf("%+v %dx%dx%d: %d,%d,%d is %d, want %d", k, h, w, n, y, px, c, got, want)
				}
			}
		}
	})
}

// What could overflow is refused rather than computed.
func TestCodeConvOverflow(t *testing.T) {
	for _, s := range All() {
		spec := CodeSpec{Kernel: Plain(1, 1), Out: 1, In: 4, Weights: []int8{-128, -128, -128, -128}, Bias: []int32{math.MaxInt32 - 1000}}
		if s.NewCodeConv(spec) != nil {
			t.Errorf("%s: a bias near the end of 32 bits is taken", s.level)
		}
		spec.Bias, spec.Scale, spec.Codes = nil, []float32{1e5}, &Codes{Hi: 255}
		if s.NewCodeConv(spec) != nil || s.NewCodeDepthwise(CodeSpec{Kernel: Plain(2, 2), Out: 1, In: 1, Weights: spec.Weights, Scale: spec.Scale, Codes: spec.Codes}) != nil {
			t.Errorf("%s: a factor of 100000 is taken", s.level)
		}
	}
}

// Codes of numbers and back, by the formulas of QuantizeLinear and DequantizeLinear.
func TestCodesRows(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for i := range 80 {
			n, scale, zero, flip := 1+rng.IntN(90), float32(math.Exp(rng.NormFloat64())), int32(rng.IntN(256)), uint8(Signed*rng.IntN(2))
			switch i % 6 {
			case 0:
				scale = 0.25
			case 3:
				scale = []float32{1e-38, 1e-41, 2e38}[i/6%3]
			}
			x := make([]float32, n)
			for j := range x {
				x[j] = scale * float32(rng.NormFloat64()*120)
				switch rng.IntN(6) {
				case 0: // ties
					x[j] = scale * (float32(rng.IntN(200)-100) + 0.5)
				case 1: // and their neighbours
					x[j] = math.Nextafter32(scale*(float32(rng.IntN(200)-100)+0.5), float32(rng.IntN(3)-1)*3e38)
				}
			}
			x[0] = []float32{float32(math.NaN()), infinity, -infinity, 3e38, -3e38, 0}[i%6]
			codes, back := make([]uint8, n), make([]float32, n)
			s.Codes(codes, x, scale, zero, flip)
			s.Reals(back, codes, scale, zero, flip)
			var twice [256]float32
			for j := range twice {
				twice[j] = float32(j) * 2
			}
			looked := make([]float32, n)
			s.Lookup(looked, codes, &twice)
			for j, v := range x {
				want := float64(zero)
				if v == v {
					want = min(max(math.RoundToEven(float64(v/scale))+float64(zero), 0), 255)
				}
				if got := codes[j] ^ flip; float64(got) != want {
					t.Fatalf("%v / %v + %d is code %d, want %v", v, scale, zero, got, want)
				}
				if want := float32(want-float64(zero)) * scale; back[j] != want {
					t.Fatalf("code %d of %v - %d is %v, want %v", codes[j], scale, zero, back[j], want)
				}
				if looked[j] != 2*float32(codes[j]) {
					t.Fatalf("code %d is looked up as %v", codes[j], looked[j])
				}
			}
		}
	})
}

func TestCodesPairs(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for range 60 {
			n := 1 + rng.IntN(90)
			affine := func() Affine { return Affine{0.01 + rng.Float32(), int32(rng.IntN(256))} }
			x, y, d := affine(), affine(), affine()
			a, b := randomBytes(rng, n), randomBytes(rng, n)
			add, mul, recoded := make([]uint8, n), make([]uint8, n), make([]uint8, n)
			s.AddCodes(add, a, b, d, x, y)
			s.MulCodes(mul, a, b, d, x, y)
			var table [256]uint8
			for i := range table {
				table[i] = uint8(7*i + 3)
			}
			s.Recode(recoded, a, &table)
			for i := range a {
				p, q := float32(float32(int32(a[i])-x.Zero)*x.Scale), float32(float32(int32(b[i])-y.Zero)*y.Scale)
				code := func(v float32) uint8 {
					return uint8(min(max(math.RoundToEven(float64(v/d.Scale))+float64(d.Zero), 0), 255))
				}
				if sum := p + q; add[i] != code(sum) {
					t.Fatalf("%v + %v is %d of %+v, want %d", p, q, add[i], d, code(sum))
				}
				if product := float32(p * q); mul[i] != code(product) {
					t.Fatalf("%v * %v is %d of %+v, want %d", p, q, mul[i], d, code(product))
				}
				if recoded[i] != 7*a[i]+3 {
					t.Fatalf("code %d becomes %d", a[i], recoded[i])
				}
			}
		}
	})
}

func TestMaxCodes(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for range 60 {
			k := Kernel{1 + rng.IntN(3), 1 + rng.IntN(3), 1 + rng.IntN(2), 1 + rng.IntN(2), 1 + rng.IntN(2), 1}
			h, w, n := 1+rng.IntN(3), 1+rng.IntN(9), 1+rng.IntN(150)
			hx, wx := k.Span(h, w)
			x := make([]uint8, hx*wx*n)
			for i := range x {
				x[i] = uint8(rng.IntN(256))
			}
			dst := make([]uint8, h*w*n)
			s.MaxCodes(k, NewImage(dst, h, w, n), NewImage(x, hx, wx, n))
			for i, got := range dst {
				want := uint8(0)
				for t := range k.H * k.W {
					y, px := i/n/w*k.StrideH+t/k.W*k.DilationH, i/n%w*k.StrideW+t%k.W*k.DilationW
					want = max(want, x[(y*wx+px)*n+i%n])
				}
				if got != want {
					t.Fatalf("%+v %dx%dx%d: code %d is %d, want %d", k, h, w, n, i, got, want)
				}
			}
		}
	})
}
