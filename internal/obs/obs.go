// Package obs repairs what compression does to the weights of a linear layer by those that come
// after: the optimal brain surgeon on the second moments of the layer's inputs, as GPTQ (arXiv
// 2210.17323) and SparseGPT (arXiv 2301.00774) use it.
//
// For one row w with error d the loss is d H d^T, H = X^T X over the calibration tokens. With
// H^-1 = U^T U, U upper triangular, a change of column i by w_i - q_i costs e^2 for
// e = (w_i - q_i)/U_ii, and the best answer of the columns behind it is w_j -= e U_ij.
package obs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sort"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/num"
)

// Block is the number of columns whose errors are propagated one by one before a matrix product
// carries them to the columns behind (arXiv 2210.17323, section 3.3).
const Block = 128

// Problem is what all rows that read the same inputs share: the order in which columns are worked on
// and the factor that says how the error of one is repaired by those that follow.
type Problem struct {
	Cols    int
	Perm    []int          // Perm[i] is the column of step i
	Upper   kernels.Matrix // U, [Cols,Cols] float32, in step order
	Damping float64        // the fraction of the mean diagonal that was added
	K       *kernels.Set
}

// Options of a Problem.
type Options struct {
	// ByEnergy works on the columns with the most active inputs first; else in their order.
	ByEnergy bool
	// Damping is the fraction of the mean diagonal that is added to H; it grows tenfold, up to 1, as
	// long as H is not positive definite.
	Damping float64
	Threads int
}

// Fits reports whether a layer with so many inputs can be solved in memory bytes (0: no limit). It
// takes second moments in float64, a copy to factor, and the factor in float32, which may be half of
// the memory.
func Fits(cols int, memory int64) bool {
	return memory <= 0 || int64(cols)*int64(cols)*20 <= memory/2
}

// New factors H, which is [cols,cols] row-major, symmetric, both halves filled. The diagonal of inputs
// that are never active becomes 1: their error costs nothing and repairs nothing.
func New(ctx context.Context, h []float64, cols int, o Options, k *kernels.Set) (*Problem, error) {
	p := &Problem{Cols: cols, Perm: make([]int, cols), Damping: o.Damping, K: k}
	var mean float64
	for i := range cols {
		p.Perm[i] = i
		if h[i*cols+i] == 0 {
			h[i*cols+i] = 1
		}
		mean += h[i*cols+i] / float64(cols)
	}
	if math.IsNaN(mean) || math.IsInf(mean, 0) {
		return nil, errors.New("activations are not finite")
	}
	if o.ByEnergy {
		sort.SliceStable(p.Perm, func(a, b int) bool {
			return h[p.Perm[a]*cols+p.Perm[a]] > h[p.Perm[b]*cols+p.Perm[b]]
		})
	}
	work := make([]float64, cols*cols)
	for ; p.Damping <= 1; p.Damping *= 10 {
		for i, pi := range p.Perm {
			row, src := work[i*cols:][:cols], h[pi*cols:][:cols]
			for j, pj := range p.Perm {
				row[j] = src[pj]
			}
			row[i] += p.Damping * mean
		}
		err := num.InverseCholeskyUpper(ctx, k, o.Threads, work, cols)
		if errors.Is(err, num.ErrNotPositiveDefinite) {
			if p.Damping == 0 {
				break // ten times nothing
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		u := make([]float32, cols*cols)
		for i := range cols {
			for j := i; j < cols; j++ {
				u[i*cols+j] = float32(work[i*cols+j])
			}
		}
		p.Upper = kernels.View(u, cols, cols)
		return p, nil
	}
	return nil, fmt.Errorf("%w even with damping 1", num.ErrNotPositiveDefinite)
}

// Loss is d H d^T for an error in step order, which it overwrites, from U alone: with H = U^-1 U^-T it
// is |d U^-1|^2, which forward substitution gives: y_i = (d_i - sum_{j<i} y_j U_ji) / U_ii.
func (p *Problem) Loss(d []float32) (loss float64) {
	for i := range d {
		u := p.Upper.Row(i)
		y := d[i] / u[i]
		loss += float64(y) * float64(y)
		p.K.Axpy(d[i+1:], -y, u[i+1:])
	}
	return loss
}

// Carry takes the errors of steps [b,e) to the columns behind them: rows[:, e:] -= E U[b:e, e:]. rows is
// [n,Cols] in step order, negated are the errors times -1, [n,e-b].
func (p *Problem) Carry(rows, negated kernels.Matrix, b, e int) {
	if e < p.Cols {
		p.K.GemmNN(rows.Slice(0, rows.Rows, e, p.Cols), negated, p.Upper.Slice(b, e, e, p.Cols), true)
	}
}
