package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	for name, op := range map[string]struct {
		fn     func(v float64) float64
		inputs int
	}{
		"Gelu":     {geluExact, 1},
		"BiasGelu": {geluExact, 2},
		"FastGelu": {geluTanh, 1},
	} {
		register(Op{Domain: msDomain, Name: name, Inputs: op.inputs, Narrow: true, Plan: byFloat(
			func(c *Call) (Step, error) { return biased[float32](c, op.fn) },
			func(c *Call) (Step, error) { return biased[float64](c, op.fn) })})
	}
	register(Op{Domain: msDomain, Name: "QuickGelu", Narrow: true, Plan: byFloat(quickGelu[float32], quickGelu[float64])})
	register(Op{Domain: msDomain, Name: "MatMulNBits", Inputs: 3, Narrow: true, Plan: planMatMulNBits})
}

func geluExact(v float64) float64 { return 0.5 * v * (1 + math.Erf(v/math.Sqrt2)) }

func geluTanh(v float64) float64 {
	return 0.5 * v * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+float64(0.044715*v*v*v))))
}

func quickGelu[T float](c *Call) (Step, error) {
	alpha := float64(c.Node.Float("alpha", 1.702))
	return biased[T](c, func(v float64) float64 { return v / (1 + math.Exp(-alpha*v)) })
}

// biased applies a function to numbers plus a bias of the last dimension, which may be left out.
func biased[T float](c *Call, fn func(v float64) float64) (Step, error) {
	in := c.Shape(0)
	if c.Has(1) && (len(in) == 0 || c.Type(1) != c.Type(0) || !slices.Equal(c.Shape(1), in[len(in)-1:])) {
		return Step{}, c.Fault("bias %s %v of %s %v", c.Type(1), c.Shape(1), c.Type(0), in)
	}
	return Step{Out: []Spec{Out(c.Type(0), in...)}, InPlace: []int{0}, Run: func(w *Worker, ts, out []*graph.Tensor) error {
		x, y := elems[T](ts[0]), elems[T](out[0])
		var bias []T
		if len(ts) > 1 && ts[1] != nil {
			bias = elems[T](ts[1])
		}
		w.Range(len(x), 32, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				v := float64(x[i])
				if bias != nil {
					v += float64(bias[i%len(bias)])
				}
				y[i] = T(fn(v))
			}
		})
		return nil
	}}, nil
}

// bitsWeight is a weight [n, k] of codes of 2, 4 or 8 bits in blocks along k that share a scale.
type bitsWeight struct {
	n, k, bits, block int
	blocks, row       int // of a row of the weight; its bytes
	packed            bool
}

// bitRows is how many rows of a weight are decoded at a time.
const bitRows = 32

// planMatMulNBits multiplies with the transpose of a weight whose rows are decoded just before they are needed.
func planMatMulNBits(c *Call) (Step, error) {
	n := c.Node
	q := &bitsWeight{n: n.Int("N", 0), k: n.Int("K", 0), bits: n.Int("bits", 4), block: n.Int("block_size", 0)}
	in := c.Shape(0)
	if q.bits != 2 && q.bits != 4 && q.bits != 8 || q.block < 16 || q.block&(q.block-1) != 0 || q.block > 1<<30 || q.n < 1 || q.k < 1 ||
		len(in) == 0 || in[len(in)-1] != q.k || c.Type(0) != graph.Float32 {
		return Step{}, c.Fault("%s %v and %d by %d numbers of %d bits in blocks of %d", c.Type(0), in, q.n, q.k, q.bits, q.block)
	}
	if c.Has(4) {
		return Step{}, c.Fault("an order of columns (g_idx) is not supported")
	}
	q.blocks = (q.k-1)/q.block + 1
	if err := graph.CheckShape([]int{q.n, q.blocks, q.block, 8}); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	q.row = q.blocks * q.block * q.bits / 8
	if c.Type(1) != graph.Uint8 || c.Elems(1) != q.n*q.row || c.Type(2) != graph.Float32 || c.Elems(2) != q.n*q.blocks {
		return Step{}, c.Fault("weights %s %v, scales %s %v", c.Type(1), c.Shape(1), c.Type(2), c.Shape(2))
	}
	q.packed = c.Type(3) == graph.Uint8
	want := q.n * q.blocks
	if q.packed {
		want = q.n * ((q.blocks*q.bits + 7) / 8)
	}
	if c.Has(3) && (c.Elems(3) != want || !q.packed && c.Type(3) != graph.Float32) || c.Has(5) && (c.Elems(5) != q.n || c.Type(5) != graph.Float32) {
		return Step{}, c.Fault("zero points %s %v, bias %s %v", c.Type(3), c.Shape(3), c.Type(5), c.Shape(5))
	}
	shape := append(slices.Clone(in[:len(in)-1]), q.n)
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	m, each := graph.Elems(in[:len(in)-1]), bitRows*q.k
	return Step{Out: []Spec{Out(graph.Float32, shape...)}, Scratch: 4 * each * max(c.Threads, 1), Run: func(w *Worker, ts, out []*graph.Tensor) error {
		if m == 0 {
			return nil
		}
		x, y := kernels.View(elems[float32](ts[0]), m, q.k), kernels.View(elems[float32](out[0]), m, q.n)
		room := graph.Of[float32](&graph.Tensor{Type: graph.Float32, Data: w.Scratch})
		var zeros *graph.Tensor
		if len(ts) > 3 {
			zeros = ts[3]
		}
		errs := make([]error, max(w.Threads, 1))
		w.Do((q.n+bitRows-1)/bitRows, func(worker, item int) {
			lo, hi := item*bitRows, min((item+1)*bitRows, q.n)
			rows := kernels.View(room[worker*each:], hi-lo, q.k)
			for i := lo; i < hi; i++ {
				q.decode(rows.Row(i-lo), ts[1].Data[i*q.row:(i+1)*q.row], i, graph.Of[float32](ts[2]), zeros)
			}
			if err := kernels.Gemm(w.ctx, w.Kernels, 1, kernels.NT, y.Slice(0, m, lo, hi), x, rows, false); err != nil {
				errs[worker] = err
			}
		})
		if len(ts) > 5 && ts[5] != nil {
			for i := range m {
				for j, b := range elems[float32](ts[5]) {
					y.Data[i*q.n+j] += b
				}
			}
		}
		return firstErr(errs...)
	}}, nil
}

// decode writes row i of the weight. Without zero points the middle of the codes means 0.
func (q *bitsWeight) decode(dst []float32, data []byte, i int, scales []float32, zeros *graph.Tensor) {
	for b := range q.blocks {
		scale, zero := scales[i*q.blocks+b], float32(int(1)<<(q.bits-1))
		switch {
		case zeros != nil && q.packed:
			per := (q.blocks*q.bits + 7) / 8
			zero = float32(getBits(zeros.Data[i*per:(i+1)*per], b, q.bits))
		case zeros != nil:
			zero = graph.Of[float32](zeros)[i*q.blocks+b]
		}
		for k := b * q.block; k < min((b+1)*q.block, q.k); k++ {
			dst[k] = (float32(getBits(data, k, q.bits)) - zero) * scale
		}
	}
}
