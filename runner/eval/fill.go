package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "ConstantOfShape", Plan: planConstantOfShape})
	register(Op{Name: "Range", Inputs: 3, Narrow: true, Plan: planRange})
	register(Op{Name: "EyeLike", Plan: planEyeLike})
	register(Op{Name: "OneHot", Inputs: 3, Plan: planOneHot})
	register(Op{Name: "Trilu", Unpack: true, Plan: planTrilu})
	register(Op{Name: "NonZero", Narrow: true, Plan: planNonZero})
	register(Op{Name: "Pad", Unpack: true, Plan: planPad})
}

// fill sets every element to the first of a tensor.
func fill(dst, value *graph.Tensor) {
	k := &walk{n: dst.Elems()}
	k.inner[0] = 1
	k.copy(&Worker{Threads: 1}, dst, value, 0, 0)
}

func planConstantOfShape(c *Call) (Step, error) {
	shape, err := c.Ints(0)
	if err != nil {
		return Step{}, err
	}
	value := graph.New(graph.Float32, 1)
	if a := c.Node.Attrs["value"]; a.Tensor != nil {
		value = a.Tensor
	}
	if value.Elems() != 1 {
		return Step{}, c.Fault("a value of %d elements", value.Elems())
	}
	if packed(value.Type) || value.Type == graph.F4E2M1 {
		wide := graph.New(stage(value.Type), 1)
		recode(wide, value)
		return Step{Out: []Spec{Out(value.Type, shape...)}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
			all := graph.New(wide.Type, out[0].Elems())
			fill(all, wide)
			recode(out[0], all)
			return nil
		}}, nil
	}
	return Step{Out: []Spec{Out(value.Type, shape...)}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
		fill(out[0], value)
		return nil
	}}, nil
}

func planRange(c *Call) (Step, error) {
	var v [3]*graph.Tensor
	for i := range v {
		var err error
		if v[i], err = c.Need(i); err != nil {
			return Step{}, err
		}
		if v[i].Elems() != 1 || v[i].Type != v[0].Type {
			return Step{}, c.Fault("input %d is %s %v", i, v[i].Type, v[i].Shape)
		}
	}
	switch c.Type(0) {
	case graph.Float32:
		return rangeOf[float32](c, v)
	case graph.Float64:
		return rangeOf[float64](c, v)
	case graph.Int16:
		return rangeOf[int16](c, v)
	case graph.Int32:
		return rangeOf[int32](c, v)
	case graph.Int64:
		return rangeOf[int64](c, v)
	}
	return Step{}, c.Fault("elements of type %s", c.Type(0))
}

func rangeOf[T number](c *Call, v [3]*graph.Tensor) (Step, error) {
	start, limit, delta := elems[T](v[0])[0], elems[T](v[1])[0], elems[T](v[2])[0]
	n := math.Ceil((float64(limit) - float64(start)) / float64(delta))
	if delta == 0 || math.IsNaN(n) || n > graph.MaxElems/16 {
		return Step{}, c.Fault("from %v to %v by %v", start, limit, delta)
	}
	return Step{Out: []Spec{Out(c.Type(0), max(0, int(n)))}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
		x := elems[T](out[0])
		for i := range x {
			x[i] = start + T(T(i)*delta)
		}
		return nil
	}}, nil
}

func planEyeLike(c *Call) (Step, error) {
	in := c.Shape(0)
	if len(in) != 2 {
		return Step{}, c.Fault("shape %v", in)
	}
	typ := graph.DType(c.Node.Int("dtype", int(c.Type(0))))
	if !typ.Known() || typ == graph.String {
		return Step{}, c.Fault("elements of type %s", typ)
	}
	k := c.Node.Int("k", 0)
	return Step{Out: []Spec{Out(typ, in...)}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
		bits := graph.New(graph.Uint8, in...)
		for i := range in[0] {
			if j := i + k; j >= 0 && j < in[1] {
				bits.Data[i*in[1]+j] = 1
			}
		}
		recode(out[0], bits)
		return nil
	}}, nil
}

func planOneHot(c *Call) (Step, error) {
	t, err := c.Need(1)
	if err != nil {
		return Step{}, err
	}
	wide := graph.New(graph.Int64, t.Elems())
	if t.Type == graph.String || t.Elems() != 1 || c.Elems(2) != 2 {
		return Step{}, c.Fault("depth %s %v, values %v", t.Type, t.Shape, c.Shape(2))
	}
	recode(wide, t)
	depth := int(graph.Of[int64](wide)[0])
	in := c.Shape(0)
	axis, err := axisOf(c.Node.Int("axis", -1), len(in)+1)
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	shape := slices.Insert(slices.Clone(in), axis, depth)
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	outer, inner := graph.Elems(in[:axis]), graph.Elems(in[axis:])
	return Step{Out: []Spec{Out(c.Type(2), shape...)}, Scratch: 8 * c.Elems(0), Run: func(w *Worker, in, out []*graph.Tensor) error {
		fill(out[0], in[2])
		wide := graph.Tensor{Type: graph.Int64, Shape: in[0].Shape, Data: w.Scratch[:8*in[0].Elems()]}
		recode(&wide, in[0])
		idx := graph.Of[int64](&wide)
		for o := range outer {
			for i := range inner {
				k := idx[o*inner+i]
				if k < 0 {
					k += int64(depth)
				}
				if k >= 0 && k < int64(depth) {
					copyElems(out[0], (o*depth+int(k))*inner+i, in[2], 1, 1)
				}
			}
		}
		return nil
	}}, nil
}

// planTrilu keeps a triangle of matrices.
func planTrilu(c *Call) (Step, error) {
	in := c.Shape(0)
	if len(in) < 2 {
		return Step{}, c.Fault("shape %v", in)
	}
	k := 0
	if c.Has(1) {
		v, err := c.Ints(1)
		if err != nil {
			return Step{}, err
		}
		if len(v) == 1 {
			k = v[0]
		}
	}
	upper := c.Node.Int("upper", 1) != 0
	rows, cols := in[len(in)-2], in[len(in)-1]
	batch := graph.Elems(in[:len(in)-2])
	return Step{Out: []Spec{Out(c.Type(0), in...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		clear(out[0].Data)
		for b := range batch {
			for i := range rows {
				lo, hi := 0, min(max(i+k+1, 0), cols)
				if upper {
					lo, hi = min(max(i+k, 0), cols), cols
				}
				at := (b*rows + i) * cols
				copyElems(out[0], at+lo, in[0], at+lo, max(0, hi-lo))
			}
		}
		return nil
	}}, nil
}

// planNonZero lists the places of elements that are not zero, one row of the result per dimension.
func planNonZero(c *Call) (Step, error) {
	t, err := c.Need(0)
	if err != nil {
		return Step{}, err
	}
	if t.Type == graph.String {
		return Step{}, c.Fault("elements of type %s", t.Type)
	}
	set := graph.New(graph.Bool, t.Elems())
	recode(set, t)
	n := 0
	for _, b := range set.Data {
		n += int(b)
	}
	shape := c.Shape(0)
	if len(shape) == 0 {
		shape = []int{1}
	}
	own := strides(shape)
	return Step{Out: []Spec{Out(graph.Int64, len(shape), n)}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
		x := elems[int64](out[0])
		k := 0
		for i, b := range set.Data {
			if b == 0 {
				continue
			}
			for d := range shape {
				x[d*n+k] = int64(i / own[d] % shape[d])
			}
			k++
		}
		return nil
	}}, nil
}

// planPad puts elements around an array: constant, or mirrored, repeated or wrapped. A negative pad cuts.
func planPad(c *Call) (Step, error) {
	in := c.Shape(0)
	pads, err := c.IntsOr(1, "pads")
	if err != nil {
		return Step{}, err
	}
	if c.Has(2) && c.Type(2) != c.Type(0) {
		return Step{}, c.Fault("a constant of type %s among elements of type %s", c.Type(2), c.Type(0))
	}
	if c.Version < 2 {
		pads = c.Node.Ints("paddings")
	}
	axes := make([]int, len(in))
	for i := range axes {
		axes[i] = i
	}
	if c.Has(3) {
		if axes, err = c.Ints(3); err != nil {
			return Step{}, err
		}
		if axes, err = axesOf(axes, len(in)); err != nil {
			return Step{}, c.Fault("%w", err)
		}
	}
	if len(pads) != 2*len(axes) {
		return Step{}, c.Fault("%d pads of %d dimensions", len(pads), len(axes))
	}
	before, shape := make([]int, len(in)), slices.Clone(in)
	for i, a := range axes {
		before[a] = pads[i]
		shape[a] += pads[i] + pads[len(axes)+i]
	}
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("pads %v of shape %v", pads, in)
	}
	for _, d := range shape {
		if err := c.Fits(8 * d); err != nil {
			return Step{}, err
		}
	}
	mode := c.Node.Str("mode", "constant")
	// where each index of each dimension comes from; -1 for the constant
	from := make([][]int, len(in))
	for d := range in {
		from[d] = make([]int, shape[d])
		for i := range from[d] {
			if from[d][i] = padded(i-before[d], in[d], mode); from[d][i] == -2 {
				return Step{}, c.Fault("mode %q of a dimension of %d", mode, in[d])
			}
		}
	}
	own := strides(in)
	last := len(in) - 1
	value := graph.New(graph.Float32, 1)
	graph.Of[float32](value)[0] = c.Node.Float("value", 0)
	// A row of the result is a run that lies together in the input, between elements that do not.
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		v := graph.New(c.Type(0), 1)
		switch {
		case len(ts) > 2 && ts[2] != nil && ts[2].Elems() > 0:
			copyElems(v, 0, ts[2], 0, 1)
		case v.Type != graph.String:
			recode(v, value)
		}
		if mode == "constant" {
			fill(out[0], v)
		}
		if last < 0 {
			copyElems(out[0], 0, ts[0], 0, 1)
			return nil
		}
		pos := make([]int, last)
		rows := graph.Elems(shape[:last])
		for r := range rows {
			base, inside := 0, true
			for d, p := range pos {
				inside = inside && from[d][p] >= 0
				base += from[d][p] * own[d]
			}
			if inside {
				row := from[last]
				for i := 0; i < len(row); {
					n := 1
					for row[i] >= 0 && i+n < len(row) && row[i+n] == row[i]+n {
						n++
					}
					if row[i] >= 0 {
						copyElems(out[0], r*shape[last]+i, ts[0], base+row[i], n)
					}
					i += n
				}
			}
			for d := last - 1; d >= 0; d-- {
				if pos[d]++; pos[d] < shape[d] {
					break
				}
				pos[d] = 0
			}
		}
		return nil
	}}, nil
}

// padded is the index of d that lies at i when the dimension goes on beyond its ends; -1 for a constant, -2
// when there is none.
func padded(i, d int, mode string) int {
	if i >= 0 && i < d {
		return i
	}
	if mode == "constant" {
		return -1
	}
	if d == 0 {
		return -2
	}
	switch mode {
	case "edge":
		return min(max(i, 0), d-1)
	case "reflect":
		if d == 1 {
			return 0
		}
		period := 2 * (d - 1)
		i = ((i % period) + period) % period
		return min(i, period-i)
	case "wrap":
		return ((i % d) + d) % d
	}
	return -2
}
