package eval

import (
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "CenterCropPad", Inputs: 2, Unpack: true, Plan: planCenterCropPad})
	register(Op{Name: "Col2Im", Inputs: 3, Narrow: true, Plan: planCol2Im})
	register(Op{Name: "Det", Narrow: true, Plan: byFloat(det[float32], det[float64])})
	register(Op{Name: "TensorScatter", Inputs: 2, Unpack: true, Plan: planTensorScatter})
}

// planCenterCropPad cuts dimensions, or puts zeros around them, so that the middle stays in the middle.
func planCenterCropPad(c *Call) (Step, error) {
	in := c.Shape(0)
	sizes, err := c.Ints(1)
	if err != nil {
		return Step{}, err
	}
	axes := c.Node.Ints("axes")
	if axes == nil {
		for i := range in {
			axes = append(axes, i)
		}
	}
	if axes, err = axesOf(axes, len(in)); err != nil || len(axes) != len(sizes) {
		return Step{}, c.Fault("sizes %v of axes %v of shape %v", sizes, axes, in)
	}
	shape, common := slices.Clone(in), slices.Clone(in)
	for i, a := range axes {
		shape[a] = sizes[i]
		common[a] = min(in[a], sizes[i])
	}
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	to, from := strides(shape), strides(in)
	walk, err := newWalk(common, to, from)
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	dst, src := 0, 0
	for i := range in {
		dst += (shape[i] - common[i]) / 2 * to[i]
		src += (in[i] - common[i]) / 2 * from[i]
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		clear(out[0].Data)
		clear(out[0].Strings)
		if graph.Elems(common) > 0 {
			walk.copy(w, out[0], in[0], dst, src)
		}
		return nil
	}}, nil
}

// planCol2Im adds up blocks [n, channels*size, blocks] where they lie in an image.
func planCol2Im(c *Call) (Step, error) {
	in := c.Shape(0)
	image, err := c.Ints(1)
	if err != nil {
		return Step{}, err
	}
	block, err := c.Ints(2)
	if err != nil {
		return Step{}, err
	}
	for _, d := range image {
		if d < 0 || d > 1<<30 {
			return Step{}, c.Fault("an image of %v", image)
		}
	}
	k, err := newWindow(c, image, block)
	if err != nil {
		return Step{}, err
	}
	if len(in) != 3 || in[1]%k.size != 0 || in[2] != k.outs {
		return Step{}, c.Fault("shape %v for %d blocks of %v in %v", in, k.outs, block, image)
	}
	shape := slices.Concat([]int{in[0], in[1] / k.size}, image)
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	s := Step{Out: []Spec{Out(c.Type(0), shape...)}}
	switch c.Type(0) {
	case graph.Float32:
		s.Run = col2im[float32](k)
	case graph.Float64:
		s.Run = col2im[float64](k)
	case graph.Int32:
		s.Run = col2im[int32](k)
	case graph.Int64:
		s.Run = col2im[int64](k)
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

func col2im[T number](k *window) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	return func(w *Worker, in, out []*graph.Tensor) error {
		x, y := elems[T](in[0]), elems[T](out[0])
		clear(y)
		if len(y) == 0 || k.outs == 0 {
			return nil
		}
		w.Range(len(y)/k.ins, k.size*k.outs, func(lo, hi int) {
			for p := lo; p < hi; p++ {
				foldBack(k, y[p*k.ins:(p+1)*k.ins], x[p*k.size*k.outs:(p+1)*k.size*k.outs])
			}
		})
		return nil
	}
}

// det is the determinants of matrices, by elimination with the largest pivots.
func det[T float](c *Call) (Step, error) {
	in := c.Shape(0)
	if len(in) < 2 || in[len(in)-1] != in[len(in)-2] {
		return Step{}, c.Fault("shape %v", in)
	}
	n, shape := in[len(in)-1], in[:len(in)-2]
	if err := graph.CheckShape(append([]int{8}, shape...)); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		y := elems[T](out[0])
		all := numbers(in[0])
		for b := range y {
			a, d := all[b*n*n:(b+1)*n*n], 1.0
			for k := range n {
				best := k
				for r := k + 1; r < n; r++ {
					if math.Abs(a[r*n+k]) > math.Abs(a[best*n+k]) {
						best = r
					}
				}
				if best != k {
					d = -d
					for j := range n {
						a[k*n+j], a[best*n+j] = a[best*n+j], a[k*n+j]
					}
				}
				if d *= a[k*n+k]; a[k*n+k] == 0 {
					break
				}
				for r := k + 1; r < n; r++ {
					f := a[r*n+k] / a[k*n+k]
					for j := k + 1; j < n; j++ {
						a[r*n+j] -= float64(f * a[k*n+j])
					}
				}
			}
			y[b] = T(d)
		}
		return nil
	}}, nil
}

// planTensorScatter writes new elements of sequences into a cache, from an index of each sequence on.
func planTensorScatter(c *Call) (Step, error) {
	in, up := c.Shape(0), c.Shape(1)
	axis, err := axisOf(c.Node.Int("axis", -2), len(in))
	mode := c.Node.Str("mode", "linear")
	if err != nil || axis == 0 || len(up) != len(in) || c.Type(1) != c.Type(0) || mode != "linear" && mode != "circular" {
		return Step{}, c.Fault("axis %d of shape %v, update %s %v, mode %q", c.Node.Int("axis", -2), in, c.Type(1), up, mode)
	}
	for i := range in {
		if i == axis && up[i] > in[i] || i != axis && up[i] != in[i] {
			return Step{}, c.Fault("update %v of %v along axis %d", up, in, axis)
		}
	}
	if c.Has(2) && c.Elems(2) != in[0] {
		return Step{}, c.Fault("%v indices of %d sequences", c.Shape(2), in[0])
	}
	between, inner := graph.Elems(in[1:axis]), graph.Elems(in[axis+1:])
	return Step{Out: []Spec{Out(c.Type(0), in...)}, InPlace: []int{0}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		var at []int64
		if len(ts) > 2 && ts[2] != nil {
			var err error
			if at, err = ts[2].Ints(); err != nil {
				return err
			}
		}
		if ts[0].Elems() == 0 {
			return nil
		}
		copyElems(out[0], 0, ts[0], 0, ts[0].Elems())
		for r := range in[0] * between {
			first := 0
			if at != nil {
				v := at[r/between]
				if v < 0 || v > int64(in[axis]) || mode == "linear" && v+int64(up[axis]) > int64(in[axis]) {
					return fmt.Errorf("%d elements from index %d on of %d", up[axis], v, in[axis])
				}
				first = int(v)
			}
			for i := range up[axis] {
				copyElems(out[0], (r*in[axis]+(first+i)%in[axis])*inner, ts[1], (r*up[axis]+i)*inner, inner)
			}
		}
		return nil
	}}, nil
}
