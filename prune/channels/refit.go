package channels

import (
	"context"
	"errors"
	"math"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/num"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir/graph"
)

// Fit is what became of a layer: how well its outputs are those of the original, in dB.
type Fit struct {
	Layer  string  `json:"layer"`
	Before float64 `json:"before_db"` // with the weights that stayed
	After  float64 `json:"after_db"`  // fitted; on the positions that the fit did not see, the better of both is taken
}

// Bounds of the fit of a layer.
const (
	fitRows = 1 << 16 // positions that are looked at
	fitCols = 4096    // a layer that reads more is left as it is: its products would take minutes
)

// ridges that are tried, relative to the mean square of the inputs: how strongly weights are held to what they were.
// The last one moves biases alone.
var ridges = []float64{1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 1e6}

// refit fits the layers of the pruned graph, in order, to the outputs of the original: each reads what the layers
// before it, fitted already, make of the samples.
func (p *pruning) refit(ctx context.Context) ([]Fit, error) {
	original, pruned := newStage(p.net, p.original, p.samples), newStage(p.net, p.g, p.samples)
	place := map[*graph.Node]int{}
	for i, n := range p.g.Nodes {
		place[n] = i
	}
	p.sink.Stage("fit", int64(len(p.t.layers)), "layers")
	var fits []Fit
	for _, l := range p.t.layers {
		at := place[l.n]
		old := p.original.Nodes[at]
		if err := original.to(ctx, at+1, old.Out[0]); err != nil {
			return nil, err
		}
		if err := pruned.to(ctx, at, l.n.In[0]); err != nil {
			return nil, err
		}
		now := *l
		now.groups = max(l.n.Int("group", 1), 1)
		f, err := p.fit(ctx, &now, p.keep.list(l.out), func(i int) (x, y *graph.Tensor) {
			return pruned.kept[i][l.n.In[0]], original.kept[i][old.Out[0]]
		})
		if err != nil {
			return nil, err
		}
		if f != nil {
			fits = append(fits, *f)
		}
		p.sink.Add(1)
	}
	return fits, p.compare(ctx, original, pruned)
}

// compare runs both to the end, and takes the ratio of signal to noise of every output.
func (p *pruning) compare(ctx context.Context, original, pruned *stage) error {
	if err := original.to(ctx, len(original.g.Nodes)); err != nil {
		return err
	}
	if err := pruned.to(ctx, len(pruned.g.Nodes)); err != nil {
		return err
	}
	for k, v := range original.g.Outputs {
		var signal, noise float64
		seen := false
		for i := range original.kept {
			a, b := original.kept[i][v], pruned.kept[i][pruned.g.Outputs[k]]
			if a == nil || b == nil || a.Type != graph.Float32 || len(a.Data) != len(b.Data) {
				continue
			}
			seen = true
			y := graph.Of[float32](b)
			for j, e := range graph.Of[float32](a) {
				signal += float64(e) * float64(e)
				d := float64(e) - float64(y[j])
				noise += float64(d * d)
			}
		}
		if !seen {
			continue // of no numbers, or of another size each time
		}
		o := Output{Name: v.Name, SQNR: decibel(signal, noise)}
		if signal > 0 {
			o.noise = noise / signal
		}
		p.report.Outputs = append(p.report.Outputs, o)
	}
	return nil
}

// best is what a ratio of signal to noise is at most, as elsewhere.
const best = 200

func decibel(signal, noise float64) float64 {
	switch r := signal / noise; {
	case noise <= 0 || signal <= 0:
		return best
	case !(r > 0): // of what is not finite
		return -best
	default:
		return max(min(10*math.Log10(r), best), -best)
	}
}

// sums are the products of what a group of a layer reads, a one where it has a bias, and of what it shall make: one
// set to fit on, one to judge with.
type sums struct {
	half [2]*kernels.Gram
	row  []float32
}

// fit chooses the weights of a layer. It returns nil where the layer cannot be looked at.
func (p *pruning) fit(ctx context.Context, l *layer, keep []int, values func(i int) (x, y *graph.Tensor)) (*Fit, error) {
	w := l.n.In[1].Const
	cols := w.Elems() / max(w.Shape[l.outAxis], 1)
	if l.outAxis == 1 {
		cols = w.Elems() / w.Shape[1] / l.groups
	}
	outs := len(keep) / l.groups
	biased := l.n.Op != "MatMul"
	if f := l.n.Float("alpha", 1); f != 1 || l.n.Float("beta", 1) != 1 {
		return p.unfitted(l, "it has factors of its own") // Simplify moves them into the weights where that is possible
	}
	ones := 0
	if biased {
		ones = 1
	}
	width := cols + ones + outs
	if width > fitCols {
		return p.unfitted(l, "it reads too much")
	}
	if b := l.n.Input(2); b != nil && (b.Const.Type != graph.Float32 || b.Const.Data == nil || b.Const.Elems() != 1 && b.Const.Elems() != len(keep) || rank(b) > 1 && size(b, rank(b)-1) == 1 && b.Const.Elems() != 1) {
		return p.unfitted(l, "what it adds is no number for each output")
	}
	// two halves of every group, and for as many groups as there are threads what solving them takes
	if square := 8 * int64(width) * int64(width); 2*int64(l.groups)*square+4*int64(min(l.groups, max(p.threads, 1)))*square > p.memory() {
		return p.unfitted(l, "the moments of what it reads do not fit --max-memory")
	}
	all := make([]sums, l.groups)
	for g := range all {
		all[g] = sums{row: make([]float32, width)}
		for h := range all[g].half {
			all[g].half[h] = p.kern.NewGram(width)
		}
	}
	each := max(p.rows/len(p.samples), 1)
	for i := range p.samples {
		x, y := values(i)
		if x == nil || y == nil {
			return p.unfitted(l, "what it reads is not known")
		}
		at, ok := l.open(x, y)
		if !ok {
			return p.unfitted(l, "it reads its input in an unusual way")
		}
		n := min(each, at.positions)
		err := par.Range(ctx, p.threads, l.groups, 1, func(_, from, to int) error {
			for g := from; g < to; g++ {
				s := &all[g]
				for k := range n {
					h := i & 1
					if len(p.samples) == 1 && 2*k >= n { // the lower half of a single picture
						h = 1
					}
					position := k * at.positions / n
					at.inputs(s.row, g, position)
					if biased {
						s.row[cols] = 1
					}
					at.outputs(s.row[cols+ones:], keep[g*outs:(g+1)*outs], position)
					if err := s.half[h].Add(ctx, p.inner(l), s.row); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return p.solveAll(ctx, l, all, cols, ones, outs)
}

// unfitted says that a layer keeps the weights that stay.
func (p *pruning) unfitted(l *layer, why string) (*Fit, error) {
	p.sink.Note(l.n.Label(), "not fitted: "+why)
	return nil, nil
}

// inner are the threads within a group of a layer.
func (p *pruning) inner(l *layer) int {
	if l.groups > 1 {
		return 1
	}
	return p.threads
}

// solveAll fits the groups of a layer and puts what they became in place.
func (p *pruning) solveAll(ctx context.Context, l *layer, all []sums, cols, ones, outs int) (*Fit, error) {
	old := make([][]float64, l.groups) // [outs, cols+ones] of each group
	for g := range old {
		old[g] = make([]float64, outs*(cols+ones))
	}
	width := cols + ones
	where := func(o, c, tap int) (g, at int) {
		g = o / outs
		taps := graph.Elems(l.n.In[1].Const.Shape[2:])
		return g, o%outs*width + (c-g*(cols/taps))*taps + tap
	}
	l.each(func(o, c, tap, _ int, v float32) {
		g, at := where(o, c, tap)
		old[g][at] = float64(v)
	})
	if b := l.n.Input(2); ones > 0 && b != nil {
		v := graph.Of[float32](b.Const)
		for o := range outs * l.groups {
			old[o/outs][o%outs*width+cols] = float64(v[o%len(v)])
		}
	}
	f := &Fit{Layer: l.n.Name}
	if f.Layer == "" {
		f.Layer = l.n.Out[0].Name
	}
	fresh := make([][]float64, l.groups)
	figures := make([][3]float64, l.groups)
	err := par.Range(ctx, p.threads, l.groups, 1, func(_, from, to int) error {
		for g := from; g < to; g++ {
			var err error
			if fresh[g], figures[g], err = p.solve(ctx, &all[g], old[g], cols, ones, outs, p.inner(l)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var signal, before, after float64
	for _, e := range figures {
		signal, before, after = signal+e[0], before+e[1], after+e[2]
	}
	f.Before, f.After = decibel(signal, before), decibel(signal, after)
	if !(after < before) {
		f.After = f.Before
		return f, nil
	}
	out := graph.New(graph.Float32, l.n.In[1].Const.Shape...)
	dst := graph.Of[float32](out)
	l.each(func(o, c, tap, at int, _ float32) {
		g, i := where(o, c, tap)
		dst[at] = float32(fresh[g][i])
	})
	l.n.In[1] = p.keep.constant(l.n.In[1], out)
	if ones == 0 {
		return f, nil
	}
	bias := graph.New(graph.Float32, outs*l.groups)
	for o := range outs * l.groups {
		graph.Of[float32](bias)[o] = float32(fresh[o/outs][o%outs*width+cols])
	}
	base := l.n.Input(2)
	if base == nil {
		base = &graph.Value{Name: l.n.Out[0].Name + "_bias"}
	}
	for len(l.n.In) < 3 {
		l.n.In = append(l.n.In, nil)
	}
	l.n.In[2] = p.keep.constant(base, bias)
	return f, nil
}

// solve fits the rows of a group: ridge regression towards the weights that stayed, with the ridge that is best on
// the half that it was not fitted on. It returns the energy of the outputs and the errors before and after.
func (p *pruning) solve(ctx context.Context, s *sums, old []float64, cols, ones, outs, threads int) ([]float64, [3]float64, error) {
	var halves [2][]float64
	for h, g := range s.half {
		var err error
		if halves[h], err = g.Sum(ctx, threads); err != nil {
			return nil, [3]float64{}, err
		}
	}
	k, width := cols+ones, cols+ones+outs
	whole := make([]float64, width*width)
	for i := range whole {
		whole[i] = halves[0][i] + halves[1][i]
	}
	rows := float64(s.half[0].Rows() + s.half[1].Rows())
	m := moments{whole, k, outs, ones, rows}
	signal, start := m.energy(), m.loss(old)
	result := [3]float64{signal, start, start}
	if rows == 0 || start <= 1e-11*signal {
		return old, result, nil // rounding is all that differs
	}
	a, b := moments{halves[0], k, outs, ones, float64(s.half[0].Rows())}, moments{halves[1], k, outs, ones, float64(s.half[1].Rows())}
	least, ridge := b.loss(old)+a.loss(old), -1.0
	for _, r := range ridges {
		var sum float64
		for _, two := range [][2]moments{{a, b}, {b, a}} {
			w, err := two[0].solve(ctx, p.kern, threads, old, r)
			if errors.Is(err, num.ErrNotPositiveDefinite) {
				sum = math.Inf(1)
				break
			}
			if err != nil {
				return nil, result, err
			}
			sum += two[1].loss(w)
		}
		if sum < least {
			least, ridge = sum, r
		}
	}
	if ridge < 0 {
		return old, result, nil
	}
	w, err := m.solve(ctx, p.kern, threads, old, ridge)
	if errors.Is(err, num.ErrNotPositiveDefinite) {
		return old, result, nil
	}
	if err != nil {
		return nil, result, err
	}
	result[2] = m.loss(w)
	return w, result, nil
}

// moments are the products of the columns [inputs, one, outputs] over some rows.
type moments struct {
	m             []float64
	k, outs, ones int
	rows          float64
}

// energy is the sum of the squares of the outputs.
func (m moments) energy() (sum float64) {
	n := m.k + m.outs
	for o := m.k; o < n; o++ {
		sum += m.m[o*n+o]
	}
	return sum
}

// loss is the squared error of weights [outs, k].
func (m moments) loss(w []float64) float64 {
	n := m.k + m.outs
	sum := m.energy()
	for o := range m.outs {
		row := w[o*m.k:][:m.k]
		for i, v := range row {
			if v != 0 {
				sum += v * (dot(row, m.m[i*n:][:m.k]) - 2*m.m[i*n+m.k+o])
			}
		}
	}
	return max(sum, 0)
}

// solve finds the weights of least error, held to old ones by a ridge.
func (m moments) solve(ctx context.Context, kern *kernels.Set, threads int, old []float64, ridge float64) ([]float64, error) {
	n, k := m.k+m.outs, m.k
	if m.rows == 0 {
		return old, nil
	}
	a := make([]float64, k*k)
	var mean float64
	for i := range k {
		copy(a[i*k:][:k], m.m[i*n:][:k])
		if i < k-m.ones {
			mean += a[i*k+i] / float64(max(k-m.ones, 1))
		}
	}
	for i := range k {
		if i < k-m.ones {
			a[i*k+i] += ridge*mean + 1e-30
		} else {
			a[i*k+i] *= 1 + 1e-9
		}
	}
	if err := num.CholeskyLower(ctx, kern, threads, a, k); err != nil {
		return nil, err
	}
	out := make([]float64, len(old))
	return out, par.Range(ctx, threads, m.outs, 1, func(_, from, to int) error {
		t := make([]float64, k)
		for o := from; o < to; o++ {
			row := old[o*k:][:k]
			for i := range k { // what the old weights leave
				t[i] = m.m[i*n+k+o] - dot(row, m.m[i*n:][:k])
			}
			for i := range k {
				t[i] = (t[i] - dot(a[i*k:][:i], t[:i])) / a[i*k+i]
			}
			for i := k - 1; i >= 0; i-- {
				t[i] /= a[i*k+i]
				axpy(t[:i], -t[i], a[i*k:][:i])
			}
			for i, v := range t {
				out[o*k+i] = row[i] + v
			}
		}
		return nil
	})
}
