package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Resize", Narrow: true, Plan: planResize})
	register(Op{Name: "Upsample", Narrow: true, Plan: planResize})
}

// resampling is how one dimension is resized: for every index of the result, which indices of the input
// count how much.
type resampling struct {
	axis, from, to int
	taps           int
	index          []int // to*taps, inside the input
	weight         []float64
	outside        []bool // where the result lies beyond the input
}

// resizeAttrs is what a node says about how to resize.
type resizeAttrs struct {
	mode, coords, nearest string
	cubic                 float64
	exclude, antialias    bool
	scales                []float64 // per axis of axes
	sizes                 []int
	roi                   []float64
	axes                  []int
}

func planResize(c *Call) (Step, error) {
	in := c.Shape(0)
	a, err := readResize(c, len(in))
	if err != nil {
		return Step{}, err
	}
	shape := slices.Clone(in)
	var passes []*resampling
	for i, axis := range a.axes {
		if err := c.Fits(int(min(a.scales[i]*float64(max(in[axis], 1))*16, 1<<50))); err != nil {
			return Step{}, err
		}
		r := a.resample(axis, in[axis], i)
		if r == nil {
			return Step{}, c.Fault("mode %s, coordinates %s, a dimension of %d, scale %v", a.mode, a.coords, in[axis], a.scales[i])
		}
		shape[axis] = r.to
		if !r.same() {
			passes = append(passes, r)
		}
	}
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	if len(passes) == 0 {
		return alias(c, shape...)
	}
	out := []Spec{Out(c.Type(0), shape...)}
	if a.mode == "nearest" && a.coords != "tf_crop_and_resize" {
		return Step{Out: out, Run: nearest(in, shape, passes)}, nil
	}
	// Dimensions are resized one after the other, in float64 buffers, those that shrink most first.
	slices.SortStableFunc(passes, func(x, y *resampling) int { return x.to*y.from - y.to*x.from })
	most, now := graph.Elems(in), slices.Clone(in)
	for _, p := range passes {
		now[p.axis] = p.to
		most = max(most, graph.Elems(now))
	}
	beyond := float64(c.Node.Float("extrapolation_value", 0))
	return Step{Out: out, Scratch: 16 * most, Run: func(w *Worker, ts, outs []*graph.Tensor) error {
		both := elems[float64](&graph.Tensor{Type: graph.Float64, Data: w.Scratch})
		src, dst := both[:most], both[most:2*most]
		wide := graph.Tensor{Type: graph.Float64, Shape: in, Data: w.Scratch[:8*graph.Elems(in)]}
		recode(&wide, ts[0])
		now := slices.Clone(in)
		for _, p := range passes {
			outer, inner := graph.Elems(now[:p.axis]), graph.Elems(now[p.axis+1:])
			p.apply(w, dst, src, outer, inner)
			now[p.axis] = p.to
			src, dst = dst, src
		}
		total := graph.Elems(shape)
		for _, p := range passes {
			p.extrapolate(src[:total], shape, beyond)
		}
		result := graph.From(graph.Float64, src[:total], shape...)
		recode(outs[0], result)
		return nil
	}}, nil
}

// apply resizes the middle dimension of src [outer, from, inner].
func (p *resampling) apply(w *Worker, dst, src []float64, outer, inner int) {
	w.Range(outer*p.to, 2*p.taps*inner, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			o, k := r/p.to, r%p.to
			row := dst[r*inner : (r+1)*inner]
			clear(row)
			for t := range p.taps {
				weight := p.weight[k*p.taps+t]
				if weight == 0 {
					continue
				}
				x := src[(o*p.from+p.index[k*p.taps+t])*inner:][:inner]
				for i, v := range x {
					row[i] += float64(v * weight)
				}
			}
		}
	})
}

// extrapolate sets what lies beyond the input.
func (p *resampling) extrapolate(x []float64, shape []int, value float64) {
	outer, inner := graph.Elems(shape[:p.axis]), graph.Elems(shape[p.axis+1:])
	for k, out := range p.outside {
		for o := 0; out && o < outer; o++ {
			row := x[(o*p.to+k)*inner:][:inner]
			for i := range row {
				row[i] = value
			}
		}
	}
}

// nearest copies elements: every result is one element of the input.
func nearest(in, shape []int, passes []*resampling) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	picks := make([][]int, len(in)) // offset in the input for every index, by dimension
	own := strides(in)
	for d := range in {
		picks[d] = make([]int, shape[d])
		for i := range picks[d] {
			picks[d][i] = i * own[d]
		}
	}
	for _, p := range passes {
		for k := range p.to {
			best := 0
			for t := range p.taps {
				if p.weight[k*p.taps+t] > p.weight[k*p.taps+best] {
					best = t
				}
			}
			picks[p.axis][k] = p.index[k*p.taps+best] * own[p.axis]
		}
	}
	last := len(shape) - 1
	rows := graph.Elems(shape[:last])
	return func(w *Worker, ts, outs []*graph.Tensor) error {
		w.Range(rows, 4*shape[last], func(lo, hi int) {
			for r := lo; r < hi; r++ {
				base, rest := 0, r
				for d := last - 1; d >= 0; d-- {
					base += picks[d][rest%shape[d]]
					rest /= shape[d]
				}
				pickRow(outs[0], r*shape[last], ts[0], base, picks[last])
			}
		})
		return nil
	}
}

// pickRow writes the elements at offsets from base on, one after the other.
func pickRow(dst *graph.Tensor, to int, src *graph.Tensor, base int, offsets []int) {
	if dst.Type == graph.Float32 {
		x, y := elems[float32](src)[base:], elems[float32](dst)[to:]
		for i, o := range offsets {
			y[i] = x[o]
		}
		return
	}
	for i, o := range offsets {
		copyElems(dst, to+i, src, base+o, 1)
	}
}

// readResize reads what versions 7 to 19 say in attributes and inputs.
func readResize(c *Call, rank int) (*resizeAttrs, error) {
	n := c.Node
	a := &resizeAttrs{
		mode: n.Str("mode", "nearest"), coords: n.Str("coordinate_transformation_mode", "half_pixel"),
		nearest: n.Str("nearest_mode", "round_prefer_floor"), cubic: float64(n.Float("cubic_coeff_a", -0.75)),
		exclude: n.Int("exclude_outside", 0) != 0, antialias: n.Int("antialias", 0) != 0,
	}
	if a.mode == "bilinear" || a.mode == "trilinear" {
		a.mode = "linear"
	}
	a.axes = n.Ints("axes")
	if a.axes == nil {
		for i := range rank {
			a.axes = append(a.axes, i)
		}
	}
	var err error
	if a.axes, err = axesOf(a.axes, rank); err != nil {
		return nil, c.Fault("%w", err)
	}
	scales, sizes := 2, 3
	if n.Op == "Upsample" || c.Version < 11 {
		a.coords, a.nearest, scales, sizes = "asymmetric", "simple", 1, -1
	} else if c.Has(1) && a.coords == "tf_crop_and_resize" {
		t, err := c.Need(1)
		if err != nil {
			return nil, err
		}
		if a.roi = numbers(t); len(a.roi) != 2*len(a.axes) {
			return nil, c.Fault("%d numbers of a region in %d dimensions", len(a.roi), len(a.axes))
		}
	}
	if a.roi == nil {
		a.roi = append(make([]float64, len(a.axes)), slices.Repeat([]float64{1}, len(a.axes))...)
	}
	switch {
	case n.Has("scales"):
		for _, s := range n.Attrs["scales"].Floats {
			a.scales = append(a.scales, float64(s))
		}
	case c.Has(scales) && c.Elems(scales) > 0:
		t, err := c.Need(scales)
		if err != nil {
			return nil, err
		}
		a.scales = numbers(t)
	case sizes > 0 && c.Has(sizes):
		if a.sizes, err = c.Ints(sizes); err != nil {
			return nil, err
		}
		if err := a.fromSizes(c); err != nil {
			return nil, err
		}
	}
	if len(a.scales) != len(a.axes) {
		return nil, c.Fault("%d scales of %d dimensions", len(a.scales), len(a.axes))
	}
	for _, s := range a.scales {
		if !(s > 0) || s > 1<<30 {
			return nil, c.Fault("scales %v", a.scales)
		}
	}
	return a, nil
}

// fromSizes finds the scales that lead to sizes.
func (a *resizeAttrs) fromSizes(c *Call) error {
	if len(a.sizes) != len(a.axes) {
		return c.Fault("%d sizes of %d dimensions", len(a.sizes), len(a.axes))
	}
	for i, size := range a.sizes {
		if size < 1 || size > 1<<30 || c.Shape(0)[a.axes[i]] < 1 {
			return c.Fault("sizes %v of shape %v", a.sizes, c.Shape(0))
		}
		a.scales = append(a.scales, float64(size)/float64(c.Shape(0)[a.axes[i]]))
	}
	var one float64
	switch policy := c.Node.Str("keep_aspect_ratio_policy", "stretch"); policy {
	case "stretch":
		return nil
	case "not_larger":
		one = slices.Min(a.scales)
	case "not_smaller":
		one = slices.Max(a.scales)
	default:
		return c.Fault("keep_aspect_ratio_policy %q", policy)
	}
	for i := range a.scales {
		a.scales[i] = one
		a.sizes[i] = int(math.Floor(one*float64(c.Shape(0)[a.axes[i]]) + 0.5))
	}
	return nil
}

// resample finds the weights of dimension i of the axes, n elements long; nil when an attribute says what
// does not exist.
func (a *resizeAttrs) resample(axis, n, i int) *resampling {
	scale := a.scales[i]
	start, end := a.roi[i], a.roi[len(a.axes)+i]
	exact := scale * float64(n)
	if a.sizes != nil {
		exact = float64(a.sizes[i])
	}
	r := &resampling{axis: axis, from: n}
	switch {
	case a.sizes != nil:
		r.to = a.sizes[i]
	case a.coords == "tf_crop_and_resize":
		r.to = int(exact * (end - start))
	default:
		r.to = int(exact)
	}
	if n < 1 || r.to < 1 || r.to > 1<<30 {
		return nil
	}
	filter := a.filter(scale)
	if filter == nil {
		return nil
	}
	for k := range r.to {
		x, ok := a.coordinate(float64(k), float64(n), float64(r.to), exact, scale, start, end)
		if !ok {
			return nil
		}
		r.outside = append(r.outside, a.coords == "tf_crop_and_resize" && (x < 0 || x > float64(n-1)))
		base := math.Floor(x)
		first, weights := filter(x - base)
		r.taps = len(weights)
		sum := 0.0
		for t, weight := range weights {
			at := int(min(max(base, -1<<30), 1<<30)) + first + t
			if inside := min(max(at, 0), n-1); inside != at {
				at = inside
				if a.exclude {
					weight = 0
				}
			}
			r.index, r.weight = append(r.index, at), append(r.weight, weight)
			sum += weight
		}
		if a.exclude {
			for t := range weights {
				r.weight[len(r.weight)-1-t] /= sum
			}
		}
	}
	return r
}

// same reports whether nothing changes.
func (r *resampling) same() bool {
	if r.from != r.to {
		return false
	}
	for k := range r.to {
		for t := range r.taps {
			if w := r.weight[k*r.taps+t]; w != 0 && (w != 1 || r.index[k*r.taps+t] != k) {
				return false
			}
		}
		if r.outside[k] {
			return false
		}
	}
	return true
}

// coordinate is where index k of the result lies in the input.
func (a *resizeAttrs) coordinate(k, n, to, exact, scale, start, end float64) (float64, bool) {
	switch a.coords {
	case "half_pixel":
		return (k+0.5)/scale - 0.5, true
	case "half_pixel_symmetric":
		return n/2*(1-to/exact) + (k+0.5)/scale - 0.5, true
	case "pytorch_half_pixel":
		if to == 1 {
			return 0, true
		}
		return (k+0.5)/scale - 0.5, true
	case "align_corners":
		if to == 1 {
			return 0, true
		}
		// The suite's length may be a fraction, that of the scale; some runtimes take the whole number.
		return k * (n - 1) / (exact - 1), true
	case "asymmetric":
		return k / scale, true
	case "tf_half_pixel_for_nn":
		return (k + 0.5) / scale, true
	case "tf_crop_and_resize":
		if to == 1 {
			return 0.5 * (start + end) * (n - 1), true
		}
		return start*(n-1) + k*(end-start)*(n-1)/(to-1), true
	}
	return 0, false
}

// filter gives, for how far a place lies behind an element, the weights of neighbours and which of them is
// the first, counted from that element.
func (a *resizeAttrs) filter(scale float64) func(ratio float64) (int, []float64) {
	stretch := 1.0 // of the filter, so that no element is passed over when the result is smaller
	if a.antialias && scale < 1 {
		stretch = scale
	}
	switch a.mode {
	case "nearest":
		return func(ratio float64) (int, []float64) {
			if a.later(ratio, scale) {
				return 0, []float64{0, 1}
			}
			return 0, []float64{1, 0}
		}
	case "linear":
		return spread(1/stretch, a.antialias, func(x float64) float64 { return max(0, 1-math.Abs(x*stretch)) })
	case "cubic":
		return spread(2/stretch, a.antialias, func(x float64) float64 { return cubic(a.cubic, x*stretch) })
	}
	return nil
}

// later reports whether the nearest element is the later one of two neighbours.
func (a *resizeAttrs) later(ratio, scale float64) bool {
	switch a.nearest {
	case "round_prefer_ceil":
		return ratio >= 0.5
	case "floor":
		return false
	case "ceil":
		return ratio > 0
	case "simple": // before version 11 nothing was said; runtimes round up when they shrink
		return scale < 1 && ratio > 0
	}
	return ratio > 0.5
}

// spread samples a filter of a radius at the neighbours of a place.
func spread(radius float64, normalize bool, f func(x float64) float64) func(ratio float64) (int, []float64) {
	first := int(math.Floor(-radius)) + 1
	return func(ratio float64) (int, []float64) {
		weights := make([]float64, 2-2*first)
		sum := 0.0
		for i := range weights {
			weights[i] = f(float64(first+i) - ratio)
			sum += weights[i]
		}
		if normalize {
			for i := range weights {
				weights[i] /= sum
			}
		}
		return first, weights
	}
}

// cubic is Keys' convolution kernel.
func cubic(a, x float64) float64 {
	x = math.Abs(x)
	switch {
	case x <= 1:
		return (a+2)*x*x*x - (a+3)*x*x + 1
	case x < 2:
		return a*x*x*x - 5*a*x*x + 8*a*x - 4*a
	}
	return 0
}
