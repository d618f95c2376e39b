package qgraph

import (
	"context"
	"errors"
	"math"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/num"
	"github.com/pare-dev/pare/internal/par"
)

// solve chooses codes and biases of a layer.
func (s *Static) solve(ctx context.Context, kern *kernels.Set, l *layer, q *weights, all []*moments) (*weights, LayerReport, error) {
	out := &weights{l: l, grid: q.grid, each: q.each, codes: append([]int32(nil), q.codes...), bias: append([]float32(nil), q.bias...)}
	sums := make([][3]float64, len(all))
	one := func(g, threads int) (err error) {
		if m := all[g]; m.n > 0 {
			sums[g], err = s.solveGroup(ctx, kern, threads, out, m, g)
			all[g] = nil // its products are not needed any more
		}
		return err
	}
	var err error
	if len(all) == 1 {
		err = one(0, 0)
	} else {
		err = par.Range(ctx, 0, len(all), 1, func(_, g, _ int) error { return one(g, 1) })
	}
	if err != nil {
		return nil, LayerReport{}, err
	}
	var signal, before, after float64
	for _, e := range sums {
		signal, before, after = signal+e[0], before+e[1], after+e[2]
	}
	if signal == 0 {
		return out, LayerReport{}, nil
	}
	return out, LayerReport{Nearest: ratio(signal, max(before, 0)), Chosen: ratio(signal, max(after, 0))}, nil
}

// solveGroup changes the codes and biases of the outputs of a group, and gives the energy of what they make and that
// of its error, before and after.
func (s *Static) solveGroup(ctx context.Context, kern *kernels.Set, threads int, q *weights, m *moments, group int) (sums [3]float64, err error) {
	l := q.l
	k, per := l.cols, l.outs/l.groups
	first := group * per
	free := l.hasBias() && !s.cfg.NoBias // the means are the bias's business
	codes := func(i int) []int32 { return q.codes[(first+i)*k : (first+i+1)*k] }
	m.finish()
	if m.ff == nil {
		if free {
			w := make([]float32, k)
			for i := range per {
				l.row(w, first+i)
				q.bias[first+i] = float32(float64(l.bias[first+i]) + m.drift(w, codes(i), q.scale(first+i)))
			}
		}
		return sums, nil
	}
	if free {
		m.centre()
	}
	rows := make([]row, per)
	w := make([]float32, per*k)
	for i := range rows {
		o := first + i
		rows[i] = row{w: w[i*k : (i+1)*k], codes: codes(i), grid: q.grid, a: q.scale(o)}
		l.row(rows[i].w, o)
	}
	j, err := newJudge(ctx, kern, threads, m, w, per)
	if err != nil {
		return sums, err
	}
	// what a bias does to the error: the means are its own when it is free to follow them
	loss := func(i int, bias float64) float64 {
		d := m.drift(rows[i].w, rows[i].codes, rows[i].a)
		if free {
			return m.n * (d + bias) * (d + bias)
		}
		return m.n * bias * (2*d + bias)
	}
	before, err := j.errors(ctx, rows)
	if err != nil {
		return sums, err
	}
	for i := range rows {
		o := first + i
		sums[0] += j.energy(i, free)
		sums[1] += before[i] + loss(i, float64(l.bias[o])-float64(q.bias[o]))
	}
	if s.products(l) {
		fit, err := newFitter(ctx, kern, m)
		if err != nil {
			return sums, err
		}
		if fit != nil {
			if err := fit.choose(ctx, kern, threads, rows, j); err != nil {
				return sums, err
			}
		}
	}
	after, err := j.errors(ctx, rows)
	if err != nil {
		return sums, err
	}
	for i := range rows {
		o := first + i
		if free {
			q.bias[o] = float32(float64(l.bias[o]) + m.drift(rows[i].w, rows[i].codes, rows[i].a))
		}
		sums[2] += after[i] + loss(i, float64(l.bias[o])-float64(q.bias[o]))
	}
	return sums, nil
}

// row is the weights of an output and the codes that stand for them.
type row struct {
	w     []float32
	codes []int32
	grid  calib.Grid
	a     calib.Affine
}

// judge computes errors of rows that read the same: (w*f - q*q)^2 over the positions.
type judge struct {
	kern    *kernels.Set
	threads int
	m       *moments
	w       []float64 // [rows, cols]
	wf, wq  []float64 // times ff and fq
	q, qq   []float64 // codes as numbers, and times qq
}

func newJudge(ctx context.Context, kern *kernels.Set, threads int, m *moments, w []float32, rows int) (*judge, error) {
	n := len(w)
	j := &judge{kern: kern, threads: threads, m: m, w: make([]float64, n), wf: make([]float64, n), wq: make([]float64, n), q: make([]float64, n), qq: make([]float64, n)}
	for i, v := range w {
		j.w[i] = float64(v)
	}
	return j, errors.Join(j.times(ctx, j.wf, j.w, m.ff, rows), j.times(ctx, j.wq, j.w, m.fq, rows))
}

// times is dst = a h, for h of [cols, cols].
func (j *judge) times(ctx context.Context, dst, a, h []float64, rows int) error {
	k := len(j.m.mf)
	return kernels.Gemm(ctx, j.kern, j.threads, kernels.NN, kernels.View(dst, rows, k), kernels.View(a, rows, k), kernels.View(h, k, k), false)
}

// errors are the sums of squares of each row, means left out when they are those of centred moments.
func (j *judge) errors(ctx context.Context, rows []row) ([]float64, error) {
	k := len(j.m.mf)
	for i, r := range rows {
		for c, code := range r.codes {
			j.q[i*k+c] = float64(r.a.Dequantize(int(code)))
		}
	}
	if err := j.times(ctx, j.qq, j.q, j.m.qq, len(rows)); err != nil {
		return nil, err
	}
	out := make([]float64, len(rows))
	for i := range rows {
		var sum float64
		for c := i * k; c < (i+1)*k; c++ {
			sum += float64(j.w[c]*j.wf[c]) - float64(2*j.wq[c]*j.q[c]) + float64(j.q[c]*j.qq[c])
		}
		out[i] = sum
	}
	return out, nil
}

// energy is the sum of squares of what row i makes in float.
func (j *judge) energy(i int, centred bool) float64 {
	k := len(j.m.mf)
	var sum, mean float64
	for c := range k {
		sum += float64(j.w[i*k+c] * j.wf[i*k+c])
		mean += float64(j.w[i*k+c] * j.m.mf[c])
	}
	if centred {
		sum += mean * mean / j.m.n
	}
	return sum
}

// fitter chooses the codes of rows of weights that read the same: the least of |w*f - q*q|^2 over codes next
// to the weights.
type fitter struct {
	m      *moments
	h      []float64 // products of the inputs, with a ridge
	ridge  float64
	lower  []float64 // its Cholesky factor
	target bool      // enough positions to also correct the error of the inputs
}

func newFitter(ctx context.Context, kern *kernels.Set, m *moments) (*fitter, error) {
	k := len(m.mf)
	var mean float64
	for i := range k {
		mean += m.qq[i*k+i] / float64(k)
	}
	if mean <= 0 {
		return nil, nil // nothing but zeros came in
	}
	f := &fitter{m: m, h: append([]float64(nil), m.qq...), ridge: 0.01 * mean, target: m.n >= float64(2*k)}
	for i := range k {
		f.h[i*k+i] += f.ridge
	}
	f.lower = append([]float64(nil), f.h...)
	if err := num.CholeskyLower(ctx, kern, 1, f.lower, k); err != nil {
		if errors.Is(err, num.ErrNotPositiveDefinite) {
			f.target = false
			return f, nil
		}
		return nil, err
	}
	return f, nil
}

// choose changes the codes of rows. The real-valued optimum is that of ridge regression towards the
// weights; codes then descend one coordinate at a time, each within a step of its weight, until none moves.
func (f *fitter) choose(ctx context.Context, kern *kernels.Set, threads int, rows []row, j *judge) error {
	k := len(f.m.mf)
	t := append([]float64(nil), j.w...)
	if f.target { // t = (ridge w + fq w) / h, by the inverse of h's factor
		for i, v := range j.w {
			t[i] = float64(f.ridge*v) + j.wq[i]
		}
		inverse, half := append([]float64(nil), f.lower...), make([]float64, len(t))
		if err := num.InvertLower(ctx, kern, threads, inverse, k); err != nil {
			return err
		}
		a, b, l := kernels.View(t, len(rows), k), kernels.View(half, len(rows), k), kernels.View(inverse, k, k)
		if err := kernels.Gemm(ctx, kern, threads, kernels.NT, b, a, l, false); err != nil {
			return err
		}
		if err := kernels.Gemm(ctx, kern, threads, kernels.NN, a, b, l, false); err != nil {
			return err
		}
	}
	starts, gradient := make([]start, len(rows)), make([]float64, len(t))
	for i, r := range rows {
		starts[i] = r.start(t[i*k : (i+1)*k]) // t becomes what is left of it
	}
	if err := j.times(ctx, gradient, t, f.h, len(rows)); err != nil {
		return err
	}
	return par.Range(ctx, threads, len(rows), 4, func(_, lo, hi int) error {
		for i := lo; i < hi; i++ {
			f.descend(rows[i], starts[i], gradient[i*k:(i+1)*k])
		}
		return nil
	})
}

// start is where a row begins: codes less the zero point, and how far they may go.
type start struct{ q, low, high []float64 }

// start rounds t, and replaces it by the difference from what it was rounded to.
func (r row) start(t []float64) start {
	s, k := float64(r.a.Scale), len(r.w)
	buf := make([]float64, 3*k)
	b := start{buf[:k], buf[k : 2*k], buf[2*k:]}
	for i, v := range r.w {
		x := float64(v) / s
		b.low[i] = max(math.Floor(x), float64(r.grid.Min-r.a.Zero))
		b.high[i] = max(min(math.Ceil(x), float64(r.grid.Max-r.a.Zero)), b.low[i])
		b.low[i] = min(b.low[i], b.high[i])
		b.q[i] = min(max(math.RoundToEven(t[i]/s), b.low[i]), b.high[i])
		t[i] = float64(b.q[i]*s) - t[i]
	}
	return b
}

// descend moves one code after the other to where the error is least; g is the gradient, h * (q*s - t).
func (f *fitter) descend(r row, b start, g []float64) {
	k, s := len(r.w), float64(r.a.Scale)
	for range 20 {
		moved := false
		for i := range k {
			h := f.h[i*k : (i+1)*k]
			n := min(max(math.RoundToEven(b.q[i]-g[i]/(h[i]*s)), b.low[i]), b.high[i])
			if n == b.q[i] {
				continue
			}
			d := (n - b.q[i]) * s
			b.q[i], moved = n, true
			for j, v := range h {
				g[j] += float64(d * v)
			}
		}
		if !moved {
			break
		}
	}
	for i, q := range b.q {
		r.codes[i] = int32(q) + int32(r.a.Zero)
	}
}
