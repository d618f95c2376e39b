package eval

import (
	"math"
	"math/bits"
)

// fft is a Fourier transform of n numbers, in place: by halving where n is a power of two, otherwise as a
// convolution with a chirp, which takes transforms of a power of two (L. Bluestein, 1970).
type fft struct {
	n     int
	turns []complex128 // e^(-2 pi i k/n) for the first half of k, of powers of two
	chirp []complex128 // e^(-pi i k^2/n), of other n
	inner *fft
	image []complex128 // the transform of the conjugate chirp
}

func newFFT(n int) *fft {
	f := &fft{n: n}
	if n&(n-1) == 0 {
		f.turns = make([]complex128, n/2)
		for k := range f.turns {
			sin, cos := math.Sincos(-2 * math.Pi * float64(k) / float64(n))
			f.turns[k] = complex(cos, sin)
		}
		return f
	}
	f.inner = newFFT(1 << bits.Len(uint(2*n-2)))
	f.chirp = make([]complex128, n)
	f.image = make([]complex128, f.inner.n)
	for k := range n {
		sin, cos := math.Sincos(-math.Pi * float64(k*k%(2*n)) / float64(n))
		f.chirp[k] = complex(cos, sin)
		f.image[k] = complex(cos, -sin)
		if k > 0 {
			f.image[f.inner.n-k] = f.image[k]
		}
	}
	f.inner.forward(f.image)
	return f
}

// run transforms x; the inverse is divided by n.
func (f *fft) run(x []complex128, inverse bool) {
	if !inverse {
		f.forward(x)
		return
	}
	for i, v := range x {
		x[i] = complex(real(v), -imag(v))
	}
	f.forward(x)
	for i, v := range x {
		x[i] = complex(real(v)/float64(f.n), -imag(v)/float64(f.n))
	}
}

func (f *fft) forward(x []complex128) {
	if f.chirp == nil {
		f.halves(x)
		return
	}
	y := make([]complex128, f.inner.n)
	for i, v := range x {
		y[i] = times(v, f.chirp[i])
	}
	f.inner.forward(y)
	for i, v := range y {
		y[i] = times(v, f.image[i])
	}
	f.inner.run(y, true)
	for i := range x {
		x[i] = times(y[i], f.chirp[i])
	}
}

// halves joins transforms of even and odd places, from pairs up.
func (f *fft) halves(x []complex128) {
	if f.n == 1 {
		return
	}
	shift := 64 - bits.Len(uint(f.n-1))
	for i := range x {
		if j := int(bits.Reverse64(uint64(i)) >> shift); j > i {
			x[i], x[j] = x[j], x[i]
		}
	}
	for size := 2; size <= f.n; size *= 2 {
		half, step := size/2, f.n/size
		for lo := 0; lo < f.n; lo += size {
			for k := range half {
				a, b := x[lo+k], times(x[lo+k+half], f.turns[k*step])
				x[lo+k], x[lo+k+half] = a+b, a-b
			}
		}
	}
}

// times is a product of complex numbers whose bits no fused operation changes.
func times(a, b complex128) complex128 {
	return complex(
		float64(real(a)*real(b))-float64(imag(a)*imag(b)),
		float64(real(a)*imag(b))+float64(imag(a)*real(b)))
}
