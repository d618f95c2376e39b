package prune

import (
	"context"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/obs"
	"github.com/pare-dev/pare/internal/par"
)

// sparseBatch is the number of rows whose weights compete with each other, and that are solved
// together: enough for a fair share of a block of columns, few enough to share out among cores.
const sparseBatch = 64

// sparseLayer is what all rows that read the same inputs share.
type sparseLayer struct {
	p     *obs.Problem
	h     kernels.Matrix // [cols,cols] second moments, damped, of mean diagonal 1
	steps int            // of the fit after the repairs
}

// newSparseLayer takes the problem that h was factored for.
func newSparseLayer(p *obs.Problem, h []float64, steps int) *sparseLayer {
	n := p.Cols
	var mean float64
	for i := range n {
		mean += h[i*n+i] / float64(n)
	}
	f := make([]float32, n*n)
	for i, v := range h {
		f[i] = float32(v / mean)
	}
	for i := range n {
		f[i*n+i] += float32(p.Damping)
	}
	return &sparseLayer{p, kernels.View(f, n, n), steps}
}

// solve prunes rows [lo, lo+n) of a matrix in place. It returns sums over every sixteenth row of: the
// energy of the output, and the losses of dropping, repairing and refitting. The result does not
// depend on threads.
func (l *sparseLayer) solve(ctx context.Context, r *request, w []float32, lo, threads int) (sum [4]float64, err error) {
	cols := l.p.Cols
	rows := len(w) / cols
	sums := make([][4]float64, (rows+sparseBatch-1)/sparseBatch)
	err = par.Range(ctx, threads, rows, sparseBatch, func(_, a, b int) error {
		for i, v := range w[a*cols : b*cols] {
			if v-v != 0 {
				return fmt.Errorf("row %d, element %d is %v: %w", lo+a+i/cols, i%cols, v, fault.ErrNotFinite)
			}
		}
		sums[a/sparseBatch] = l.batch(r, kernels.View(w[a*cols:b*cols], b-a, cols), lo+a)
		return nil
	})
	for _, s := range sums {
		for i, v := range s {
			sum[i] += v
		}
	}
	return sum, err
}

// batch prunes a few rows, of which the first is row at of its matrix.
func (l *sparseLayer) batch(r *request, w kernels.Matrix, at int) (sum [4]float64) {
	n, cols := w.Rows, l.p.Cols
	original := kernels.View(append([]float32(nil), w.Data...), n, cols)
	gone := make([]bool, n*cols)
	l.repair(r, w, gone, at)
	sample := func(i int, d func(row, col int) float32) {
		x := make([]float32, cols)
		for row := 0; row < n; row += 16 {
			for c := range x {
				x[c] = d(row, c)
			}
			sum[i] += l.loss(x)
		}
	}
	sample(0, func(row, c int) float32 { return original.Row(row)[c] })
	sample(1, func(row, c int) float32 {
		if gone[row*cols+c] {
			return original.Row(row)[c]
		}
		return 0
	})
	left := func(row, c int) float32 { return original.Row(row)[c] - w.Row(row)[c] }
	sample(2, left)
	refit(l.p.K, w, original, l.h, gone, l.steps)
	sample(3, left)
	return sum
}

// loss is d h d^T.
func (l *sparseLayer) loss(d []float32) float64 {
	hd := make([]float32, len(d))
	l.p.K.GemmNT(kernels.View(hd, 1, len(d)), kernels.View(d, 1, len(d)), l.h, false)
	return inner(d, hd)
}

// repair is the method proper: it sets gone and w.
func (l *sparseLayer) repair(r *request, w kernels.Matrix, gone []bool, at int) {
	n, cols := w.Rows, l.p.Cols
	errs := make([]float32, n*obs.Block)
	keys := make([]uint64, n*obs.Block)
	for b := 0; b < cols; b += obs.Block {
		e := min(b+obs.Block, cols)
		if r.m == 0 {
			l.mask(r, w, gone, keys, at, b, e)
		}
		for i := range n {
			l.repairBlock(r, w.Row(i), gone[i*cols:][:cols], errs[i*obs.Block:][:e-b], b, e)
		}
		l.p.Carry(w, kernels.Matrix{Data: errs, Rows: n, Cols: e - b, Stride: obs.Block}, b, e)
	}
}

// cost is what dropping a weight costs that the columns behind it repair, in the order of float32.
func (l *sparseLayer) cost(w float32, col int) uint64 {
	e := w / l.p.Upper.Row(col)[col]
	c := e * e
	return uint64(math.Float32bits(min(c, math.MaxFloat32)))
}

// mask decides about columns [b,e) of all rows of a batch. Shares are those of the weights up to there,
// so that all of the matrix together loses exactly what was asked for.
func (l *sparseLayer) mask(r *request, w kernels.Matrix, gone []bool, keys []uint64, at, b, e int) {
	cols := l.p.Cols
	drop := func(rows0, rows1 int, from, to int64) {
		k := int(r.count(to) - r.count(from))
		if k == 0 {
			return
		}
		list := keys[:0]
		for i := rows0; i < rows1; i++ {
			row := w.Row(i)
			for c := b; c < e; c++ {
				list = append(list, l.cost(row[c], c)<<32|uint64(len(list))) //nolint:gosec // a position
			}
		}
		scratch := append([]uint64(nil), list...)
		limit := kth(scratch, k-1)
		for j, key := range list {
			if key <= limit {
				gone[(rows0+j/(e-b))*cols+b+j%(e-b)] = true
			}
		}
	}
	if r.scope == ScopeRow {
		for i := range w.Rows {
			drop(i, i+1, int64(b), int64(e))
		}
		return
	}
	before, n := int64(at)*int64(cols), int64(w.Rows)
	drop(0, w.Rows, before+n*int64(b), before+n*int64(e))
}

// repairBlock drops and repairs columns [b,e) of one row, and leaves the negated scaled errors for the
// columns behind. Groups of N:M are decided where they begin, on the weights as they are then.
func (l *sparseLayer) repairBlock(r *request, w []float32, gone []bool, negErr []float32, b, e int) {
	var group [1024]uint64 // ParsePattern allows no longer ones
	for i := b; i < e; i++ {
		if r.m > 0 && i%r.m == 0 {
			g := group[:r.m]
			for j := range g {
				g[j] = l.cost(w[i+j], i+j)<<32 | uint64(j) //nolint:gosec // a position
			}
			limit := kth(g, r.m-r.n-1)
			for j := range r.m {
				gone[i+j] = l.cost(w[i+j], i+j)<<32|uint64(j) <= limit //nolint:gosec // a position
			}
		}
		negErr[i-b] = 0
		if !gone[i] {
			continue
		}
		u := l.p.Upper.Row(i)
		d := w[i] / u[i]
		w[i] = 0
		negErr[i-b] = -d
		for j := i + 1; j < e; j++ {
			w[j] -= float32(d * u[j])
		}
	}
}
