package qgraph

import (
	"context"
	"errors"
	"math"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/num"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// moments are sums over what a group of a layer reads in the float network (f) and in the quantized one (q).
type moments struct {
	n      float64
	mf, mq []float64 // sums of each
	ff, fq []float64 // products of pairs, row-major [cols, cols]; fq has f by row
	qq     []float64
}

// newMoments sums nothing yet; without products it is for biases alone.
func newMoments(cols int, products bool) *moments {
	m := &moments{mf: make([]float64, cols), mq: make([]float64, cols)}
	if products {
		m.ff, m.fq, m.qq = make([]float64, cols*cols), make([]float64, cols*cols), make([]float64, cols*cols)
	}
	return m
}

func (m *moments) add(f, q []float32) {
	m.n++
	k := len(f)
	for i := range k {
		a, b := float64(f[i]), float64(q[i])
		m.mf[i] += a
		m.mq[i] += b
		if m.ff == nil {
			continue
		}
		ff, fq, qq := m.ff[i*k:(i+1)*k], m.fq[i*k:(i+1)*k], m.qq[i*k:(i+1)*k]
		for j := range k {
			c, d := float64(f[j]), float64(q[j])
			ff[j] += float64(a * c)
			fq[j] += float64(a * d)
			qq[j] += float64(b * d)
		}
	}
}

// centre subtracts the means, which a bias takes up.
func (m *moments) centre() {
	k := len(m.mf)
	for i := range k {
		for j := range k {
			m.ff[i*k+j] -= m.mf[i] * m.mf[j] / m.n
			m.fq[i*k+j] -= m.mf[i] * m.mq[j] / m.n
			m.qq[i*k+j] -= m.mq[i] * m.mq[j] / m.n
		}
	}
}

const (
	roundCols    = 768     // wider layers are rounded to nearest: the products of their inputs would take minutes
	roundMemory  = 1 << 29 // bytes of moments at once
	roundKept    = 1 << 26 // bytes of values kept between layers, which bounds the samples
	roundSamples = 64
	roundLeast   = 16 // samples, whatever they take
)

// stages groups layers by how many others lie before them: those of one stage do not read each other.
func (p *placement) stages() [][]*layer {
	depth := map[*graph.Value]int{}
	var out [][]*layer
	for _, n := range p.g.Nodes {
		d := 0
		for v := range graph.Reads(n) {
			d = max(d, depth[v])
		}
		if l := p.layers[n]; p.form[n] == formLinear {
			for len(out) <= d {
				out = append(out, nil)
			}
			out[d] = append(out[d], l)
			d++
		}
		for _, v := range n.Out {
			depth[v] = d
		}
	}
	return out
}

// round chooses the codes of all layers by least squares on what they really read, the codes before them
// included, and lets biases take up the mean error. Layers are taken in the order in which they compute, and
// each sees what was made of those before it.
func (s *Static) round(ctx context.Context, p *placement, scales map[*graph.Value]calib.Affine, codes map[*graph.Node]*weights) ([]LayerReport, error) {
	samples, err := s.some(ctx, p)
	if err != nil {
		return nil, err
	}
	b := build(p, scales, codes)
	float, integer := newWalker(s.net, p.g, samples), newWalker(s.net, b.g, samples)
	var reports []LayerReport
	for _, stage := range p.stages() {
		for len(stage) > 0 {
			n, size := 0, 0
			for n < len(stage) && (n == 0 || size+s.momentBytes(stage[n]) <= roundMemory) {
				size += s.momentBytes(stage[n])
				n++
			}
			all, err := s.measure(ctx, b, float, integer, stage[:n])
			if err != nil {
				return nil, err
			}
			for i, l := range stage[:n] {
				q, r, err := s.solve(ctx, l, codes[l.n], all[i])
				if err != nil {
					return nil, err
				}
				r.Node = l.n.Label()
				reports = append(reports, r)
				codes[l.n] = q
				b.replace(l.n, q, scales[p.head(l.n.In[0])].Scale)
			}
			stage = stage[n:]
		}
	}
	return reports, nil
}

// some takes samples from all over the set, as many as there is memory for what is kept between layers.
func (s *Static) some(ctx context.Context, p *placement) ([]ir.Sample, error) {
	size := 0
	for _, n := range p.g.Nodes {
		for _, v := range n.Out {
			if dims, ok := shapeOf(v); ok {
				size = max(size, 4*graph.Elems(dims))
			} else if h := s.hist[v]; h != nil { // of an open shape: what calibration saw
				size = max(size, 4*int(h.Count)/max(s.samples.Len(), 1)) //nolint:gosec // counts of values in memory
			}
		}
	}
	// Both networks keep a few of their largest values at a time.
	n := min(s.samples.Len(), roundSamples, max(roundKept/max(8*size, 1), roundLeast))
	out := make([]ir.Sample, n)
	for i := range out {
		x, err := s.samples.Sample(ctx, i*s.samples.Len()/n)
		if err != nil {
			return nil, err
		}
		out[i] = x
	}
	return out, nil
}

func shapeOf(v *graph.Value) ([]int, bool) {
	if v == nil {
		return nil, false
	}
	return v.Shape.Known()
}

// products reports whether the codes of a layer are chosen by what it reads.
func (s *Static) products(l *layer) bool { return !s.cfg.NoRounding && l.cols <= roundCols }

func (s *Static) momentBytes(l *layer) int {
	if !s.products(l) {
		return l.groups * l.cols * 2 * 8
	}
	return l.groups * l.cols * l.cols * 3 * 8
}

// measure gathers the moments of some layers from both networks, sample by sample.
func (s *Static) measure(ctx context.Context, b *builder, float, integer *walker, list []*layer) ([][]*moments, error) {
	wantF, wantQ := make([]*graph.Value, len(list)), make([]*graph.Value, len(list))
	out := make([][]*moments, len(list))
	for i, l := range list {
		wantF[i], wantQ[i] = l.n.In[0], b.nodes[l.n].In[0]
		out[i] = make([]*moments, l.groups)
		for g := range out[i] {
			out[i][g] = newMoments(l.cols, s.products(l))
		}
	}
	if err := errors.Join(float.to(ctx, wantF), integer.to(ctx, wantQ)); err != nil {
		return nil, err
	}
	samples := len(float.samples)
	for i := range samples {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := float.step(ctx, i)
		if err != nil {
			return nil, err
		}
		q, err := integer.step(ctx, i)
		if err != nil {
			return nil, err
		}
		_, shift := math.Modf(float64(i) * 0.6180339887498949) // positions differ from sample to sample
		err = par.Range(ctx, 0, len(list), 1, func(_, lo, hi int) error {
			for k := lo; k < hi; k++ {
				list[k].gather(out[k], f[k], q[k], samples, shift)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, errors.Join(float.close(), integer.close())
}

// gather adds some positions of a sample to the moments of a layer.
func (l *layer) gather(m []*moments, f, q *graph.Tensor, samples int, shift float64) {
	pf, ok := l.open(f)
	pq, ok2 := l.open(q)
	if !ok || !ok2 || pf.positions != pq.positions {
		return
	}
	total := min(max(8*l.cols, 2048), 16384)
	n := min((total+samples-1)/samples, pf.positions)
	a, b := make([]float32, l.cols), make([]float32, l.cols)
	for g := range m {
		for i := range n {
			at := pf.pick(i, n, shift)
			pf.row(a, g, at)
			pq.row(b, g, at)
			m[g].add(a, b)
		}
	}
}

// solve chooses codes and biases of a layer.
func (s *Static) solve(ctx context.Context, l *layer, q *weights, all []*moments) (*weights, LayerReport, error) {
	out := &weights{l: l, grid: q.grid, each: q.each, codes: append([]int32(nil), q.codes...), bias: append([]float32(nil), q.bias...)}
	per := l.outs / l.groups
	var signal, before, after float64
	for g, m := range all {
		if m.n == 0 {
			continue
		}
		if m.ff == nil {
			if !l.hasBias() || s.cfg.NoBias {
				continue
			}
			w := make([]float32, l.cols)
			for o := g * per; o < (g+1)*per; o++ {
				l.row(w, o)
				out.bias[o] = float32(float64(l.bias[o]) + m.drift(w, out.codes[o*l.cols:(o+1)*l.cols], q.scale(o)))
			}
			continue
		}
		free := l.hasBias() && !s.cfg.NoBias // the means are the bias's business
		raw := append([]float64(nil), m.ff...)
		if free {
			m.centre()
		}
		var fit *fitter
		if s.products(l) {
			var err error
			if fit, err = newFitter(ctx, kernels.For(s.cfg.ISA), m); err != nil {
				return nil, LayerReport{}, err
			}
		}
		errs := make([][3]float64, per)
		err := par.Range(ctx, 0, per, 8, func(_, lo, hi int) error {
			w := make([]float32, l.cols)
			for i := lo; i < hi; i++ {
				o := g*per + i
				l.row(w, o)
				c := out.codes[o*l.cols : (o+1)*l.cols]
				old := float64(l.bias[o]) - float64(q.bias[o])
				errs[i][0] = quadratic(w, raw)
				errs[i][1] = m.loss(w, c, q.scale(o), old, free)
				if fit != nil {
					fit.row(w, c, q.grid, q.scale(o))
				}
				if free {
					out.bias[o] = float32(float64(l.bias[o]) + m.drift(w, c, q.scale(o)))
					errs[i][2] = m.loss(w, c, q.scale(o), float64(l.bias[o])-float64(out.bias[o]), free)
				} else {
					errs[i][2] = m.loss(w, c, q.scale(o), old, free)
				}
			}
			return nil
		})
		if err != nil {
			return nil, LayerReport{}, err
		}
		for _, e := range errs {
			signal, before, after = signal+e[0], before+e[1], after+e[2]
		}
	}
	if signal == 0 {
		return out, LayerReport{}, nil
	}
	return out, LayerReport{Nearest: ratio(signal, max(before, 0)), Chosen: ratio(signal, max(after, 0))}, nil
}

// drift is the mean of w*f - q*q: what the bias has to take up.
func (m *moments) drift(w []float32, codes []int32, a calib.Affine) float64 {
	var d float64
	for i, v := range w {
		d += float64(v)*m.mf[i] - float64(a.Dequantize(int(codes[i])))*m.mq[i]
	}
	return d / m.n
}

// loss is the sum over the positions of (w*f + b - q*q - bq)^2; bias is b - bq.
func (m *moments) loss(w []float32, codes []int32, a calib.Affine, bias float64, centred bool) float64 {
	k := len(w)
	var sum float64
	for i := range k {
		wi, qi := float64(w[i]), float64(a.Dequantize(int(codes[i])))
		var r, t float64
		for j := range k {
			wj, qj := float64(w[j]), float64(a.Dequantize(int(codes[j])))
			r += m.ff[i*k+j]*wj - 2*m.fq[i*k+j]*qj
			t += m.qq[i*k+j] * qj
		}
		sum += wi*r + qi*t
	}
	d := m.drift(w, codes, a)
	if centred {
		return sum + m.n*(d+bias)*(d+bias)
	}
	return sum + 2*m.n*d*bias + m.n*bias*bias
}

func quadratic(w []float32, h []float64) float64 {
	k := len(w)
	var sum float64
	for i := range k {
		var r float64
		for j := range k {
			r += h[i*k+j] * float64(w[j])
		}
		sum += float64(w[i]) * r
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

// row changes the codes of one row. The real-valued optimum is that of ridge regression towards the
// weights; codes then descend one coordinate at a time, each within a step of its weight, until none moves.
func (f *fitter) row(w []float32, codes []int32, grid calib.Grid, a calib.Affine) {
	k := len(w)
	s := float64(a.Scale)
	t := make([]float64, k)
	for i, v := range w {
		t[i] = float64(v)
	}
	if f.target {
		for j := range k {
			t[j] = f.ridge * float64(w[j])
		}
		for i, v := range w {
			for j := range k {
				t[j] += f.m.fq[i*k+j] * float64(v)
			}
		}
		solveLower(f.lower, t)
	}
	low, high := make([]float64, k), make([]float64, k)
	q := make([]float64, k) // codes less the zero point
	for i, v := range w {
		x := float64(v) / s
		low[i] = max(math.Floor(x), float64(grid.Min-a.Zero))
		high[i] = max(min(math.Ceil(x), float64(grid.Max-a.Zero)), low[i])
		low[i] = min(low[i], high[i])
		q[i] = min(max(math.RoundToEven(t[i]/s), low[i]), high[i])
	}
	r := make([]float64, k) // gradient: h * (q*s - t)
	for i := range k {
		d := q[i]*s - t[i]
		for j := range k {
			r[j] += d * f.h[i*k+j]
		}
	}
	for range 20 {
		moved := false
		for i := range k {
			n := min(max(math.RoundToEven(q[i]-r[i]/(f.h[i*k+i]*s)), low[i]), high[i])
			if n == q[i] {
				continue
			}
			d := (n - q[i]) * s
			q[i], moved = n, true
			for j := range k {
				r[j] += d * f.h[i*k+j]
			}
		}
		if !moved {
			break
		}
	}
	for i := range k {
		codes[i] = int32(q[i]) + int32(a.Zero)
	}
}

// solveLower solves L L' x = b in place.
func solveLower(l, b []float64) {
	k := len(b)
	for i := range k {
		v := b[i]
		for j := range i {
			v -= l[i*k+j] * b[j]
		}
		b[i] = v / l[i*k+i]
	}
	for i := k - 1; i >= 0; i-- {
		v := b[i]
		for j := i + 1; j < k; j++ {
			v -= l[j*k+i] * b[j]
		}
		b[i] = v / l[i*k+i]
	}
}
