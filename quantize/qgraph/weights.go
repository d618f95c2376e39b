package qgraph

import (
	"math"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/ir/graph"
)

// weights are the codes of a layer.
type weights struct {
	l     *layer
	grid  calib.Grid
	each  []calib.Affine // per scale; one for PerTensor
	codes []int32        // by output and column: row-major [outs, cols]
	// bias in float, after correction; it becomes int32 at the scale of the input times that of the weights.
	bias []float32
}

// maxBias keeps an int32 bias clear of the end of its range, so that sums of products fit beside it.
const maxBias = 1 << 30

// newWeights rounds the weights of a layer to nearest. in is the scale of what the layer reads.
func newWeights(l *layer, cfg Config, in float32) *weights {
	q := &weights{l: l, grid: cfg.weightGrid(), bias: append([]float32(nil), l.bias...)}
	n := l.scales()
	if cfg.PerTensor {
		n = 1
	}
	lo, hi := make([]float64, n), make([]float64, n)
	least := make([]float64, n) // scale that the biases need
	row := make([]float32, l.cols)
	for o := range l.outs {
		s := l.scaleOf(o) % n
		l.row(row, o)
		for _, v := range row {
			lo[s], hi[s] = min(lo[s], float64(v)), max(hi[s], float64(v))
		}
		least[s] = max(least[s], math.Abs(float64(l.bias[o]))/(float64(in)*maxBias))
	}
	q.each = make([]calib.Affine, n)
	for s := range q.each {
		a := q.grid.Affine(lo[s], hi[s])
		if float64(a.Scale) < least[s] {
			a.Scale = float32(least[s])
			if q.grid.PowerOfTwo {
				a.Scale = float32(math.Exp2(math.Ceil(math.Log2(least[s]))))
			}
		}
		q.each[s] = a
	}
	q.codes = make([]int32, l.outs*l.cols)
	for o := range l.outs {
		l.row(row, o)
		a := q.scale(o)
		for c, v := range row {
			q.codes[o*l.cols+c] = int32(q.grid.Quantize(a, v))
		}
	}
	return q
}

// scale of an output.
func (q *weights) scale(out int) calib.Affine { return q.each[q.l.scaleOf(out)%len(q.each)] }

// tensor is the codes in the layout of the weights.
func (q *weights) tensor(typ graph.DType) *graph.Tensor {
	flat := make([]int32, len(q.codes))
	for o := range q.l.outs {
		q.l.each(o, func(col, at int) { flat[at] = q.codes[o*q.l.cols+col] })
	}
	return pack(typ, flat, q.l.w.Shape)
}

// pack makes a tensor of integer codes.
func pack(typ graph.DType, codes []int32, shape []int) *graph.Tensor {
	t := graph.New(typ, shape...)
	switch typ {
	case graph.Int4, graph.Uint4:
		for i, c := range codes {
			t.Data[i/2] |= byte(c&15) << (4 * (i % 2))
		}
	case graph.Int8, graph.Uint8:
		for i, c := range codes {
			t.Data[i] = byte(c)
		}
	case graph.Int16, graph.Uint16:
		d := graph.Of[uint16](t)
		for i, c := range codes {
			d[i] = uint16(c)
		}
	case graph.Int32:
		copy(graph.Of[int32](t), codes)
	}
	return t
}

// affineTensors are scales and zero points as tensors: scalars for one, vectors along an axis for several.
func affineTensors(typ graph.DType, each []calib.Affine, vector bool) (scale, zero *graph.Tensor) {
	var shape []int
	if vector {
		shape = []int{len(each)}
	}
	s, z := make([]float32, len(each)), make([]int32, len(each))
	for i, a := range each {
		s[i], z[i] = a.Scale, int32(a.Zero)
	}
	return graph.From(graph.Float32, s, shape...), pack(typ, z, shape)
}

// biasCodes are the bias at the scale of the sums, and those scales.
func (q *weights) biasCodes(in float32) (codes []int32, scales []calib.Affine) {
	codes, scales = make([]int32, q.l.outs), make([]calib.Affine, q.l.outs)
	for o, b := range q.bias {
		// The product of two float32 as float32, as runtimes compute it.
		s := in * q.scale(o).Scale
		v := math.RoundToEven(float64(b) / float64(s))
		codes[o] = int32(min(max(v, -maxBias), maxBias))
		scales[o] = calib.Affine{Scale: s}
	}
	return codes, scales
}
