package quantize

import (
	"context"
	"math"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/obs"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
)

// gptqProblem rounds the rows of layers that read the same inputs.
type gptqProblem struct{ *obs.Problem }

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
		l, r, err := p.batch(dst[lo*rowBytes:hi*rowBytes], w[lo*p.Cols:hi*p.Cols], hi-lo, info, importance)
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
	cols, rowBytes := p.Cols, len(dst)/n
	grids := make([]rowGrid, n)
	perm := make([]float32, n*cols) // the rows in step order
	errs := make([]float32, n*obs.Block)
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
			for i, c := range p.Perm {
				d[i] = x[c] - decoded[c]
			}
			plain = p.Loss(d)
		}
		for i, c := range p.Perm {
			d[i] = x[c]
		}
	}
	all := kernels.View(perm, n, cols)
	for b := 0; b < cols; b += obs.Block {
		e := min(b+obs.Block, cols)
		for r := range n {
			l := p.roundBlock(perm[r*cols:][:cols], w[r*cols:][:cols], errs[r*obs.Block:][:e-b], codes[r*cols:][:cols], &grids[r], b, e)
			if r == 0 {
				loss += l
			}
		}
		p.Carry(all, kernels.Matrix{Data: errs, Rows: n, Cols: e - b, Stride: obs.Block}, b, e)
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
		c := p.Perm[i]
		q, v := g.nearest(c, w[i])
		if original[c] == 0 {
			if q0, v0 := g.nearest(c, 0); v0 == 0 {
				q, v = q0, v0
			}
		}
		codes[c] = q
		u := p.Upper.Row(i)
		d := (w[i] - v) / u[i]
		negErr[i-b] = -d
		loss += float64(d) * float64(d)
		for j := i + 1; j < e; j++ {
			w[j] -= float32(d * u[j])
		}
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
