package channels

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/num"
	"github.com/pare-dev/pare/ir/graph"
)

// Scores that units can be judged by.
const (
	// L1 and Magnitude judge by the size of weights: the share of a channel in the sum of absolute values, or of
	// squares.
	L1        = "l1"
	Magnitude = "magnitude"
	// Gain judges by the factors of batch normalization, as network slimming does (Liu et al. 2017); by Magnitude
	// where there is none.
	Gain = "gain"
	// Activation judges by weights and what they meet: |W|^2 E[x^2] of the layers that read a channel.
	Activation = "activation"
	// ByFit judges by what the layers that read a channel lose when the channels that stay take its place, by least
	// squares; what was removed before counts.
	ByFit = "fit"
)

// Scores lists them.
func Scores() []string { return []string{L1, Magnitude, Gain, Activation, ByFit} }

// most is the share of an output that is lost at most, for the logarithm's sake.
const most = 0.999

// price is the cost of a share that is lost: it grows without bound as nothing is left.
func price(share float64) float64 { return -math.Log1p(-min(max(share, 0), most)) }

// bySize orders the units of a group by their shares in weights: the geometric mean of that in the layers that make
// them and of that in the layers that read them, so that what nobody makes or nobody reads is worth nothing.
func (t *tracer) bySize(g *group, score string, gains map[*layer][]float64) {
	mine := map[int]bool{}
	for _, r := range g.units {
		mine[r] = true
	}
	made, read, factor := shares{}, shares{}, shares{}
	f := func(w float64) float64 { return w * w }
	if score == L1 {
		f = math.Abs
	}
	for _, l := range t.layers {
		out, in := l.energy(f)
		made.add(t, mine, l.out, out)
		factor.add(t, mine, l.out, gains[l])
		if !l.own {
			read.add(t, mine, l.in, in)
		}
	}
	worth := map[int]float64{}
	var sum float64
	for _, r := range g.units {
		switch {
		case score == Gain && len(factor) > 0:
			worth[r] = factor[r]
		case len(read) == 0:
			worth[r] = made[r]
		default:
			worth[r] = math.Sqrt(made[r] * read[r])
		}
		sum += worth[r]
	}
	g.order = slices.Clone(g.free)
	slices.SortStableFunc(g.order, func(a, b int) int { return cmp.Compare(worth[a], worth[b]) })
	g.cost = []float64{0}
	var gone float64
	for _, r := range g.order {
		if sum > 0 {
			gone += worth[r] / sum
		}
		g.cost = append(g.cost, price(gone))
	}
}

// shares are what units have of the weights of layers, summed over layers.
type shares map[int]float64

// add counts a layer in whose channels some units are.
func (s shares) add(t *tracer, mine map[int]bool, ids []int, energy []float64) {
	var sum float64
	for i, id := range ids {
		if len(energy) == len(ids) && mine[t.u.root(id)] {
			sum += energy[i]
		}
	}
	if sum == 0 {
		return
	}
	for i, id := range ids {
		if r := t.u.root(id); mine[r] {
			s[r] += energy[i] / sum
		}
	}
}

// reader is a layer that reads channels of a group, as the elimination sees it.
type reader struct {
	cols  map[int][]int // of the units
	w     []float64     // [n, rows]: weights by input channel; rows are outputs and places in the kernel
	rows  int
	n     int
	diag  []float64 // E[x^2] where channels do not stand in for each other
	h     []float64 // inverse of the covariance of the inputs that are left
	whole float64   // energy of the outputs
	lost  float64   // the share of it that went
}

// newReader sees a layer whose inputs have these moments: [n,n] row-major, or their diagonal alone.
func newReader(ctx context.Context, k *kernels.Set, l *layer, u *units, cov []float64, full bool) (*reader, error) {
	n := len(l.in)
	r := &reader{cols: l.columns(u), n: n, rows: 1}
	if !full {
		_, in := l.energy(func(w float64) float64 { return w * w })
		r.w, r.diag = make([]float64, n), cov
		for c, e := range in {
			r.w[c] = math.Sqrt(e)
			r.whole += e * cov[c]
		}
		return r, nil
	}
	w := l.n.In[1].Const
	inner := graph.Elems(w.Shape[2:])
	r.rows = len(l.out) * inner
	r.w = make([]float64, n*r.rows)
	l.each(func(o, c, tap, at int, v float32) { r.w[c*r.rows+o*inner+tap] = float64(v) })
	var mean float64
	for c := range n {
		mean += cov[c*n+c] / float64(n)
	}
	moved := kernels.View(make([]float64, n*r.rows), n, r.rows)
	k.GemmNN64(moved, kernels.View(cov, n, n), kernels.View(r.w, n, r.rows), false)
	for i, v := range r.w {
		r.whole += v * moved.Data[i]
	}
	if mean <= 0 || r.whole <= 0 {
		r.whole = 0 // nothing but zeros comes in: nothing can be lost
		return r, nil
	}
	var damped []float64
	// More than a thousandth only where sums of large numbers left less than that of small differences.
	for damp := 1e-3; ; damp *= 10 {
		damped = slices.Clone(cov)
		for c := range n {
			damped[c*n+c] += damp * mean
		}
		err := num.InverseCholeskyUpper(ctx, k, 0, damped, n)
		if err == nil {
			break
		}
		if !errors.Is(err, num.ErrNotPositiveDefinite) || damp > 100 {
			return nil, &fault.Error{Tensor: l.n.Label(), Op: "prune.channels", Err: err}
		}
	}
	across := make([]float64, n*n) // the inverse is U^T U
	for i := range n {
		for j := range n {
			across[j*n+i] = damped[i*n+j]
		}
	}
	r.h = make([]float64, n*n)
	k.GemmNT64(kernels.View(r.h, n, n), kernels.View(across, n, n), kernels.View(across, n, n), false)
	return r, nil
}

// column are the weights of an input.
func (r *reader) column(c int) []float64 { return r.w[c*r.rows:][:r.rows] }

// loss is what the outputs lose when a unit goes and the rest takes its place.
func (r *reader) loss(unit int) float64 {
	cols := r.cols[unit]
	if len(cols) == 0 || r.whole <= 0 {
		return 0
	}
	m := r.block(cols)
	var sum float64
	for i, c := range cols {
		for j, d := range cols[:i+1] {
			e := m[i*len(cols)+j] * dot(r.column(c), r.column(d))
			if sum += e; j < i {
				sum += e
			}
		}
	}
	return max(sum, 0) / r.whole
}

// block is the covariance of some inputs, given the others that are left.
func (r *reader) block(cols []int) []float64 {
	b := len(cols)
	m := make([]float64, b*b)
	for i, c := range cols {
		if r.h == nil {
			m[i*b+i] = r.diag[c]
			continue
		}
		for j, d := range cols {
			m[i*b+j] = r.h[c*r.n+d]
		}
	}
	if r.h != nil {
		invert(m, b)
	}
	return m
}

// remove takes a unit out: the others take its place as well as they can.
func (r *reader) remove(unit int) {
	cols := r.cols[unit]
	r.lost += r.loss(unit)
	if len(cols) == 0 || r.h == nil {
		return
	}
	n, b := r.n, len(cols)
	m := r.block(cols)
	// T = H[:,P] (H_PP)^-1; then W -= T W_P and H -= T H[P,:].
	t := make([]float64, n*b)
	for i := range n {
		for j := range b {
			for p, c := range cols {
				t[i*b+j] += r.h[i*n+c] * m[p*b+j]
			}
		}
	}
	wp, hp := make([]float64, b*r.rows), make([]float64, b*n)
	for p, c := range cols {
		copy(wp[p*r.rows:], r.column(c))
		copy(hp[p*n:], r.h[c*n:][:n])
	}
	for i := range n {
		for p := range b {
			axpy(r.column(i), -t[i*b+p], wp[p*r.rows:][:r.rows])
			axpy(r.h[i*n:][:n], -t[i*b+p], hp[p*n:][:n])
		}
	}
	for _, c := range cols { // exactly, so that rounding leaves nothing
		clear(r.column(c))
		clear(r.h[c*n:][:n])
		for i := range n {
			r.h[i*n+c] = 0
		}
	}
}

// invert inverts a small positive definite matrix in place, by Gauss and Jordan.
func invert(m []float64, n int) {
	for i := range n {
		p := m[i*n+i]
		if p <= 0 {
			p = math.SmallestNonzeroFloat32 // nothing is left of it: it costs as much as it can
		}
		m[i*n+i] = 1
		for j := range n {
			m[i*n+j] /= p
		}
		for r := range n {
			if r == i {
				continue
			}
			f := m[r*n+i]
			m[r*n+i] = 0
			for j := range n {
				m[r*n+j] -= f * m[i*n+j]
			}
		}
	}
}

// byLoss orders the units of a group by what the layers that read them lose, one after the other.
func (g *group) byLoss(ctx context.Context, readers []*reader) error {
	left := slices.Clone(g.free)
	g.order, g.cost = nil, []float64{0}
	for len(left) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		best, least := 0, math.Inf(1)
		for i, u := range left {
			var c float64
			for _, r := range readers {
				c += price(r.lost+r.loss(u)) - price(r.lost)
			}
			if c < least {
				best, least = i, c
			}
		}
		u := left[best]
		left = slices.Delete(left, best, best+1)
		var sum float64
		for _, r := range readers {
			r.remove(u)
			sum += price(r.lost)
		}
		g.order = append(g.order, u)
		g.cost = append(g.cost, max(sum, g.cost[len(g.cost)-1]))
	}
	return nil
}

func dot(a, b []float64) (sum float64) {
	for i, v := range a {
		sum += float64(v * b[i])
	}
	return sum
}

// axpy adds f times x to y.
func axpy(y []float64, f float64, x []float64) {
	if f == 0 {
		return
	}
	for i, v := range x {
		y[i] += float64(f * v)
	}
}
