package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "MatMulInteger", Inputs: 2, Plan: planMatMulInteger})
	register(Op{Name: "QLinearMatMul", Inputs: 8, Plan: planQLinearMatMul})
	register(Op{Name: "ConvInteger", Inputs: 2, Plan: planConvInteger})
	register(Op{Name: "QLinearConv", Inputs: 8, Plan: planQLinearConv})
	register(Op{Name: "DynamicQuantizeLinear", Plan: planDynamicQuantize})
}

// exactDepth is how many products of integers of 9 bits, sign included, a float32 adds up without rounding:
// differences of bytes and their zero points are multiplied by the kernels for floats, and are exact.
const exactDepth = 256

// exactProduct adds a [m,k] b [k,n] to sums [m,n]; part is room for m*n numbers.
func exactProduct(w *Worker, sums []int32, part []float32, a, b kernels.Matrix) error {
	m, n := a.Rows, b.Cols
	dst := kernels.View(part, m, n)
	for k := 0; k < a.Cols; k += exactDepth {
		end := min(k+exactDepth, a.Cols)
		threads := min(w.Threads, 1+m*n*(end-k)/gemmPiece)
		err := kernels.Gemm(w.ctx, w.Kernels, threads, kernels.NN, dst, a.Slice(0, m, k, end), b.Slice(k, end, 0, n), false)
		if err != nil {
			return err
		}
		for i, v := range part[:m*n] {
			sums[i] += int32(v)
		}
	}
	return nil
}

// centre writes elements of bytes as floats, less the zero point that goes with each: of rows of n elements either
// one for all, one per row, or one per column.
func centre(w *Worker, dst []float32, t *graph.Tensor, n int, zero []float32, perColumn bool) {
	w.Range(len(dst)/max(n, 1), n, func(lo, hi int) {
		if t.Type == graph.Int8 {
			for i, v := range t.Data[lo*n : hi*n] {
				dst[lo*n+i] = float32(int8(v))
			}
			return
		}
		for i, v := range t.Data[lo*n : hi*n] {
			dst[lo*n+i] = float32(v)
		}
	})
	switch {
	case len(zero) == 1 && zero[0] == 0, len(zero) == 0, n == 0:
	case perColumn:
		for i := range dst {
			dst[i] -= zero[i%n%len(zero)]
		}
	default:
		for i := range dst {
			dst[i] -= zero[i/n%len(zero)]
		}
	}
}

// zeroOf is the zero points of an input, nil without one.
func zeroOf(in []*graph.Tensor, i int) []float32 {
	if i >= len(in) || in[i] == nil {
		return nil
	}
	return realElems(in[i])
}

// paramsFit fails when an input has other than 1 parameter, or n when they may differ along a dimension of n. Those of
// batches of matrices repeat in every matrix.
func paramsFit(c *Call, input, n int) error {
	if !c.Has(input) {
		return nil
	}
	shape := c.Shape(input)
	if e := graph.Elems(shape); e != 1 && (e != n || !slices.Contains(shape, n)) {
		return c.Fault("input %d is %v for a dimension of %d", input, shape, n)
	}
	return nil
}

// byteTypes fails when inputs have other elements than integers of 8 bits.
func byteTypes(c *Call, inputs ...int) error {
	for _, i := range inputs {
		if t := c.Type(i); t != graph.Uint8 && t != graph.Int8 {
			return c.Fault("input %d has elements of type %s", i, t)
		}
	}
	return nil
}

// integerMatrices is a batch of products of bytes.
type integerMatrices struct {
	*matrices
	shape  []int
	la, lb int // elements of both sides
	rows   int // of a left matrix as its zero points count them
}

func newIntegerMatrices(c *Call, a, b, zeroA, zeroB int) (*integerMatrices, error) {
	p, shape, err := newMatrices(c, c.Shape(a), c.Shape(b))
	if err != nil {
		return nil, err
	}
	m := &integerMatrices{matrices: p, shape: shape, la: c.Elems(a), lb: c.Elems(b), rows: 1}
	if s := c.Shape(a); len(s) > 1 {
		m.rows = s[len(s)-2]
	}
	if err := paramsFit(c, zeroA, m.rows); err != nil {
		return nil, err
	}
	if err := paramsFit(c, zeroB, p.n); err != nil {
		return nil, err
	}
	return m, byteTypes(c, a, b)
}

// scratch is the bytes that run wants.
func (p *integerMatrices) scratch() int {
	return round(4*p.la) + round(4*p.lb) + round(4*p.m*p.n)
}

// run fills sums with the products.
func (p *integerMatrices) run(w *Worker, sums []int32, a, b *graph.Tensor, zeroA, zeroB []float32) error {
	clear(sums)
	if p.k == 0 {
		return nil
	}
	rest := w.Scratch
	take := func(n int) []float32 {
		part := graph.Of[float32](&graph.Tensor{Type: graph.Float32, Data: rest[:4*n]})
		rest = rest[round(4*n):]
		return part
	}
	x, y, part := take(p.la), take(p.lb), take(p.m*p.n)
	centre(w, x, a, p.k, zeroA, false)
	centre(w, y, b, p.n, zeroB, true)
	for i := range p.a {
		l := kernels.View(x[p.a[i]*p.m*p.k:][:p.m*p.k], p.m, p.k)
		r := kernels.View(y[p.b[i]*p.k*p.n:][:p.k*p.n], p.k, p.n)
		if err := exactProduct(w, sums[i*p.m*p.n:][:p.m*p.n], part, l, r); err != nil {
			return err
		}
	}
	return nil
}

func planMatMulInteger(c *Call) (Step, error) {
	p, err := newIntegerMatrices(c, 0, 1, 2, 3)
	if err != nil {
		return Step{}, err
	}
	return Step{Out: []Spec{Out(graph.Int32, p.shape...)}, Scratch: p.scratch(), Run: func(w *Worker, in, out []*graph.Tensor) error {
		return p.run(w, graph.Of[int32](out[0]), in[0], in[1], zeroOf(in, 2), zeroOf(in, 3))
	}}, nil
}

// requantize writes numbers v*scale as codes of an integer type: rounded to even, moved by the zero point, cut.
func requantize(dst *graph.Tensor, at int, v []int32, scale, zero float32) {
	b := intRange[dst.Type]
	lo, hi := float32(b[0]), float32(b[1])
	for i, s := range v {
		dst.Data[at+i] = byte(codeOf(float32(s)*scale, zero, lo, hi))
	}
}

// planQLinearMatMul takes a and b with scale and zero point each, and scale and zero point of the result.
func planQLinearMatMul(c *Call) (Step, error) {
	p, err := newIntegerMatrices(c, 0, 3, 2, 5)
	if err != nil {
		return Step{}, err
	}
	if err := firstErr(paramsFit(c, 1, p.rows), paramsFit(c, 4, p.n), paramsFit(c, 6, 1), paramsFit(c, 7, 1)); err != nil {
		return Step{}, err
	}
	to := c.Type(7)
	if err := byteTypes(c, 7); err != nil {
		return Step{}, err
	}
	total := graph.Elems(p.shape)
	s := Step{Out: []Spec{Out(to, p.shape...)}, Scratch: p.scratch() + round(4*total)}
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		first := p.scratch()
		sums := graph.Of[int32](&graph.Tensor{Type: graph.Int32, Data: w.Scratch[first : first+4*total]})
		if err := p.run(w, sums, in[0], in[3], zeroOf(in, 2), zeroOf(in, 5)); err != nil {
			return err
		}
		sa, sb, sy, zy := realElems(in[1]), realElems(in[4]), realElems(in[6])[0], realElems(in[7])[0]
		for r := 0; p.n > 0 && r < total/p.n; r++ {
			row := r * p.n
			if left := sa[r%p.rows%len(sa)]; len(sb) == 1 {
				requantize(out[0], row, sums[row:row+p.n], float32(left*sb[0])/sy, zy)
			} else {
				for j := range p.n {
					requantize(out[0], row+j, sums[row+j:row+j+1], float32(left*sb[j])/sy, zy)
				}
			}
		}
		return nil
	}
	return s, nil
}

// firstErr is the first error.
func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// integerConv is a convolution of bytes.
type integerConv struct {
	*convolution
	depth int // channels of a group
}

func newIntegerConv(c *Call, x, w, zeroX, zeroW int) (*integerConv, error) {
	if err := byteTypes(c, x, w); err != nil {
		return nil, err
	}
	k, err := newConvolution(c, w)
	if err != nil {
		return nil, err
	}
	if err := firstErr(paramsFit(c, zeroX, 1), paramsFit(c, zeroW, k.maps)); err != nil {
		return nil, err
	}
	i := &integerConv{k, k.channels / k.groups}
	if err := graph.CheckShape([]int{i.depth, k.size, k.outs, 16}); err != nil {
		return nil, c.Fault("a window of %d over %d channels, %d times", k.size, i.depth, k.outs)
	}
	return i, nil
}

func (k *integerConv) sizes() [4]int {
	inner := k.depth * k.size
	return [4]int{k.n * k.channels * k.ins, k.maps * inner, inner * k.outs, k.maps / k.groups * k.outs}
}

func (k *integerConv) scratch() int {
	n := 0
	for _, s := range k.sizes() {
		n += round(4 * s)
	}
	return n
}

// run fills sums [n, maps, outs].
func (k *integerConv) run(w *Worker, sums []int32, x, weights *graph.Tensor, zeroX, zeroW []float32) error {
	clear(sums)
	rest := w.Scratch
	var parts [4][]float32
	for i, n := range k.sizes() {
		parts[i] = graph.Of[float32](&graph.Tensor{Type: graph.Float32, Data: rest[:4*n]})
		rest = rest[round(4*n):]
	}
	img, wgt, col, part := parts[0], parts[1], parts[2], parts[3]
	inner, maps := k.depth*k.size, k.maps/k.groups
	if len(sums) == 0 || inner == 0 {
		return nil
	}
	// a pad has the zero point's code: nothing, once that is taken away
	centre(w, img, x, len(img), zeroX, false)
	centre(w, wgt, weights, inner, zeroW, false)
	for i := range k.n * k.groups {
		g := i % k.groups
		src := img[i*k.depth*k.ins:][:k.depth*k.ins]
		if !k.point() {
			unfoldAll(w, k.window, col, src, k.depth)
			src = col
		}
		a := kernels.View(wgt[g*maps*inner:], maps, inner)
		if err := exactProduct(w, sums[i*maps*k.outs:][:maps*k.outs], part, a, kernels.View(src, inner, k.outs)); err != nil {
			return err
		}
	}
	return nil
}

func planConvInteger(c *Call) (Step, error) {
	k, err := newIntegerConv(c, 0, 1, 2, 3)
	if err != nil {
		return Step{}, err
	}
	return Step{Out: []Spec{Out(graph.Int32, k.shape(k.n, k.maps)...)}, Scratch: k.scratch(), Run: func(w *Worker, in, out []*graph.Tensor) error {
		return k.run(w, graph.Of[int32](out[0]), in[0], in[1], zeroOf(in, 2), zeroOf(in, 3))
	}}, nil
}

// planQLinearConv takes x and w with scale and zero point each, those of the result, and a bias of the sums.
func planQLinearConv(c *Call) (Step, error) {
	k, err := newIntegerConv(c, 0, 3, 2, 5)
	if err != nil {
		return Step{}, err
	}
	if err := firstErr(paramsFit(c, 1, 1), paramsFit(c, 4, k.maps), paramsFit(c, 6, 1), paramsFit(c, 7, 1)); err != nil {
		return Step{}, err
	}
	to := c.Type(7)
	if err := byteTypes(c, 7); err != nil {
		return Step{}, err
	}
	if c.Has(8) && (c.Type(8) != graph.Int32 || c.Elems(8) != k.maps) {
		return Step{}, c.Fault("bias %s %v of %d channels", c.Type(8), c.Shape(8), k.maps)
	}
	total := k.n * k.maps * k.outs
	s := Step{Out: []Spec{Out(to, k.shape(k.n, k.maps)...)}, Scratch: k.scratch() + round(4*total)}
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		first := k.scratch()
		sums := graph.Of[int32](&graph.Tensor{Type: graph.Int32, Data: w.Scratch[first : first+4*total]})
		if err := k.run(w, sums, in[0], in[3], zeroOf(in, 2), zeroOf(in, 5)); err != nil {
			return err
		}
		sx, sw, sy, zy := realElems(in[1])[0], realElems(in[4]), realElems(in[6])[0], realElems(in[7])[0]
		var bias []int32
		if len(in) > 8 && in[8] != nil {
			bias = graph.Of[int32](in[8])
		}
		w.Range(k.n*k.maps, 4*k.outs, func(lo, hi int) {
			for p := lo; p < hi; p++ {
				m := p % k.maps
				plane := sums[p*k.outs : (p+1)*k.outs]
				for i := range plane {
					if bias != nil {
						plane[i] += bias[m]
					}
				}
				requantize(out[0], p*k.outs, plane, float32(sx*sw[m%len(sw)])/sy, zy)
			}
		})
		return nil
	}
	return s, nil
}

// planDynamicQuantize chooses scale and zero point so that 0 and all of the input are among the codes.
func planDynamicQuantize(c *Call) (Step, error) {
	if c.Type(0) != graph.Float32 {
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return Step{Out: []Spec{Out(graph.Uint8, c.Shape(0)...), Out(graph.Float32), Out(graph.Uint8)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		x := graph.Of[float32](in[0])
		scale, zero := dynamicRange(x)
		if out[0] != nil {
			quantizeBytes(w, out[0].Data, x, scale, zero)
		}
		if len(out) > 1 && out[1] != nil {
			graph.Of[float32](out[1])[0] = scale
		}
		if len(out) > 2 && out[2] != nil {
			out[2].Data[0] = byte(zero)
		}
		return nil
	}}, nil
}

// dynamicRange is the scale and the zero point that DynamicQuantizeLinear chooses.
func dynamicRange(x []float32) (scale, zero float32) {
	lo, hi := extremes(x)
	if scale = (hi - lo) / 255; scale == 0 {
		scale = 1
	}
	return scale, float32(math.RoundToEven(float64(min(max(-lo/scale, 0), 255))))
}

// extremes are the smallest and the largest of numbers and 0; NaN where one is.
func extremes(x []float32) (lo, hi float32) {
	for _, v := range x {
		if !(v >= lo) { // seldom, and so well predicted
			lo = min(lo, v)
		}
		if !(v <= hi) {
			hi = max(hi, v)
		}
	}
	return lo, hi
}

// quantizeBytes writes codes from 0 to 255.
func quantizeBytes(w *Worker, dst []byte, x []float32, scale, zero float32) {
	w.Range(len(x), 2, func(a, b int) { w.Kernels.Codes(dst[a:b], x[a:b], scale, int32(zero), 0) })
}

// codeOf is v rounded to even, moved by the zero point and cut to [lo,hi]; NaN is the zero point.
func codeOf(v, zero, lo, hi float32) int32 {
	switch q := float32(math.RoundToEven(float64(v))) + zero; {
	case q <= lo:
		return int32(lo)
	case q >= hi:
		return int32(hi)
	case q == q:
		return int32(q)
	}
	return int32(zero)
}
