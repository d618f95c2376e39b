package storage

import (
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
)

// vectors are the kernels that search the scales of eight sub-blocks at once where this machine has
// them. They give the bits of fitAffine and fitSym, so which level runs never shows in a file.
var vectors = kernels.For(cpu.Best())

// sumSubs adds the weights of each sub-block of a superblock.
func sumSubs(dst []float32, w *[super]float32) {
	size := super / len(dst)
	for j := range dst {
		var s float32
		for _, v := range w[j*size : (j+1)*size] {
			s += v
		}
		dst[j] = s
	}
}

// fitAffineSubs is fitAffine for every sub-block of a superblock; len(scales) says how many.
func fitAffineSubs(x []float32, w *[super]float32, l *codes256, scales, mins []float32, n int, g affineGrid) {
	size := super / len(scales)
	var f kernels.Fit
	for j := 0; j < len(scales); j += kernels.Lanes {
		fill(&f, x[j*size:], w[j*size:], size)
		if !vectors.FitAffine(&f, size, float32(n), g.from, g.step, g.steps, g.mad) {
			for i := j; i < j+kernels.Lanes; i++ {
				scales[i], mins[i] = fitAffine(x[i*size:(i+1)*size], w[i*size:(i+1)*size], l[i*size:(i+1)*size], n, g)
			}
			continue
		}
		copy(scales[j:j+kernels.Lanes], f.Scale[:])
		copy(mins[j:j+kernels.Lanes], f.Minus[:])
		spill(l[j*size:], &f, size)
	}
}

// fitSymSubs is fitSym for every sub-block of a superblock; len(scales) says how many.
func fitSymSubs(x []float32, w *[super]float32, l *codes256, scales []float32, n int) {
	size := super / len(scales)
	var f kernels.Fit
	for j := 0; j < len(scales); j += kernels.Lanes {
		fill(&f, x[j*size:], w[j*size:], size)
		if !vectors.FitSymmetric(&f, size, float32(n)) {
			for i := j; i < j+kernels.Lanes; i++ {
				scales[i] = fitSym(x[i*size:(i+1)*size], w[i*size:(i+1)*size], l[i*size:(i+1)*size], n)
			}
			continue
		}
		copy(scales[j:j+kernels.Lanes], f.Scale[:])
		spill(l[j*size:], &f, size)
	}
}

// fill turns eight sub-blocks that lie one after the other into lanes.
func fill(f *kernels.Fit, x, w []float32, size int) {
	for j := range kernels.Lanes {
		xs, ws := x[j*size:(j+1)*size], w[j*size:(j+1)*size]
		for i, v := range xs {
			f.X[i&31][j], f.W[i&31][j] = v, ws[i]
		}
	}
}

// spill turns the codes back.
func spill(l []uint8, f *kernels.Fit, size int) {
	for j := range kernels.Lanes {
		q := l[j*size : (j+1)*size]
		for i := range q {
			q[i] = uint8(int32(f.Codes[i&31][j]))
		}
	}
}
