package eval

import (
	"math"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "QuantizeLinear", Inputs: 2, Plan: planQuantize})
	register(Op{Name: "DequantizeLinear", Inputs: 2, Plan: planDequantize})
}

// parameters are scales and zero points laid over a tensor: one for all, one per index of an axis, or one
// per block along it.
type parameters struct {
	block       int // elements of the axis that share a scale; 0 is all of them
	axis        int
	dim, inner  int
	blocks      int // along the axis
	scale, zero []float32
}

// newParameters reads how the scale of a node, input 1, goes with the shape of input 0.
func newParameters(c *Call) (*parameters, error) {
	shape, s := c.Shape(0), c.Shape(1)
	p := &parameters{dim: 1, inner: max(graph.Elems(shape), 1), blocks: 1, axis: -1}
	if c.Has(2) && c.Elems(2) != c.Elems(1) {
		return nil, c.Fault("scale of shape %v with zero point of shape %v", s, c.Shape(2))
	}
	if graph.Elems(s) == 1 && len(s) <= 1 {
		return p, nil
	}
	axis := c.Node.Int("axis", 1)
	if axis < 0 {
		axis += len(shape)
	}
	if axis < 0 || axis >= len(shape) {
		return nil, c.Fault("axis %d of shape %v", axis, shape)
	}
	p.axis, p.dim, p.inner = axis, shape[axis], graph.Elems(shape[axis+1:])
	p.blocks = p.dim
	p.block = 1
	size := c.Node.Int("block_size", 0)
	if size == 0 {
		if len(s) != 1 || s[0] != p.dim {
			return nil, c.Fault("scale of shape %v for axis %d of %v", s, axis, shape)
		}
		return p, nil
	}
	if size < 0 || len(s) != len(shape) {
		return nil, c.Fault("scale of shape %v in blocks of %d for %v", s, size, shape)
	}
	p.block, p.blocks = size, (p.dim+size-1)/size
	for i, d := range s {
		if want := shape[i]; i == axis && d != p.blocks || i != axis && d != want {
			return nil, c.Fault("scale of shape %v in blocks of %d along axis %d for %v", s, size, axis, shape)
		}
	}
	return p, nil
}

// load takes the values of a run.
func (p *parameters) load(scale, zero *graph.Tensor) {
	p.scale = realElems(scale)
	if p.zero = make([]float32, len(p.scale)); zero != nil {
		p.zero = realElems(zero)
	}
}

// realElems are the elements of a tensor of small integers or floats as float32.
func realElems(t *graph.Tensor) []float32 {
	if t.Type == graph.Float32 {
		return graph.Of[float32](t)
	}
	wide := graph.New(graph.Float32, t.Elems())
	recode(wide, t)
	return graph.Of[float32](wide)
}

// at is which parameter element i has.
func (p *parameters) at(i int) int {
	if p.axis < 0 {
		return 0
	}
	in, k := i%p.inner, i/p.inner%p.dim
	if p.block == 1 && len(p.scale) == p.dim {
		return k
	}
	return (i/(p.inner*p.dim)*p.blocks+k/p.block)*p.inner + in
}

// run is how many elements from i on share a parameter, for tensors whose scale does not vary along the
// innermost axes.
func (p *parameters) run(i, end int) int {
	switch {
	case p.axis < 0:
		return end - i
	case p.block == 1 && len(p.scale) == p.dim:
		return min(p.inner-i%p.inner, end-i)
	}
	return 1
}

// intRange is what an integer type holds; 16 bits are the most that quantization has.
var intRange = map[graph.DType][2]float64{
	graph.Uint8: {0, 255}, graph.Int8: {-128, 127}, graph.Uint16: {0, 65535}, graph.Int16: {-32768, 32767},
	graph.Uint4: {0, 15}, graph.Int4: {-8, 7}, graph.Uint2: {0, 3}, graph.Int2: {-2, 1},
}

// planQuantize is y = saturate(round(x / scale) + zero), ties to even; floats of 8 and 4 bits are rounded as
// Cast rounds them.
func planQuantize(c *Call) (Step, error) {
	to := graph.DType(c.Node.Int("output_dtype", 0))
	switch {
	case c.Has(2):
		to = c.Type(2)
	case to == graph.Undefined:
		to = graph.Uint8
	}
	bounds, integer := intRange[to]
	if !integer && to.Bits() > 8 || !to.Known() {
		return Step{}, c.Fault("a quantization to %s", to)
	}
	p, err := newParameters(c)
	if err != nil {
		return Step{}, err
	}
	r := rounding{c.Node.Int("saturate", 1) != 0, "up"}
	return Step{Out: []Spec{Out(to, c.Shape(0)...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		x := realElems(in[0])
		q := *p
		q.load(in[1], third(in))
		if !integer {
			y := graph.New(graph.Float32, len(x))
			for i := range x {
				graph.Of[float32](y)[i] = x[i] / q.scale[q.at(i)]
			}
			recodeAs(out[0], y, r)
			return nil
		}
		bytes := to.Bits() == 8
		var wide []int32
		var codes *graph.Tensor
		if !bytes {
			codes = graph.New(graph.Int32, len(x))
			wide = graph.Of[int32](codes)
		}
		lo, hi := float32(bounds[0]), float32(bounds[1])
		w.Range(len(x), 4, func(a, b int) {
			for a < b {
				k, n := q.at(a), q.run(a, b)
				s, z := q.scale[k], q.zero[k]
				for i := a; i < a+n; i++ {
					v := float32(math.RoundToEven(float64(x[i]/s))) + z
					// NaN becomes the zero point: no comparison with it holds.
					code := int32(z)
					switch {
					case v <= lo:
						code = int32(lo)
					case v >= hi:
						code = int32(hi)
					case v == v:
						code = int32(v)
					}
					if bytes {
						out[0].Data[i] = byte(code)
					} else {
						wide[i] = code
					}
				}
				a += n
			}
		})
		if !bytes {
			recode(out[0], codes)
		}
		return nil
	}}, nil
}

// planDequantize is y = (x - zero) * scale, of the type of the scale unless the node says another.
func planDequantize(c *Call) (Step, error) {
	to := c.Type(1)
	if t := graph.DType(c.Node.Int("output_dtype", 0)); t != graph.Undefined {
		to = t
	}
	if !to.Float() {
		return Step{}, c.Fault("a dequantization to %s", to)
	}
	p, err := newParameters(c)
	if err != nil {
		return Step{}, err
	}
	return Step{Out: []Spec{Out(to, c.Shape(0)...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		q := *p
		q.load(in[1], third(in))
		y := out[0]
		if to != graph.Float32 {
			y = graph.New(graph.Float32, out[0].Shape...)
		}
		dst := graph.Of[float32](y)
		var read func(i int) float32
		switch in[0].Type {
		case graph.Uint8:
			read = func(i int) float32 { return float32(in[0].Data[i]) }
		case graph.Int8:
			read = func(i int) float32 { return float32(int8(in[0].Data[i])) }
		case graph.Int32:
			// A bias has no zero point, and more digits than a float32: rounded once.
			x := graph.Of[int32](in[0])
			read = func(i int) float32 { return float32(x[i]) }
		default:
			x := realElems(in[0])
			read = func(i int) float32 { return x[i] }
		}
		w.Range(len(dst), 3, func(a, b int) {
			for a < b {
				k, n := q.at(a), q.run(a, b)
				s, z := q.scale[k], q.zero[k]
				for i := a; i < a+n; i++ {
					dst[i] = (read(i) - z) * s
				}
				a += n
			}
		})
		if to != graph.Float32 {
			recode(out[0], y)
		}
		return nil
	}}, nil
}

// third is input 2 when it is there.
func third(in []*graph.Tensor) *graph.Tensor {
	if len(in) > 2 {
		return in[2]
	}
	return nil
}
