package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "BatchNormalization", Narrow: true, Plan: byFloat(batchNorm[float32], batchNorm[float64])})
	register(Op{Name: "InstanceNormalization", Narrow: true, Plan: byFloat(instanceNorm[float32], instanceNorm[float64])})
	register(Op{Name: "LayerNormalization", Inputs: 2, Narrow: true, Wide: []int{1, 2}, Plan: byFloat(layerNorm[float32], layerNorm[float64])})
	register(Op{Name: "RMSNormalization", Inputs: 2, Narrow: true, Plan: byFloat(rmsNorm[float32], rmsNorm[float64])})
	register(Op{Name: "GroupNormalization", Narrow: true, Plan: byFloat(groupNorm[float32], groupNorm[float64])})
	register(Op{Name: "MeanVarianceNormalization", Narrow: true, Plan: byFloat(meanVariance[float32], meanVariance[float64])})
	register(Op{Name: "LRN", Narrow: true, Plan: byFloat(lrn[float32], lrn[float64])})
	register(Op{Name: "LpNormalization", Narrow: true, Plan: byFloat(lpNorm[float32], lpNorm[float64])})
}

// byFloat picks the plan for the type of input 0.
func byFloat(f32, f64 func(c *Call) (Step, error)) func(c *Call) (Step, error) {
	return func(c *Call) (Step, error) {
		switch c.Type(0) {
		case graph.Float32:
			return f32(c)
		case graph.Float64:
			return f64(c)
		}
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
}

// moments are the mean and the variance of numbers.
func moments[T float](x []T) (mean, variance float64) {
	for _, v := range x {
		mean += float64(v)
	}
	mean /= float64(len(x))
	for _, v := range x {
		d := float64(v) - mean
		variance += float64(d * d)
	}
	return mean, variance / float64(len(x))
}

// affine sets y to x*a + b.
func affine[T float](y, x []T, a, b float64) {
	for i, v := range x {
		y[i] = T(float64(float64(v)*a) + b)
	}
}

// perChannel reads inputs that have one number per channel.
func perChannel(c *Call, channels int, inputs ...int) error {
	for _, i := range inputs {
		if !c.Has(i) || c.Elems(i) != channels {
			return c.Fault("input %d is %v, there are %d channels", i, c.Shape(i), channels)
		}
	}
	return nil
}

// numbers are the elements of a float tensor that may have another type than the one computed with.
func numbers(t *graph.Tensor) []float64 {
	wide := graph.New(graph.Float64, t.Elems())
	recode(wide, t)
	return graph.Of[float64](wide)
}

func batchNorm[T float](c *Call) (Step, error) {
	in := c.Shape(0)
	if len(in) < 1 {
		return Step{}, c.Fault("shape %v", in)
	}
	channels, plane := 1, 1
	if len(in) > 1 {
		channels, plane = in[1], graph.Elems(in[2:])
	}
	if c.Version < 9 && c.Node.Int("spatial", 1) == 0 { // every element has its own statistics
		channels, plane = channels*plane, 1
	}
	if err := perChannel(c, channels, 1, 2, 3, 4); err != nil {
		return Step{}, err
	}
	eps := float64(c.Node.Float("epsilon", 1e-5))
	s := Step{Out: []Spec{Out(c.Type(0), in...)}, InPlace: []int{0}}
	training := c.Node.Int("training_mode", 0) != 0 && c.Version >= 14
	if len(c.Node.Out) > 1 && !training {
		return Step{}, c.Fault("more outputs than one outside training")
	}
	if training {
		s.Out = append(s.Out, Out(c.Type(3), c.Shape(3)...), Out(c.Type(4), c.Shape(4)...))
		s.InPlace = nil
	}
	momentum := float64(c.Node.Float("momentum", 0.9))
	s.Run = func(w *Worker, ts, out []*graph.Tensor) error {
		scale, bias, means, variances := numbers(ts[1]), numbers(ts[2]), numbers(ts[3]), numbers(ts[4])
		x, y := elems[T](ts[0]), elems[T](out[0])
		if training {
			batchMoments(out, x, channels, plane, momentum, means, variances)
		}
		w.Range(len(x)/max(plane, 1), 2*plane, func(lo, hi int) {
			for p := lo; p < hi; p++ {
				ch := p % channels
				a := scale[ch] / math.Sqrt(variances[ch]+eps)
				affine(y[p*plane:(p+1)*plane], x[p*plane:(p+1)*plane], a, bias[ch]-float64(means[ch]*a))
			}
		})
		return nil
	}
	return s, nil
}

// batchMoments replaces running means and variances by those of a batch, and writes the new running ones.
func batchMoments[T float](out []*graph.Tensor, x []T, channels, plane int, momentum float64, means, variances []float64) {
	var all []T
	next := [2][]float64{make([]float64, channels), make([]float64, channels)}
	for ch := range channels {
		all = all[:0]
		for p := ch; p < len(x)/max(plane, 1); p += channels {
			all = append(all, x[p*plane:(p+1)*plane]...)
		}
		mean, variance := moments(all)
		next[0][ch] = float64(means[ch]*momentum) + float64(mean*(1-momentum))
		next[1][ch] = float64(variances[ch]*momentum) + float64(variance*(1-momentum))
		means[ch], variances[ch] = mean, variance
	}
	for i, list := range next {
		if i+1 < len(out) && out[i+1] != nil {
			recode(out[i+1], graph.From(graph.Float64, list, channels))
		}
	}
}

func instanceNorm[T float](c *Call) (Step, error) {
	in := c.Shape(0)
	if len(in) < 2 {
		return Step{}, c.Fault("shape %v", in)
	}
	if err := perChannel(c, in[1], 1, 2); err != nil {
		return Step{}, err
	}
	return groups[T](c, in[0]*in[1], in[1], 1, float64(c.Node.Float("epsilon", 1e-5)))
}

// groupNorm has a scale per group in version 18 and one per channel since 21.
func groupNorm[T float](c *Call) (Step, error) {
	in, n := c.Shape(0), c.Node.Int("num_groups", 0)
	if len(in) < 2 || n < 1 || in[1]%n != 0 {
		return Step{}, c.Fault("%d groups of shape %v", n, in)
	}
	numbers, per := in[1], in[1]/n
	if c.Version < 21 {
		numbers, per = n, 1
	}
	if err := perChannel(c, numbers, 1, 2); err != nil {
		return Step{}, err
	}
	return groups[T](c, in[0]*n, numbers, per, float64(c.Node.Float("epsilon", 1e-5)))
}

// groups normalizes n equal parts of the input. Each part has as many numbers for its scale as per says.
func groups[T float](c *Call, n, scales, per int, eps float64) (Step, error) {
	if n == 0 || c.Elems(0) == 0 {
		return Step{Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, Run: func(*Worker, []*graph.Tensor, []*graph.Tensor) error { return nil }}, nil
	}
	size := c.Elems(0) / n
	return Step{Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, InPlace: []int{0}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		scale, bias := numbers(in[1]), numbers(in[2])
		x, y := elems[T](in[0]), elems[T](out[0])
		w.Range(n, 4*size, func(lo, hi int) {
			for g := lo; g < hi; g++ {
				mean, variance := moments(x[g*size : (g+1)*size])
				inv := 1 / math.Sqrt(variance+eps)
				plane := size / per
				for p := range per {
					ch := (g*per + p) % scales
					at := g*size + p*plane
					a := inv * scale[ch]
					affine(y[at:at+plane], x[at:at+plane], a, bias[ch]-float64(mean*a))
				}
			}
		})
		return nil
	}}, nil
}

func layerNorm[T float](c *Call) (Step, error) {
	in := c.Shape(0)
	axis, err := axisOf(c.Node.Int("axis", -1), len(in))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	n, size := graph.Elems(in[:axis]), graph.Elems(in[axis:])
	scale, err := overRow(c, 1, in[axis:])
	if err != nil {
		return Step{}, err
	}
	bias, err := overRow(c, 2, in[axis:])
	if err != nil {
		return Step{}, err
	}
	stat := slices.Clone(in)
	for i := axis; i < len(in); i++ {
		stat[i] = 1
	}
	typ := graph.DType(c.Node.Int("stash_type", int(graph.Float32)))
	if c.Type(0) == graph.Float64 {
		typ = graph.Float64
	}
	eps := float64(c.Node.Float("epsilon", 1e-5))
	return Step{Out: []Spec{Out(c.Type(0), in...), Out(typ, stat...), Out(typ, stat...)}, InPlace: []int{0}, Run: func(w *Worker, ts, out []*graph.Tensor) error {
		x, y := elems[T](ts[0]), elems[T](out[0])
		a, b := elems[T](ts[1]), []T(nil)
		if len(ts) > 2 && ts[2] != nil {
			b = elems[T](ts[2])
		}
		var means, invs []float64
		if len(out) > 1 {
			means, invs = make([]float64, n), make([]float64, n)
		}
		w.Range(n, 4*size, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				row := x[i*size : (i+1)*size]
				mean, variance := moments(row)
				inv := 1 / math.Sqrt(variance+eps)
				if means != nil {
					means[i], invs[i] = mean, inv
				}
				for k, v := range row {
					r := (float64(v) - mean) * inv * float64(a[scale(k)])
					if b != nil {
						r = float64(r) + float64(b[bias(k)])
					}
					y[i*size+k] = T(r)
				}
			}
		})
		for i, list := range [][]float64{means, invs} {
			if i+1 < len(out) && out[i+1] != nil {
				recode(out[i+1], graph.From(graph.Float64, list, n))
			}
		}
		return nil
	}}, nil
}

// overRow tells which element of an input goes with each element of a row of some shape.
func overRow(c *Call, i int, row []int) (func(k int) int, error) {
	if !c.Has(i) {
		return func(int) int { return 0 }, nil
	}
	shape := c.Shape(i)
	for len(shape) > len(row) && shape[0] == 1 {
		shape = shape[1:]
	}
	if got, err := broadcast(shape, row); err != nil || !slices.Equal(got, row) || c.Type(i) != c.Type(0) {
		return nil, c.Fault("input %d is %s %v, rows are %s %v", i, c.Type(i), c.Shape(i), c.Type(0), row)
	}
	if graph.Elems(shape) == graph.Elems(row) {
		return func(k int) int { return k }, nil
	}
	steps, own := stretched(shape, row), strides(row)
	return func(k int) int {
		at := 0
		for d := range row {
			at += k / own[d] % row[d] * steps[d]
		}
		return at
	}, nil
}

func rmsNorm[T float](c *Call) (Step, error) {
	in := c.Shape(0)
	axis, err := axisOf(c.Node.Int("axis", -1), len(in))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	n, size := graph.Elems(in[:axis]), graph.Elems(in[axis:])
	scale, err := overRow(c, 1, in[axis:])
	if err != nil {
		return Step{}, err
	}
	eps := float64(c.Node.Float("epsilon", 1e-5))
	return Step{Out: []Spec{Out(c.Type(0), in...)}, InPlace: []int{0}, Run: func(w *Worker, ts, out []*graph.Tensor) error {
		x, y, a := elems[T](ts[0]), elems[T](out[0]), elems[T](ts[1])
		w.Range(n, 4*size, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				row, sum := x[i*size:(i+1)*size], 0.0
				for _, v := range row {
					sum += float64(float64(v) * float64(v))
				}
				inv := 1 / math.Sqrt(sum/float64(size)+eps)
				for k, v := range row {
					y[i*size+k] = T(float64(v) * inv * float64(a[scale(k)]))
				}
			}
		})
		return nil
	}}, nil
}

func meanVariance[T float](c *Call) (Step, error) {
	axes := c.Node.Ints("axes")
	if axes == nil {
		axes = []int{0, 2, 3}
	}
	axes, err := axesOf(axes, len(c.Shape(0)))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	r, _, err := newReduction(c, axes)
	if err != nil {
		return Step{}, err
	}
	return Step{Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		x, y := elems[T](in[0]), elems[T](out[0])
		var places []int
		var all []T
		r.each(func(base int) {
			places, all = places[:0], all[:0]
			r.members(func(at int) { places, all = append(places, base+at), append(all, x[base+at]) })
			mean, variance := moments(all)
			for _, p := range places {
				y[p] = T((float64(x[p]) - mean) / (math.Sqrt(variance) + 1e-9))
			}
		})
		return nil
	}}, nil
}

// each calls fn for every line of numbers that is folded, with where it begins.
func (r *reduction) each(fn func(base int)) {
	kept := r.kept.at(0)
	for range r.kept.rows() {
		for i := range r.kept.n {
			fn(kept.off[0] + i*r.kept.inner[0])
		}
		kept.next()
	}
}

// members calls fn for the numbers of a line, with where they lie from its beginning.
func (r *reduction) members(fn func(at int)) {
	gone := r.gone.at(0)
	for range r.gone.rows() {
		for i := range r.gone.n {
			fn(gone.off[0] + i*r.gone.inner[0])
		}
		gone.next()
	}
}

// lrn divides by a power of the squares of neighbouring channels.
func lrn[T float](c *Call) (Step, error) {
	in, size := c.Shape(0), c.Node.Int("size", 0)
	if len(in) < 2 || size < 1 {
		return Step{}, c.Fault("size %d, shape %v", size, in)
	}
	alpha, beta, bias := float64(c.Node.Float("alpha", 1e-4)), float64(c.Node.Float("beta", 0.75)), float64(c.Node.Float("bias", 1))
	n, ch, plane := in[0], in[1], graph.Elems(in[2:])
	below, above := (size-1)/2, size/2
	return Step{Out: []Spec{Out(c.Type(0), in...)}, Run: func(w *Worker, ts, out []*graph.Tensor) error {
		x, y := elems[T](ts[0]), elems[T](out[0])
		w.Range(n*ch, plane*(2*size+32), func(lo, hi int) {
			for p := lo; p < hi; p++ {
				k := p % ch
				for i := range plane {
					sum := 0.0
					for j := max(0, k-below); j <= min(ch-1, k+above); j++ {
						v := float64(x[(p-k+j)*plane+i])
						sum += float64(v * v)
					}
					y[p*plane+i] = T(float64(x[p*plane+i]) / math.Pow(bias+float64(alpha/float64(size)*sum), beta))
				}
			}
		})
		return nil
	}}, nil
}

func lpNorm[T float](c *Call) (Step, error) {
	in := c.Shape(0)
	axis, err := axisOf(c.Node.Int("axis", -1), len(in))
	if err != nil || len(in) == 0 {
		return Step{}, c.Fault("axis %d of shape %v", c.Node.Int("axis", -1), in)
	}
	p := c.Node.Int("p", 2)
	if p != 1 && p != 2 {
		return Step{}, c.Fault("p is %d", p)
	}
	l := linesOf(in, axis)
	return Step{Out: []Spec{Out(c.Type(0), in...)}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		x, y := elems[T](ts[0]), elems[T](out[0])
		for o := range l.outer {
			for i := range l.inner {
				at, sum := o*l.n*l.inner+i, 0.0
				for k := range l.n {
					v := math.Abs(float64(x[at+k*l.inner]))
					if p == 2 {
						v = float64(v * v)
					}
					sum += v
				}
				if p == 2 {
					sum = math.Sqrt(sum)
				}
				for k := range l.n {
					v := float64(x[at+k*l.inner])
					if sum != 0 {
						v /= sum
					}
					y[at+k*l.inner] = T(v)
				}
			}
		}
		return nil
	}}, nil
}
