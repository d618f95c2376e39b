package prune

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/num"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir"
)

// moments are what calibration text says about the inputs of a layer, means over its tokens.
type moments struct {
	n       int
	second  []float64 // [n,n] mean of x x^T; about the mean when centered
	mean    []float64 // [n]
	energy  []float64 // [n] mean of x^2, likewise
	k       *kernels.Set
	threads int
}

// measure sums the inputs of a stage. With centered set second moments are those about the mean: a layer
// with a bias makes up for means exactly.
func measure(ctx context.Context, w ir.Walk, s ir.Stage, n int, centered bool, k *kernels.Set, threads int) (*moments, error) {
	gram := k.NewGram(n)
	mean := make([]float64, n)
	err := w.Inputs(ctx, s, func(x []float32, rows, cols int) error {
		if cols != n {
			return fmt.Errorf("%d inputs measured for %d columns", cols, n)
		}
		for r := range rows {
			for j, v := range x[r*n:][:n] {
				mean[j] += float64(v)
			}
		}
		return gram.Add(ctx, threads, x)
	})
	if err != nil {
		return nil, err
	}
	h, err := gram.Sum(ctx, threads)
	if err != nil {
		return nil, err
	}
	rows := float64(gram.Rows())
	m := &moments{n: n, second: h, mean: mean, energy: make([]float64, n), k: k, threads: threads}
	for i := range mean {
		mean[i] /= rows
		m.energy[i] = h[i*n+i] / rows
		if v := m.energy[i]; v-v != 0 {
			return nil, fmt.Errorf("input %d of stage %s is not finite", i, s.Name)
		}
	}
	for i := range n {
		row := h[i*n:][:n]
		for j := range row {
			row[j] /= rows
			if centered {
				row[j] -= float64(mean[i] * mean[j])
			}
		}
		if centered {
			m.energy[i] = max(0, row[i]) // what the bias does not make up for (FLAP, arXiv 2312.11983)
		}
	}
	return m, nil
}

// part copies rows a and columns b of the second moments.
func (m *moments) part(a, b []int) kernels.Matrix64 {
	out := kernels.View(make([]float64, len(a)*len(b)), len(a), len(b))
	for i, r := range a {
		src, dst := m.second[r*m.n:][:m.n], out.Row(i)
		for j, c := range b {
			dst[j] = src[c]
		}
	}
	return out
}

// damping is the fraction of the mean diagonal that is added to second moments before they are inverted.
// It holds the fit back where calibration text says little.
const damping = 1e-3

// inverse gives the upper factor U with inverse(A) = U^T U, A being the moments of the inputs in list,
// damped; more than asked for where that is not enough.
func (m *moments) inverse(ctx context.Context, list []int) (kernels.Matrix64, error) {
	n := len(list)
	var mean float64
	for _, i := range list {
		mean += m.second[i*m.n+i] / float64(n)
	}
	if mean == 0 {
		mean = 1 // of inputs that are never active: nothing is there to be fitted
	}
	for damp := damping; damp <= 1; damp *= 10 {
		a := m.part(list, list)
		for i := range n {
			a.Row(i)[i] += damp * mean
		}
		err := num.InverseCholeskyUpper(ctx, m.k, m.threads, a.Data, n)
		if err == nil {
			return a, nil
		}
		if !errors.Is(err, num.ErrNotPositiveDefinite) {
			return a, err
		}
	}
	return kernels.Matrix64{}, fmt.Errorf("%w even with damping 1", num.ErrNotPositiveDefinite)
}

// losses are relative to the energy of the layer's output.
type losses struct{ Dropped, Refitted float64 }

// fit gives the weights [rows, len(keep)] of a layer that reads only the inputs in keep, and what has to be
// added to its bias where it has one. w is [rows, n]. The weights that stay change by what makes up best
// for those that go, in the mean over tokens,
//
//	W'_S = W_S + W_P C_PS (C_SS + damping)^-1
//
// unless refit is false. Keeping everything keeps W.
func (m *moments) fit(ctx context.Context, w []float32, keep []int, refit bool) (out []float32, bias []float64, l losses, err error) {
	n, rows := m.n, len(w)/m.n
	gone := others(keep, n)
	left := kernels.View(make([]float64, rows*len(gone)), rows, len(gone))
	out = make([]float32, rows*len(keep))
	for r := range rows {
		for j, c := range keep {
			out[r*len(keep)+j] = w[r*n+c]
		}
		for j, c := range gone {
			left.Row(r)[j] = float64(w[r*n+c])
		}
	}
	bias = make([]float64, rows)
	for r := range rows {
		for j, c := range gone {
			bias[r] += float64(left.Row(r)[j] * m.mean[c])
		}
	}
	change := kernels.View(make([]float64, rows*len(keep)), rows, len(keep))
	if refit && len(gone) > 0 {
		u, err := m.inverse(ctx, keep)
		if err != nil {
			return nil, nil, l, err
		}
		cross := kernels.View(make([]float64, rows*len(keep)), rows, len(keep))
		if err := kernels.Gemm(ctx, m.k, m.threads, kernels.NN, change, left, m.part(gone, keep), false); err != nil {
			return nil, nil, l, err
		}
		if err := kernels.Gemm(ctx, m.k, m.threads, kernels.NT, cross, change, u, false); err != nil {
			return nil, nil, l, err
		}
		if err := kernels.Gemm(ctx, m.k, m.threads, kernels.NN, change, cross, u, false); err != nil {
			return nil, nil, l, err
		}
		for r := range rows {
			for j, v := range change.Row(r) {
				out[r*len(keep)+j] += float32(v)
				bias[r] -= float64(v * m.mean[keep[j]])
			}
		}
	}
	l, err = m.lost(ctx, w, keep, gone, change)
	return out, bias, l, err
}

// lost computes the losses on every eighth row.
func (m *moments) lost(ctx context.Context, w []float32, keep, gone []int, change kernels.Matrix64) (l losses, err error) {
	n, rows := m.n, len(w)/m.n
	some := (rows + 7) / 8
	whole, dropped, fitted := make([]float64, some*n), make([]float64, some*n), make([]float64, some*n)
	for i := range some {
		row := w[8*i*n:][:n]
		for c, v := range row {
			whole[i*n+c] = float64(v)
		}
		for _, c := range gone {
			dropped[i*n+c], fitted[i*n+c] = float64(row[c]), float64(row[c])
		}
		for j, c := range keep {
			fitted[i*n+c] = -change.Row(8 * i)[j]
		}
	}
	second := kernels.View(m.second, n, n)
	through := kernels.View(make([]float64, some*n), some, n)
	energy := func(d []float64) (sum float64) {
		if err == nil {
			err = kernels.Gemm(ctx, m.k, m.threads, kernels.NN, through, kernels.View(d, some, n), second, false)
		}
		for i, v := range d {
			sum += float64(v * through.Data[i])
		}
		return sum
	}
	if e := energy(whole); e > 0 {
		l.Dropped, l.Refitted = energy(dropped)/e, energy(fitted)/e
	}
	return l, err
}

// others are the numbers below n that are not in list, which is sorted.
func others(list []int, n int) []int {
	out := make([]int, 0, n-len(list))
	for i := range n {
		if len(list) > 0 && list[0] == i {
			list = list[1:]
			continue
		}
		out = append(out, i)
	}
	return out
}

// cheapest chooses which units of so many columns go so that the layer loses least when the others are
// fitted: one after the other, the unit whose columns P have the smallest tr(W_P (H^-1_PP)^-1 W_P^T), each
// time with what the fit has made of the others (as ZipLM does, arXiv 2302.04089). It returns units that
// stay, sorted.
func (m *moments) cheapest(ctx context.Context, w []float32, unit, stay int) ([]int, error) {
	n, rows := m.n, len(w)/m.n
	all := others(nil, n)
	u, err := m.inverse(ctx, all)
	if err != nil {
		return nil, err
	}
	inv := kernels.View(make([]float64, n*n), n, n)
	if err := kernels.Gemm(ctx, m.k, m.threads, kernels.TN, inv, u, u, false); err != nil {
		return nil, err
	}
	wt := make([]float64, n*rows) // a column of w is a row here
	for r := range rows {
		for c := range n {
			wt[c*rows+r] = float64(w[r*n+c])
		}
	}
	units := n / unit
	gone := make([]bool, units)
	costs := make([]float64, units)
	for range units - stay {
		err := par.Range(ctx, m.threads, units, max(1, 64/unit), func(_, lo, hi int) error {
			for i := lo; i < hi; i++ {
				if !gone[i] {
					costs[i] = unitCost(inv, wt, rows, i*unit, unit)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		best := -1
		for i, c := range costs {
			if !gone[i] && (best < 0 || c < costs[best]) {
				best = i
			}
		}
		gone[best] = true
		for c := best * unit; c < (best+1)*unit; c++ {
			if err := m.eliminate(ctx, inv, wt, rows, c); err != nil {
				return nil, err
			}
		}
	}
	var keep []int
	for i, g := range gone {
		if !g {
			keep = append(keep, i)
		}
	}
	return keep, nil
}

// unitCost is tr(W_P (H^-1_PP)^-1 W_P^T) for columns [at, at+size): with L L^T = H^-1_PP the sum of squares
// of L^-1 W_P^T.
func unitCost(inv kernels.Matrix64, wt []float64, rows, at, size int) float64 {
	l := make([]float64, size*size)
	for i := range size {
		for j := range i + 1 {
			s := inv.Row(at + i)[at+j]
			for k := range j {
				s -= float64(l[i*size+k] * l[j*size+k])
			}
			if i == j {
				l[i*size+i] = math.Sqrt(max(s, math.SmallestNonzeroFloat64))
			} else {
				l[i*size+j] = s / l[j*size+j]
			}
		}
	}
	var sum float64
	y := make([]float64, size)
	for r := range rows {
		for i := range size {
			s := wt[(at+i)*rows+r]
			for k := range i {
				s -= float64(l[i*size+k] * y[k])
			}
			y[i] = s / l[i*size+i]
			sum += float64(y[i] * y[i])
		}
	}
	return sum
}

// eliminate takes column c out: the others change by what repairs it, and the inverse becomes that of the
// moments without it.
func (m *moments) eliminate(ctx context.Context, inv kernels.Matrix64, wt []float64, rows, c int) error {
	pivot := append([]float64(nil), inv.Row(c)...)
	d := pivot[c]
	col := append([]float64(nil), wt[c*rows:][:rows]...)
	if !(d > 0) {
		return nil // gone already, or never active
	}
	return par.Range(ctx, m.threads, inv.Rows, 64, func(_, lo, hi int) error {
		for i := lo; i < hi; i++ {
			f := pivot[i] / d
			row, x := inv.Row(i), wt[i*rows:][:rows]
			if i == c {
				clear(row)
				clear(x)
				continue
			}
			if f == 0 {
				continue
			}
			for j, v := range pivot {
				row[j] -= float64(f * v)
			}
			row[c] = 0
			for j, v := range col {
				x[j] -= float64(f * v)
			}
		}
		return nil
	})
}
