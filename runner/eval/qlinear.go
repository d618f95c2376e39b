package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Domain: msDomain, Name: "QuantizeLinear", Inputs: 2, Plan: planQuantize})
	register(Op{Domain: msDomain, Name: "DequantizeLinear", Inputs: 2, Plan: planDequantize})
	register(Op{Domain: msDomain, Name: "QLinearAdd", Inputs: 2, Plan: func(c *Call) (Step, error) {
		return planQLinearBinary(c, func(a, b float32) float32 { return a + b })
	}})
	register(Op{Domain: msDomain, Name: "QLinearMul", Inputs: 2, Plan: func(c *Call) (Step, error) {
		return planQLinearBinary(c, func(a, b float32) float32 { return a * b })
	}})
	register(Op{Domain: msDomain, Name: "QLinearSigmoid", Inputs: 2, Plan: func(c *Call) (Step, error) {
		return planQLinearUnary(c, func(x float32) float32 { return float32(1 / (1 + math.Exp(-float64(x)))) })
	}})
	register(Op{Domain: msDomain, Name: "QLinearLeakyRelu", Inputs: 2, Plan: func(c *Call) (Step, error) {
		alpha := c.Node.Float("alpha", 0.01)
		return planQLinearUnary(c, func(x float32) float32 {
			if x < 0 {
				return alpha * x
			}
			return x
		})
	}})
	register(Op{Domain: msDomain, Name: "QLinearGlobalAveragePool", Inputs: 2, Plan: planQLinearPool})
	register(Op{Domain: msDomain, Name: "QLinearConcat", Inputs: 1, Plan: planQLinearConcat})
}

// codes is one scale and one zero point for a tensor of bytes.
type codes struct {
	typ         graph.DType
	scale, zero int // inputs; the zero point may be left out
}

// newCodes reads that inputs scale and scale+1 are for bytes of a type.
func newCodes(c *Call, typ graph.DType, scale int) (codes, error) {
	k := codes{typ, scale, scale + 1}
	if typ != graph.Uint8 && typ != graph.Int8 || c.Type(scale) != graph.Float32 || c.Elems(scale) != 1 ||
		c.Has(k.zero) && (c.Type(k.zero) != typ || c.Elems(k.zero) != 1) {
		return k, c.Fault("%s with scale %s %v and zero point %s %v", typ, c.Type(scale), c.Shape(scale), c.Type(k.zero), c.Shape(k.zero))
	}
	return k, nil
}

// params are scale and zero point of a run.
func (k codes) params(in []*graph.Tensor) (scale, zero float32) {
	if z := zeroOf(in, k.zero); z != nil {
		zero = z[0]
	}
	return graph.Of[float32](in[k.scale])[0], zero
}

// values are the numbers that the codes mean.
func (k codes) values(in []*graph.Tensor) (t [256]float32) {
	scale, zero := k.params(in)
	for i := range t {
		v := float32(i)
		if k.typ == graph.Int8 {
			v = float32(int8(i))
		}
		t[i] = (v - zero) * scale
	}
	return t
}

// encoder gives numbers codes.
func (k codes) encoder(in []*graph.Tensor) func(v float32) byte {
	scale, zero := k.params(in)
	lo, hi := float32(intRange[k.typ][0]), float32(intRange[k.typ][1])
	return func(v float32) byte { return byte(codeOf(v/scale, zero, lo, hi)) }
}

// table is what becomes of each code.
func table(values [256]float32, fn func(float32) float32, encode func(float32) byte) (t [256]byte) {
	for i, v := range values {
		t[i] = encode(fn(v))
	}
	return t
}

func planQLinearUnary(c *Call, fn func(float32) float32) (Step, error) {
	x, err := newCodes(c, c.Type(0), 1)
	if err != nil {
		return Step{}, err
	}
	y, err := newCodes(c, c.Type(0), 3)
	if err != nil {
		return Step{}, err
	}
	return Step{Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, InPlace: []int{0}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		t := table(x.values(in), fn, y.encoder(in))
		for i, v := range in[0].Data {
			out[0].Data[i] = t[v]
		}
		return nil
	}}, nil
}

// planQLinearBinary takes a and b, each with scale and zero point, then those of the result.
func planQLinearBinary(c *Call, fn func(a, b float32) float32) (Step, error) {
	var k [3]codes
	for i := range k {
		typ := c.Type(0)
		if i == 1 {
			typ = c.Type(3)
		}
		var err error
		if k[i], err = newCodes(c, typ, []int{1, 4, 6}[i]); err != nil {
			return Step{}, err
		}
	}
	if c.Type(3) != c.Type(0) {
		return Step{}, c.Fault("types %s and %s", c.Type(0), c.Type(3))
	}
	shape, err := broadcast(c.Shape(0), c.Shape(3))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	walk, err := newWalk(shape, stretched(c.Shape(0), shape), stretched(c.Shape(3), shape))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		y := out[0].Data
		if len(y) == 0 {
			return nil
		}
		a, b, encode := k[0].values(in), k[1].values(in), k[2].encoder(in)
		w.Range(walk.rows(), 4*walk.n, func(lo, hi int) {
			at := walk.at(lo)
			for r := lo; r < hi; r++ {
				row := y[r*walk.n : (r+1)*walk.n]
				for i := range row {
					row[i] = encode(fn(a[in[0].Data[at.off[0]+i*walk.inner[0]]], b[in[3].Data[at.off[1]+i*walk.inner[1]]]))
				}
				at.next()
			}
		})
		return nil
	}}, nil
}

// planQLinearPool is the mean of each channel, which may come last.
func planQLinearPool(c *Call) (Step, error) {
	in := c.Shape(0)
	x, err := newCodes(c, c.Type(0), 1)
	if err != nil {
		return Step{}, err
	}
	y, err := newCodes(c, c.Type(0), 3)
	if err != nil {
		return Step{}, err
	}
	if len(in) < 3 {
		return Step{}, c.Fault("shape %v", in)
	}
	channels, plane, step, shape := in[1], graph.Elems(in[2:]), 1, slices.Clone(in)
	space := shape[2:]
	if c.Node.Int("channels_last", 0) != 0 {
		channels, plane = in[len(in)-1], graph.Elems(in[1:len(in)-1])
		step, space = channels, shape[1:len(in)-1]
	}
	for i := range space {
		space[i] = 1
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		values, encode := x.values(ts), y.encoder(ts)
		for i := range out[0].Data {
			at := i * plane
			if step > 1 {
				at = i/channels*plane*channels + i%channels
			}
			sum := 0.0
			for p := range plane {
				sum += float64(values[ts[0].Data[at+p*step]])
			}
			out[0].Data[i] = encode(float32(sum / float64(plane)))
		}
		return nil
	}}, nil
}

// planQLinearConcat has scale and zero point of the result first, then three inputs for every part.
func planQLinearConcat(c *Call) (Step, error) {
	parts := (c.N() - 2) / 3
	if parts < 1 || c.N() != 2+3*parts {
		return Step{}, c.Fault("%d inputs", c.N())
	}
	in := c.Shape(2)
	axis, err := axisOf(c.Node.Int("axis", 1), len(in))
	if err != nil || len(in) == 0 {
		return Step{}, c.Fault("axis %d of shape %v", c.Node.Int("axis", 1), in)
	}
	y, err := newCodes(c, c.Type(2), 0)
	if err != nil {
		return Step{}, err
	}
	shape, from := slices.Clone(in), make([]codes, parts)
	shape[axis] = 0
	for i := range from {
		s := slices.Clone(c.Shape(2 + 3*i))
		if len(s) != len(in) || c.Type(2+3*i) != c.Type(2) {
			return Step{}, c.Fault("parts %s %v and %s %v", c.Type(2), in, c.Type(2+3*i), s)
		}
		n := s[axis]
		if s[axis] = in[axis]; !slices.Equal(s, in) {
			return Step{}, c.Fault("parts %v and %v along axis %d", in, c.Shape(2+3*i), axis)
		}
		shape[axis] += n
		if from[i], err = newCodes(c, c.Type(2), 3+3*i); err != nil {
			return Step{}, err
		}
	}
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	l := linesOf(shape, axis)
	return Step{Out: []Spec{Out(c.Type(2), shape...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		encode, at := y.encoder(in), 0
		for i, k := range from {
			t := table(k.values(in), func(v float32) float32 { return v }, encode)
			part := in[2+3*i]
			row := part.Shape[axis] * l.inner
			for o := range l.outer {
				dst := out[0].Data[o*l.n*l.inner+at:][:row]
				for j, v := range part.Data[o*row : (o+1)*row] {
					dst[j] = t[v]
				}
			}
			at += row
		}
		return nil
	}}, nil
}
