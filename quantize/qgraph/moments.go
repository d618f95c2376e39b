package qgraph

import (
	"context"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir/graph"
)

// moments are sums over what a group of a layer reads in the float network (f) and in the quantized one (q).
type moments struct {
	n      float64
	mf, mq []float64 // sums of each
	// pairs are products of pairs of columns, those of f and then those of q: [2 cols, 2 cols] in single precision,
	// until finish takes them apart.
	pairs      []float32
	ff, fq, qq []float64 // row-major [cols, cols]; fq has f by row
}

// newMoments sums nothing yet; without products it is for biases alone.
func newMoments(cols int, products bool) *moments {
	m := &moments{mf: make([]float64, cols), mq: make([]float64, cols)}
	if products {
		m.pairs = make([]float32, 4*cols*cols)
	}
	return m
}

// add takes the columns of n positions: z is [2 cols, n], those of f first.
func (m *moments) add(ctx context.Context, kern *kernels.Set, threads int, z []float32, n int) error {
	m.n += float64(n)
	k := len(m.mf)
	for i := range k {
		m.mf[i] += float64(kern.Sum(z[i*n : (i+1)*n]))
		m.mq[i] += float64(kern.Sum(z[(k+i)*n : (k+i+1)*n]))
	}
	if m.pairs == nil {
		return nil
	}
	x := kernels.View(z, 2*k, n)
	return kernels.Gemm(ctx, kern, threads, kernels.NT, kernels.View(m.pairs, 2*k, 2*k), x, x, true)
}

// finish gives the sums of products in double precision, which is where means are subtracted from them.
func (m *moments) finish() {
	if m.pairs == nil {
		return
	}
	k := len(m.mf)
	m.ff, m.fq, m.qq = make([]float64, k*k), make([]float64, k*k), make([]float64, k*k)
	for i := range k {
		f, q := m.pairs[i*2*k:(i+1)*2*k], m.pairs[(k+i)*2*k:(k+i+1)*2*k]
		ff, fq, qq := m.ff[i*k:(i+1)*k], m.fq[i*k:(i+1)*k], m.qq[i*k:(i+1)*k]
		for j := range k {
			ff[j], fq[j], qq[j] = float64(f[j]), float64(f[k+j]), float64(q[k+j])
		}
	}
	m.pairs = nil
}

// centre subtracts the means, which a bias takes up.
func (m *moments) centre() {
	k := len(m.mf)
	for i := range k {
		a, b := m.mf[i]/m.n, m.mq[i]/m.n
		ff, fq, qq := m.ff[i*k:(i+1)*k], m.fq[i*k:(i+1)*k], m.qq[i*k:(i+1)*k]
		for j := range k {
			f, q := m.mf[j], m.mq[j]
			ff[j] -= float64(a * f)
			fq[j] -= float64(a * q)
			qq[j] -= float64(b * q)
		}
	}
}

// drift is the mean of w*f - q*q: what the bias has to take up.
func (m *moments) drift(w []float32, codes []int32, a calib.Affine) float64 {
	var d float64
	for i, v := range w {
		d += float64(v)*m.mf[i] - float64(a.Dequantize(int(codes[i])))*m.mq[i]
	}
	return d / m.n
}

// gather adds some positions of a sample to the moments of the groups of a layer.
func (l *layer) gather(ctx context.Context, kern *kernels.Set, m []*moments, f, q *graph.Tensor, samples int, shift float64) error {
	pf, ok := l.open(f)
	pq, ok2 := l.open(q)
	if !ok || !ok2 || pf.positions != pq.positions {
		return nil
	}
	total := min(max(8*l.cols, 2048), 16384)
	n := min((total+samples-1)/samples, pf.positions)
	at := make([]int, n)
	for i := range at {
		at[i] = pf.pick(i, n, shift)
	}
	places := pf.places(at) // those of q are the same
	channels := l.inputs() / l.groups
	fill := func(z []float32, group, lo, hi int) {
		first, taps := group*channels, len(places.at)/n
		places.columns(z[lo*taps*n:], pf.x, first+lo, first+hi)
		places.columns(z[(l.cols+lo*taps)*n:], pq.x, first+lo, first+hi)
	}
	if l.groups == 1 {
		z := make([]float32, 2*l.cols*n)
		err := par.Range(ctx, 0, channels, 16, func(_, lo, hi int) error {
			fill(z, 0, lo, hi)
			return nil
		})
		if err != nil {
			return err
		}
		return m[0].add(ctx, kern, 0, z, n)
	}
	return par.Range(ctx, 0, l.groups, 8, func(_, lo, hi int) error {
		z := make([]float32, 2*l.cols*n)
		for g := lo; g < hi; g++ {
			fill(z, g, 0, channels)
			if err := m[g].add(ctx, kern, 1, z, n); err != nil {
				return err
			}
		}
		return nil
	})
}
