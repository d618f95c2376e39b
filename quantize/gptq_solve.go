package quantize

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sort"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/num"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
)

// gptqBlock is the number of columns whose errors are propagated one by one before a matrix
// product carries them to the columns behind (Frantar et al., arXiv 2210.17323, section 3.3).
const gptqBlock = 128

// gptqProblem is what all rows that read the same inputs share: the order in which columns are
// rounded and the factor that says how the error of one is repaired by those that follow.
//
// For one row w with error d = w - w_q the loss is d H d^T, H = X^T X over the calibration tokens.
// With H^-1 = U^T U, U upper triangular, rounding column i costs e^2 for e = (w_i - q_i)/U_ii and
// the best change of the columns behind it is w_j -= e U_ij.
type gptqProblem struct {
	cols  int
	perm  []int          // perm[i] is the column rounded at step i: most energetic first
	upper kernels.Matrix // U, [cols,cols] float32, in step order
	k     *kernels.Set
}

// newGPTQ factors H, which is [cols,cols] row-major, symmetric, both halves filled, and is
// overwritten. damping is the fraction of the mean diagonal that is added to it; it grows tenfold
// as long as H is not positive definite. The damping that was used is returned.
func newGPTQ(ctx context.Context, h []float64, cols int, damping float64, threads int, k *kernels.Set) (*gptqProblem, float64, error) {
	p := &gptqProblem{cols: cols, perm: make([]int, cols), k: k}
	var mean float64
	for i := range cols {
		p.perm[i] = i
		if h[i*cols+i] == 0 {
			h[i*cols+i] = 1 // an input that is never active: its rounding costs nothing and repairs nothing
		}
		mean += h[i*cols+i] / float64(cols)
	}
	if math.IsNaN(mean) || math.IsInf(mean, 0) {
		return nil, 0, errors.New("activations are not finite")
	}
	sort.SliceStable(p.perm, func(a, b int) bool {
		return h[p.perm[a]*cols+p.perm[a]] > h[p.perm[b]*cols+p.perm[b]]
	})
	work := make([]float64, cols*cols)
	for ; damping <= 1; damping *= 10 {
		for i, pi := range p.perm {
			row, src := work[i*cols:][:cols], h[pi*cols:][:cols]
			for j, pj := range p.perm {
				row[j] = src[pj]
			}
			row[i] += damping * mean
		}
		err := num.InverseCholeskyUpper(ctx, k, threads, work, cols)
		if errors.Is(err, num.ErrNotPositiveDefinite) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		u := make([]float32, cols*cols)
		for i := range cols {
			for j := i; j < cols; j++ {
				u[i*cols+j] = float32(work[i*cols+j])
			}
		}
		p.upper = kernels.View(u, cols, cols)
		return p, damping, nil
	}
	return nil, 0, fmt.Errorf("%w even with damping 1", num.ErrNotPositiveDefinite)
}

// solve encodes rows of w [rows,cols] into dst. The scales of each row are those that the type's
// own search finds with the given importance (nil or one weight per column); the codes are then
// chosen by GPTQ on that fixed grid. The result does not depend on threads.
//
// It returns the loss d H d^T of these codes and of the search's own codes on the same scales,
// summed over every sixteenth row, so that a report can say what the method bought.
func (p *gptqProblem) solve(ctx context.Context, dst []byte, w []float32, rows int, info *storage.Info, importance []float32, threads int) (loss, plain float64, err error) {
	rowBytes := len(dst) / max(rows, 1)
	pieces := (rows + gptqBatch - 1) / gptqBatch
	losses := make([][2]float64, pieces)
	err = par.Range(ctx, threads, rows, gptqBatch, func(_, lo, hi int) error {
		l, r, err := p.batch(dst[lo*rowBytes:hi*rowBytes], w[lo*p.cols:hi*p.cols], hi-lo, info, importance)
		losses[lo/gptqBatch] = [2]float64{l, r}
		return err
	})
	for _, l := range losses {
		loss += l[0]
		plain += l[1]
	}
	return loss, plain, err
}

// gptqBatch is the number of rows solved together: enough for the matrix product, few enough to
// share out.
const gptqBatch = 16

// batch solves a few rows and returns the losses of the first.
func (p *gptqProblem) batch(dst []byte, w []float32, n int, info *storage.Info, importance []float32) (loss, plain float64, err error) {
	cols, rowBytes := p.cols, len(dst)/n
	grids := make([]rowGrid, n)
	perm := make([]float32, n*cols) // the rows in step order
	errs := make([]float32, n*gptqBlock)
	codes := make([]int8, n*cols)
	decoded := make([]float32, cols)
	for r := range n {
		row := dst[r*rowBytes:][:rowBytes]
		x, d := w[r*cols:][:cols], perm[r*cols:][:cols]
		if err := info.Encode(row, x, importance); err != nil {
			return 0, 0, err
		}
		grids[r].read(info, row)
		if r == 0 {
			info.Decode(decoded, row)
			for i, c := range p.perm {
				d[i] = x[c] - decoded[c]
			}
			plain = p.lossOf(d)
		}
		for i, c := range p.perm {
			d[i] = x[c]
		}
	}
	all := kernels.View(perm, n, cols)
	for b := 0; b < cols; b += gptqBlock {
		e := min(b+gptqBlock, cols)
		for r := range n {
			l := p.roundBlock(perm[r*cols:][:cols], w[r*cols:][:cols], errs[r*gptqBlock:][:e-b], codes[r*cols:][:cols], &grids[r], b, e)
			if r == 0 {
				loss += l
			}
		}
		if e < cols {
			// W[:, behind] -= E U[block, behind]; the errors are stored negated
			p.k.GemmNN(all.Slice(0, n, e, cols), kernels.Matrix{Data: errs, Rows: n, Cols: e - b, Stride: gptqBlock}, p.upper.Slice(b, e, e, cols), true)
		}
	}
	for r := range n {
		info.SetCodes(dst[r*rowBytes:][:rowBytes], codes[r*cols:][:cols])
	}
	return loss, plain, nil
}

// roundBlock rounds the columns at steps [b,e) of one row, repairing the later ones of the block
// as it goes, and leaves the negated scaled errors for those behind. A weight that was zero before
// the repairs (original is the row as it came) stays zero where the grid has a zero: it was pruned,
// and repairs would fill the mask again.
func (p *gptqProblem) roundBlock(w, original, negErr []float32, codes []int8, g *rowGrid, b, e int) (loss float64) {
	for i := b; i < e; i++ {
		c := p.perm[i]
		q, v := g.nearest(c, w[i])
		if original[c] == 0 {
			if q0, v0 := g.nearest(c, 0); v0 == 0 {
				q, v = q0, v0
			}
		}
		codes[c] = q
		u := p.upper.Row(i)
		d := (w[i] - v) / u[i]
		negErr[i-b] = -d
		loss += float64(d) * float64(d)
		for j := i + 1; j < e; j++ {
			w[j] -= float32(d * u[j])
		}
	}
	return loss
}

// lossOf is d H d^T for an error in step order, from U alone: with H = U^-1 U^-T it is |d U^-1|^2,
// which forward substitution gives: y_i = (d_i - sum_{j<i} y_j U_ji) / U_ii.
func (p *gptqProblem) lossOf(d []float32) (loss float64) {
	for i := range d {
		u := p.upper.Row(i)
		y := d[i] / u[i]
		loss += float64(y) * float64(y)
		p.k.Axpy(d[i+1:], -y, u[i+1:])
	}
	return loss
}

// rowGrid is the grid of one encoded row with what rounding needs at hand.
type rowGrid struct {
	storage.Grid
}

func (g *rowGrid) read(info *storage.Info, row []byte) {
	g.Scale, g.Min = g.Scale[:0], g.Min[:0]
	info.Grid(&g.Grid, row)
}

// nearest returns the code of column c whose value is closest to w, and that value. A column
// whose scale is zero takes the code 0 (or the nearest allowed): all codes mean the same there.
func (g *rowGrid) nearest(c int, w float32) (int8, float32) {
	s := g.Scale[c/g.Sub]
	var least float32
	if len(g.Min) > 0 {
		least = g.Min[c/g.Sub]
	}
	q := min(max(0, g.Lo), g.Hi)
	if s != 0 {
		q = int(math.RoundToEven(float64((w - least) / s)))
		q = min(max(q, g.Lo), g.Hi)
	}
	return int8(q), float32(s*float32(q)) + least
}
