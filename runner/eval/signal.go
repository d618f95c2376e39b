package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "DFT", Narrow: true, Plan: byFloat(dft[float32], dft[float64])})
	register(Op{Name: "STFT", Inputs: 2, Narrow: true, Plan: byFloat(stft[float32], stft[float64])})
	register(Op{Name: "MelWeightMatrix", Inputs: 5, Plan: planMel})
	for name, terms := range map[string][]float64{ // of a sum of cosines
		"HannWindow":     {0.5, -0.5},
		"HammingWindow":  {25.0 / 46, -21.0 / 46},
		"BlackmanWindow": {0.42, -0.5, 0.08},
	} {
		register(Op{Name: name, Plan: func(c *Call) (Step, error) { return planWindow(c, terms) }})
	}
}

// transform is a Fourier transform of lines of an array whose last dimension is real and imaginary part, or the
// real one only.
type transform struct {
	in, out           lines // of complex numbers
	parts             int   // of a number that goes in
	n                 int
	inverse, onesided bool
}

// oneInt is an integer input of one element.
func oneInt(c *Call, i int) (int, error) {
	list, err := c.Ints(i)
	if err != nil {
		return 0, err
	}
	if len(list) != 1 {
		return 0, c.Fault("input %d is %v", i, c.Shape(i))
	}
	return list[0], nil
}

func dft[T float](c *Call) (Step, error) {
	in := c.Shape(0)
	t := &transform{inverse: c.Node.Int("inverse", 0) != 0, onesided: c.Node.Int("onesided", 0) != 0}
	last := len(in) - 1
	if last < 1 || in[last] != 1 && in[last] != 2 {
		return Step{}, c.Fault("shape %v: the last dimension is the parts of a complex number", in)
	}
	t.parts = in[last]
	axis, err := c.Node.Int("axis", 1), error(nil)
	if c.Version >= 20 {
		if axis = -2; c.Has(2) {
			if axis, err = oneInt(c, 2); err != nil {
				return Step{}, err
			}
		}
	}
	if axis, err = axisOf(axis, len(in)); err != nil || axis == last {
		return Step{}, c.Fault("axis %d of shape %v", axis, in)
	}
	switch {
	case c.Has(1):
		if t.n, err = oneInt(c, 1); err != nil {
			return Step{}, err
		}
	case t.inverse && t.onesided:
		t.n = 2 * (in[axis] - 1)
	default:
		t.n = in[axis]
	}
	if t.n < 1 || t.n > 1<<30 {
		return Step{}, c.Fault("a transform of %d numbers", t.n)
	}
	if t.onesided && t.inverse == (t.parts == 1) {
		return Step{}, c.Fault("onesided with %d parts of a number", t.parts)
	}
	shape := slices.Clone(in)
	shape[axis], shape[last] = t.n, 2
	if t.onesided && t.inverse {
		shape[last] = 1
	} else if t.onesided {
		shape[axis] = t.n/2 + 1
	}
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	t.in, t.out = linesOf(in[:last], axis), linesOf(shape[:last], axis)
	if err := c.Fits(64 * t.n); err != nil {
		return Step{}, err
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		x, y := elems[T](in[0]), elems[T](out[0])
		if len(y) == 0 {
			return nil
		}
		f := newFFT(t.n)
		w.Range(t.in.outer*t.in.inner, 16*t.n, func(lo, hi int) {
			buf := make([]complex128, t.n)
			for r := lo; r < hi; r++ {
				o, i := r/t.in.inner, r%t.in.inner
				readLine(t, buf, x[(o*t.in.n*t.in.inner+i)*t.parts:])
				f.run(buf, t.inverse)
				writeLine(t, y, (o*t.out.n*t.out.inner + i), buf)
			}
		})
		return nil
	}}, nil
}

// readLine takes what there is of n numbers; the rest is zero, or the mirror image of one side.
func readLine[T float](t *transform, buf []complex128, x []T) {
	clear(buf)
	have := min(t.n, t.in.n)
	if t.inverse && t.onesided {
		have = min(t.n/2+1, t.in.n)
	}
	for k := range have {
		at := k * t.in.inner * t.parts
		im := 0.0
		if t.parts == 2 {
			im = float64(x[at+1])
		}
		buf[k] = complex(float64(x[at]), im)
		if t.inverse && t.onesided && k > 0 && k < (t.n+1)/2 {
			buf[t.n-k] = complex(float64(x[at]), -im)
		}
	}
}

func writeLine[T float](t *transform, y []T, at int, buf []complex128) {
	for k := range t.out.n {
		to := at + k*t.out.inner
		if t.inverse && t.onesided {
			y[to] = T(real(buf[k]))
			continue
		}
		y[2*to], y[2*to+1] = T(real(buf[k])), T(imag(buf[k]))
	}
}

// stft transforms windows of a signal that follow each other in steps.
func stft[T float](c *Call) (Step, error) {
	in := c.Shape(0)
	if len(in) != 3 || in[2] != 1 && in[2] != 2 {
		return Step{}, c.Fault("shape %v", in)
	}
	step, err := oneInt(c, 1)
	if err != nil {
		return Step{}, err
	}
	n := in[1]
	switch {
	case c.Has(3):
		if n, err = oneInt(c, 3); err != nil {
			return Step{}, err
		}
	case c.Has(2):
		n = c.Elems(2)
	}
	onesided := c.Node.Int("onesided", 1) != 0
	if step < 1 || n < 1 || n > in[1] || c.Has(2) && (c.Elems(2) != n || c.Type(2) != c.Type(0)) || onesided && in[2] == 2 {
		return Step{}, c.Fault("signal %v, steps of %d, windows of %d, window %s %v, onesided %v", in, step, n, c.Type(2), c.Shape(2), onesided)
	}
	frames, bins := 1+(in[1]-n)/step, n
	if onesided {
		bins = n/2 + 1
	}
	if err := graph.CheckShape([]int{in[0], frames, bins, 2}); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	t := &transform{in: lines{n: n, inner: 1}, out: lines{n: bins, inner: 1}, parts: in[2], n: n}
	return Step{Out: []Spec{Out(c.Type(0), in[0], frames, bins, 2)}, Run: func(w *Worker, ts, out []*graph.Tensor) error {
		x, y := elems[T](ts[0]), elems[T](out[0])
		if len(y) == 0 {
			return nil
		}
		var window []T
		if len(ts) > 2 && ts[2] != nil {
			window = elems[T](ts[2])
		}
		f := newFFT(n)
		w.Range(in[0]*frames, 16*n, func(lo, hi int) {
			buf := make([]complex128, n)
			for r := lo; r < hi; r++ {
				readLine(t, buf, x[(r/frames*in[1]+r%frames*step)*t.parts:])
				for i, v := range window {
					buf[i] = complex(real(buf[i])*float64(v), imag(buf[i])*float64(v))
				}
				f.run(buf, false)
				writeLine(t, y, r*bins, buf)
			}
		})
		return nil
	}}, nil
}

// planWindow makes a window: a sum of cosines over a period of size, or of size-1 when both ends belong to it.
func planWindow(c *Call, terms []float64) (Step, error) {
	size, err := oneInt(c, 0)
	if err != nil {
		return Step{}, err
	}
	typ := graph.DType(c.Node.Int("output_datatype", int(graph.Float32)))
	if size < 0 || size > graph.MaxElems/16 || !typ.Float() && !typ.Integer() {
		return Step{}, c.Fault("%d elements of type %s", size, typ)
	}
	period := size
	if c.Node.Int("periodic", 1) == 0 {
		period--
	}
	return Step{Out: []Spec{Out(typ, size)}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
		x := make([]float64, size)
		for i := range x {
			if period == 0 {
				x[i] = 1
				continue
			}
			for k, a := range terms {
				x[i] += float64(a * math.Cos(2*math.Pi*float64(k)*float64(i)/float64(period)))
			}
		}
		recode(out[0], graph.From(graph.Float64, x, size))
		return nil
	}}, nil
}

// planMel makes the matrix that turns a spectrum into bands which are equally far from each other for the ear.
func planMel(c *Call) (Step, error) {
	var v [5]float64
	for i := range v {
		t, err := c.Need(i)
		if err != nil {
			return Step{}, err
		}
		if t.Elems() != 1 || t.Type == graph.String {
			return Step{}, c.Fault("input %d is %s %v", i, t.Type, t.Shape)
		}
		v[i] = numbers(t)[0]
	}
	bands, n, rate := int(min(v[0], 1<<30)), int(min(v[1], 1<<30)), v[2]
	typ := graph.DType(c.Node.Int("output_datatype", int(graph.Float32)))
	if bands < 1 || n < 1 || !(rate > 0) || !typ.Float() && !typ.Integer() {
		return Step{}, c.Fault("%d bands of %d numbers at %v Hz, of type %s", bands, n, rate, typ)
	}
	mel := func(hz float64) float64 { return 2595 * math.Log10(1+hz/700) }
	low := mel(v[3])
	step := (mel(v[4]) - low) / float64(bands+2)
	if err := c.Fits(8 * (bands + 2)); err != nil {
		return Step{}, err
	}
	bins, edges := n/2+1, make([]int, bands+2)
	for i := range edges {
		hz := 700 * (math.Pow(10, (float64(i)*step+low)/2595) - 1)
		at := math.Floor(float64(n+1) * hz / rate)
		if !(at >= 0 && at <= float64(bins)) || i > 0 && int(at) < edges[i-1] {
			return Step{}, c.Fault("bands from %v Hz to %v Hz of a signal at %v Hz", v[3], v[4], rate)
		}
		edges[i] = int(at)
	}
	if edges[bands] >= bins {
		return Step{}, c.Fault("bands from %v Hz to %v Hz of a signal at %v Hz", v[3], v[4], rate)
	}
	return Step{Out: []Spec{Out(typ, bins, bands)}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
		x := make([]float64, bins*bands)
		for b := range bands {
			left, peak, right := edges[b], edges[b+1], edges[b+2]
			for k := left; k < peak; k++ {
				x[k*bands+b] = float64(k-left) / float64(peak-left)
			}
			x[peak*bands+b] = 1
			for k := peak; k < right; k++ {
				x[k*bands+b] = float64(right-k) / float64(right-peak)
			}
		}
		recode(out[0], graph.From(graph.Float64, x, bins, bands))
		return nil
	}}, nil
}
