package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "AveragePool", Narrow: true, Plan: planAveragePool})
	register(Op{Name: "LpPool", Narrow: true, Plan: planLpPool})
	register(Op{Name: "MaxPool", Narrow: true, Plan: planMaxPool})
	register(Op{Name: "MaxUnpool", Inputs: 2, Narrow: true, Plan: planMaxUnpool})
	for name, f := range map[string]func(c *Call) (reducer[float32, float64], reducer[float64, float64]){
		"GlobalAveragePool": func(*Call) (reducer[float32, float64], reducer[float64, float64]) {
			return floatReducer[float32](reduceMean), floatReducer[float64](reduceMean)
		},
		"GlobalMaxPool": func(*Call) (reducer[float32, float64], reducer[float64, float64]) {
			return floatReducer[float32](reduceMax), floatReducer[float64](reduceMax)
		},
		"GlobalLpPool": func(c *Call) (reducer[float32, float64], reducer[float64, float64]) {
			p := norm(c)
			return lpReducer[float32](p), lpReducer[float64](p)
		},
	} {
		register(Op{Name: name, Narrow: true, Plan: func(c *Call) (Step, error) {
			in := c.Shape(0)
			if len(in) < 2 {
				return Step{}, c.Fault("shape %v", in)
			}
			shape := slices.Clone(in)
			var axes []int
			for i := 2; i < len(in); i++ {
				shape[i] = 1
				axes = append(axes, i)
			}
			r, _, err := newReduction(c, axes)
			if err != nil {
				return Step{}, err
			}
			s := Step{Out: []Spec{Out(c.Type(0), shape...)}}
			f32, f64 := f(c)
			switch c.Type(0) {
			case graph.Float32:
				s.Run = runFold(r, f32)
			case graph.Float64:
				s.Run = runFold(r, f64)
			default:
				return Step{}, c.Fault("elements of type %s", c.Type(0))
			}
			return s, nil
		}})
	}
}

// norm is the attribute p, an integer since version 2.
func norm(c *Call) float64 {
	if a, ok := c.Node.Attrs["p"]; ok && a.Kind == graph.AttrFloat {
		return float64(a.Float)
	}
	return float64(c.Node.Int("p", 2))
}

func lpReducer[T float](p float64) reducer[T, float64] {
	return reducer[T, float64]{
		add:    func(a float64, x T) float64 { return a + math.Pow(math.Abs(float64(x)), p) },
		finish: func(a float64, _ int) T { return T(math.Pow(a, 1/p)) },
	}
}

// pooled is a window over each plane of the input.
func pooled(c *Call) (*window, int, error) {
	in := c.Shape(0)
	if len(in) < 3 {
		return nil, 0, c.Fault("shape %v", in)
	}
	w, err := newWindow(c, in[2:], c.Node.Ints("kernel_shape"))
	return w, in[0] * in[1], err
}

// runPlanes calls fn for each plane of input 0 and output 0.
func runPlanes[T number](k *window, planes int, fn func(y, x []T)) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	return func(w *Worker, in, out []*graph.Tensor) error {
		x, y := elems[T](in[0]), elems[T](out[0])
		if k.outs == 0 {
			return nil
		}
		w.Range(planes, 2*k.size*k.outs, func(lo, hi int) {
			for p := lo; p < hi; p++ {
				fn(y[p*k.outs:(p+1)*k.outs], x[p*k.ins:(p+1)*k.ins])
			}
		})
		return nil
	}
}

func planAveragePool(c *Call) (Step, error) {
	k, planes, err := pooled(c)
	if err != nil {
		return Step{}, err
	}
	// how many elements are under the window at each place; those of the pads where they count
	counts := make([]float64, k.outs)
	k.places(func(i int, place [3]int) {
		if c.Node.Int("count_include_pad", 0) == 0 {
			k.taps(place, func(int, int) { counts[i]++ })
			return
		}
		counts[i] = 1
		for d := range place {
			n := 0
			for t := range k.kernel[d] {
				if place[d]*k.stride[d]+t*k.dilation[d] < k.before[d]+k.in[d]+k.after[d] {
					n++
				}
			}
			counts[i] *= float64(n)
		}
	})
	s := Step{Out: []Spec{Out(c.Type(0), k.shape(c.Shape(0)[0], c.Shape(0)[1])...)}}
	switch c.Type(0) {
	case graph.Float32:
		s.Run = runPlanes(k, planes, average[float32](k, counts))
	case graph.Float64:
		s.Run = runPlanes(k, planes, average[float64](k, counts))
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

func average[T float](k *window, counts []float64) func(y, x []T) {
	return func(y, x []T) {
		k.places(func(i int, place [3]int) {
			sum := 0.0
			k.taps(place, func(_, at int) { sum += float64(x[at]) })
			y[i] = T(sum / counts[i])
		})
	}
}

func planLpPool(c *Call) (Step, error) {
	k, planes, err := pooled(c)
	if err != nil {
		return Step{}, err
	}
	p := norm(c)
	s := Step{Out: []Spec{Out(c.Type(0), k.shape(c.Shape(0)[0], c.Shape(0)[1])...)}}
	switch c.Type(0) {
	case graph.Float32:
		s.Run = runPlanes(k, planes, lpPlane(k, lpReducer[float32](p)))
	case graph.Float64:
		s.Run = runPlanes(k, planes, lpPlane(k, lpReducer[float64](p)))
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

func lpPlane[T float](k *window, r reducer[T, float64]) func(y, x []T) {
	return func(y, x []T) {
		k.places(func(i int, place [3]int) {
			a := r.start
			k.taps(place, func(_, at int) { a = r.add(a, x[at]) })
			y[i] = r.finish(a, 0)
		})
	}
}

func planMaxPool(c *Call) (Step, error) {
	k, planes, err := pooled(c)
	if err != nil {
		return Step{}, err
	}
	shape := k.shape(c.Shape(0)[0], c.Shape(0)[1])
	s := Step{Out: []Spec{Out(c.Type(0), shape...), Out(graph.Int64, shape...)}}
	m := maxPool{k, planes, c.Node.Int("storage_order", 0) != 0}
	switch c.Type(0) {
	case graph.Float32:
		s.Run = runMaxPool(m, float32(math.Inf(-1)))
	case graph.Float64:
		s.Run = runMaxPool(m, math.Inf(-1))
	case graph.Int8:
		s.Run = runMaxPool(m, int8(math.MinInt8))
	case graph.Uint8:
		s.Run = runMaxPool(m, uint8(0))
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

type maxPool struct {
	*window
	planes int
	// columns says that indices count the elements of a plane column by column.
	columns bool
}

func runMaxPool[T number](m maxPool, least T) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	return func(w *Worker, in, out []*graph.Tensor) error {
		x := elems[T](in[0])
		var y []T
		var idx []int64
		if out[0] != nil {
			y = elems[T](out[0])
		}
		if len(out) > 1 && out[1] != nil {
			idx = elems[int64](out[1])
		}
		switch {
		case m.outs == 0:
		case w.Threads == 1 || 2*m.planes*m.size*m.outs < 2*piece:
			poolPlanes(m, least, y, idx, x, 0, m.planes)
		default:
			w.Range(m.planes, 2*m.size*m.outs, func(lo, hi int) { poolPlanes(m, least, y, idx, x, lo, hi) })
		}
		return nil
	}
}

// poolPlanes finds the largest elements of planes [lo,hi), and where they are.
func poolPlanes[T number](m maxPool, least T, y []T, idx []int64, x []T, lo, hi int) {
	for p := lo; p < hi; p++ {
		plane := x[p*m.ins : (p+1)*m.ins]
		m.places(func(i int, place [3]int) {
			best, where := least, -1
			m.taps(place, func(_, at int) {
				if v := plane[at]; v > best || where < 0 || v != v && best == best {
					best, where = v, at
				}
			})
			if y != nil {
				y[p*m.outs+i] = best
			}
			if idx != nil {
				idx[p*m.outs+i] = int64(p*m.ins + m.index(max(where, 0)))
			}
		})
	}
}

// index is how the node counts an element of a plane.
func (m maxPool) index(at int) int {
	if !m.columns {
		return at
	}
	z, y, x := at/(m.in[1]*m.in[2]), at/m.in[2]%m.in[1], at%m.in[2]
	return (x*m.in[1]+y)*m.in[0] + z
}

// planMaxUnpool puts elements back to where a MaxPool took them from.
func planMaxUnpool(c *Call) (Step, error) {
	in, kernel := c.Shape(0), c.Node.Ints("kernel_shape")
	rank := len(in) - 2
	if rank < 1 || len(kernel) != rank || !slices.Equal(in, c.Shape(1)) {
		return Step{}, c.Fault("shape %v, kernel %v, indices %v", in, kernel, c.Shape(1))
	}
	hops, pads := c.Node.Ints("strides"), c.Node.Ints("pads")
	shape := slices.Clone(in)
	for i := range rank {
		stride, pad := 1, 0
		if len(hops) == rank {
			stride = hops[i]
		}
		if len(pads) == 2*rank {
			pad = pads[i] + pads[rank+i]
		}
		shape[2+i] = (in[2+i]-1)*stride + kernel[i] - pad
	}
	small := shape // the indices count elements of this shape
	if c.Has(2) {
		want, err := c.Ints(2)
		if err != nil {
			return Step{}, err
		}
		shape = want
	}
	if graph.CheckShape(shape) != nil || graph.CheckShape(small) != nil || len(shape) != len(in) {
		return Step{}, c.Fault("output %v", shape)
	}
	for i := range shape {
		if shape[i] < small[i] {
			return Step{}, c.Fault("output %v is smaller than %v", shape, small)
		}
	}
	from, to := strides(small), strides(shape)
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		clear(out[0].Data)
		for i, v := range elems[int64](ts[1]) {
			if v < 0 || v >= int64(graph.Elems(small)) {
				return indexError(v, graph.Elems(small))
			}
			place := 0
			for d := range small {
				place += int(v) / from[d] % small[d] * to[d]
			}
			copyElems(out[0], place, ts[0], i, 1)
		}
		return nil
	}}, nil
}
