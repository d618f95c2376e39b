package qgraph

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"path"
	"slices"
	"sync"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir/graph"
)

// WeightOnly makes matrix products with constant weights products of codes in blocks (MatMulNBits of
// com.microsoft). Nothing is computed before the network is written, and then a band of columns at a time:
// weights may be larger than memory.
type WeightOnly struct {
	Bits  int // 4 (default) or 8
	Block int // weights along the inner dimension that share a scale: 16 to 256, a power of two; 0 is 32
	// Asymmetric gives every block a zero point of its own.
	Asymmetric bool
	// Accuracy is the accuracy_level attribute: how the runtime may compute. 0 leaves it to it, 1 is float32,
	// 4 quantizes activations to 8 bits.
	Accuracy int
	// Least is the number of weights below which a matrix stays float; 0 is 4096.
	Least int
	Keep  []string // patterns of names of nodes that stay float
}

// WeightReport says what became of the products.
type WeightReport struct {
	Changed       int
	Before, After int64 // bytes of the weights that changed
	Kept          []Kept
}

// Check reports what no runtime takes.
func (w WeightOnly) Check() error {
	bits, block := w.sizes()
	if bits != 4 && bits != 8 || block < 16 || block > 256 || block&(block-1) != 0 || w.Accuracy < 0 || w.Accuracy > 4 {
		return &fault.Error{Op: "quantize.weights", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%w: %d bits in blocks of %d, accuracy level %d", ErrConfig, bits, block, w.Accuracy)), Hint: "4 or 8 bits in blocks of 16, 32, 64, 128 or 256 are possible"}
	}
	return nil
}

func (w WeightOnly) sizes() (bits, block int) {
	bits, block = w.Bits, w.Block
	if bits == 0 {
		bits = 4
	}
	if block == 0 {
		block = 32
	}
	return bits, block
}

// Apply gives the changed network; g stays as it is, and its constants must stay readable until the result
// is written.
func (w WeightOnly) Apply(ctx context.Context, g *graph.Graph) (*graph.Graph, *WeightReport, error) {
	if err := w.Check(); err != nil {
		return nil, nil, err
	}
	out, _ := g.Clone()
	r := &WeightReport{}
	b := &builder{g: out, names: map[string]bool{}}
	b.collect(out)
	if err := w.graph(ctx, b, out, r); err != nil {
		return nil, nil, err
	}
	if r.Changed == 0 {
		return nil, nil, &fault.Error{Op: "quantize.weights", Err: fault.As(fault.ErrMisuse, fmt.Errorf("no matrix product has constant float32 weights that are large enough")), Hint: "layers that convolve need static quantization"}
	}
	if out.Opset == nil {
		out.Opset = map[string]int{}
	}
	out.Opset["com.microsoft"] = 1
	return out, r, out.Check()
}

func (w WeightOnly) graph(ctx context.Context, b *builder, g *graph.Graph, r *WeightReport) error {
	var nodes []*graph.Node
	for _, n := range g.Nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, sub := range n.Graphs() {
			if err := w.graph(ctx, b, sub, r); err != nil {
				return err
			}
		}
		nodes = append(nodes, n)
		if why := w.refuses(g, n); why != "" {
			if isOp(n, "MatMul", "Gemm") {
				r.Kept = append(r.Kept, Kept{n.Label(), why})
			}
			continue
		}
		nodes = append(nodes, w.change(b, n, r)...)
	}
	g.Nodes = nodes
	return nil
}

// refuses says why a node stays as it is, or nothing.
func (w WeightOnly) refuses(g *graph.Graph, n *graph.Node) string {
	if !isOp(n, "MatMul", "Gemm") {
		return "no product"
	}
	v := n.Input(1)
	least := w.Least
	if least == 0 {
		least = 4096
	}
	for _, p := range w.Keep {
		if ok, _ := path.Match(p, n.Name); ok {
			return "asked for"
		}
	}
	switch {
	case v == nil || v.Const == nil || slices.Contains(g.Inputs, v):
		return "both sides are activations"
	case v.Const.Type != graph.Float32 || v.Const.Fill != nil:
		return fmt.Sprintf("weights are %s", v.Const.Type)
	case len(v.Const.Shape) != 2:
		return "weights are no matrix"
	case v.Const.Elems() < least:
		return "small"
	case n.Op == "Gemm" && (n.Int("transA", 0) != 0 || n.Float("alpha", 1) != 1 || n.Float("beta", 1) != 1):
		return "a Gemm with factors, or a transposed input"
	}
	return ""
}

// change makes a node a product of codes; a Gemm's bias is added behind it.
func (w WeightOnly) change(b *builder, n *graph.Node, r *WeightReport) []*graph.Node {
	bits, block := w.sizes()
	v := n.In[1]
	t := v.Const
	m := &blocked{w: t, bits: bits, block: block, asym: w.Asymmetric, outs: t.Shape[1], cols: t.Shape[0], step: t.Shape[1], next: 1}
	if n.Op == "Gemm" && n.Int("transB", 0) != 0 {
		m.outs, m.cols, m.step, m.next = t.Shape[0], t.Shape[1], 1, t.Shape[1]
	}
	m.blocks = (m.cols + block - 1) / block
	codes := m.part(graph.Uint8, func(o *blockedOut) []byte { return o.codes }, m.outs, m.blocks, block*bits/8)
	scales := m.part(graph.Float32, func(o *blockedOut) []byte { return o.scales }, m.outs*m.blocks)
	in := []*graph.Value{n.In[0], b.constant(v.Name+"_q", codes), b.constant(v.Name+"_scale", scales)}
	r.After += int64(m.outs) * int64(m.blocks) * int64(block*bits/8+4)
	if w.Asymmetric {
		zeros := m.part(graph.Uint8, func(o *blockedOut) []byte { return o.zeros }, m.outs*m.zeroBytes())
		in = append(in, b.constant(v.Name+"_zero", zeros))
		r.After += int64(m.outs * m.zeroBytes())
	}
	r.Changed++
	r.Before += int64(4 * t.Elems())
	num := func(v int) graph.Attr { return graph.Attr{Kind: graph.AttrInt, Int: int64(v)} }
	bias, old := n.Input(2), n.Out[0]
	gemm := n.Op == "Gemm"
	n.Op, n.Domain, n.In = "MatMulNBits", "com.microsoft", in
	n.Attrs = map[string]graph.Attr{"K": num(m.cols), "N": num(m.outs), "bits": num(bits), "block_size": num(block)}
	if w.Accuracy != 0 {
		n.Attrs["accuracy_level"] = num(w.Accuracy)
	}
	if !gemm || bias == nil {
		return nil
	}
	y := &graph.Value{Name: b.fresh(old.Name + "_product"), Type: old.Type, Shape: old.Shape}
	n.Out = []*graph.Value{y}
	return []*graph.Node{{Name: b.fresh(n.Name + "_bias"), Op: "Add", In: []*graph.Value{y, bias}, Out: []*graph.Value{old}}}
}

// blocked is a matrix as codes in blocks along the inner dimension.
type blocked struct {
	w                       *graph.Tensor
	bits, block, outs, cols int
	blocks                  int // of an output
	step, next              int // between the weights of an output, and between outputs
	asym                    bool
	mu                      sync.Mutex
	last                    *blockedOut // the band that was made last
}

// blockedOut is a band of outputs, encoded.
type blockedOut struct {
	lo, hi               int
	codes, scales, zeros []byte
}

// blockedBand is the float bytes of a band: what is in memory at a time.
const blockedBand = 16 << 20

// zeroBytes is the size of an output's zero points: packed like codes, whole bytes for each output.
func (m *blocked) zeroBytes() int { return (m.blocks*m.bits + 7) / 8 }

// part is one of the planes as a tensor that is made while it is written.
func (m *blocked) part(typ graph.DType, plane func(o *blockedOut) []byte, shape ...int) *graph.Tensor {
	t := &graph.Tensor{Type: typ, Shape: shape}
	each := typ.Bytes(graph.Elems(shape)) / m.outs // bytes of an output
	t.Fill = func(ctx context.Context, dst []byte, off int64) error {
		for len(dst) > 0 {
			o, err := m.band(ctx, int(off/int64(each)))
			if err != nil {
				return err
			}
			n := copy(dst, plane(o)[off-int64(o.lo*each):])
			dst, off = dst[n:], off+int64(n)
		}
		return nil
	}
	return t
}

// band encodes the outputs around one, unless they were the last ones.
func (m *blocked) band(ctx context.Context, out int) (*blockedOut, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last != nil && m.last.lo <= out && out < m.last.hi {
		return m.last, nil
	}
	size := max(blockedBand/(4*m.cols), 1)
	o := &blockedOut{lo: out / size * size}
	o.hi = min(o.lo+size, m.outs)
	n := o.hi - o.lo
	o.codes, o.scales, o.zeros = make([]byte, n*m.blocks*m.block*m.bits/8), make([]byte, 4*n*m.blocks), make([]byte, n*m.zeroBytes())
	// Weights of [in, out] are read along their rows, which lie one after the other in the file.
	rows := make([]float32, n*m.cols)
	if m.step == 1 {
		m.read(rows, o.lo*m.cols)
	} else {
		err := par.Range(ctx, 0, m.cols, 256, func(_, lo, hi int) error {
			x := make([]float32, n)
			for c := lo; c < hi; c++ {
				m.read(x, c*m.step+o.lo)
				for i, v := range x {
					rows[i*m.cols+c] = v
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if m.w.Drop != nil {
		m.w.Drop()
	}
	err := par.Range(ctx, 0, n, 4, func(_, lo, hi int) error {
		q := make([]int, m.block)
		for i := lo; i < hi; i++ {
			for k := range m.blocks {
				x := rows[i*m.cols+k*m.block : i*m.cols+min((k+1)*m.block, m.cols)]
				s, z, err := encodeBlock(q, x, m.bits, m.asym)
				if err != nil {
					return err
				}
				at := i*m.blocks + k
				bits := math.Float32bits(s)
				for j := range 4 {
					o.scales[4*at+j] = byte(bits >> (8 * j))
				}
				m.put(o.codes[at*m.block*m.bits/8:], q)
				if m.bits == 4 {
					o.zeros[i*m.zeroBytes()+k/2] |= byte(z << (4 * (k % 2)))
				} else {
					o.zeros[i*m.zeroBytes()+k] = byte(z)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.last = o
	return o, nil
}

// read copies weights from element at on. It goes by bytes: those of a mapped file need not be aligned.
func (m *blocked) read(dst []float32, at int) {
	b := m.w.Data[4*at:]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
}

// put packs codes, the first in the low bits.
func (m *blocked) put(dst []byte, q []int) {
	for i, c := range q {
		if m.bits == 8 {
			dst[i] = byte(c)
		} else {
			dst[i/2] |= byte(c << (4 * (i % 2)))
		}
	}
}

// encodeBlock finds the scale, and the zero point where it is free, with the least squared error, and the
// codes: w = (q - z) * s. Codes beyond the end of a short block stand for zero. A block of zeros has scale 0.
func encodeBlock(q []int, x []float32, bits int, asym bool) (scale float32, zero int, err error) {
	top := 1<<bits - 1
	half := 1 << (bits - 1)
	var lo, hi, peak float32
	for _, v := range x {
		if v-v != 0 {
			return 0, 0, fault.ErrNotFinite
		}
		lo, hi = min(lo, v), max(hi, v)
		if max(v, -v) > max(peak, -peak) {
			peak = v
		}
	}
	best := math.Inf(1)
	try := make([]int, len(q))
	consider := func(s float32, z int) {
		if s == 0 || float64(s)-float64(s) != 0 {
			return
		}
		inv := 1 / float64(s)
		var sum, xl, ll float64
		for pass := range 2 { // the second with the scale that fits the codes best
			sum, xl, ll = 0, 0, 0
			for i, v := range x {
				c := min(max(int(math.RoundToEven(float64(v)*inv))+z, 0), top)
				try[i] = c
				l := float64(c - z)
				d := float64(v) - l*float64(s)
				sum += float64(d * d)
				xl += float64(v) * l
				ll += l * l
			}
			if sum < best {
				best, scale, zero = sum, s, z
				copy(q[:len(x)], try)
			}
			if pass == 1 || ll == 0 || xl/ll == 0 {
				break
			}
			s = float32(xl / ll)
			inv = 1 / float64(s)
		}
	}
	zero = half
	for k := range 12 {
		f := 1 - 0.03*float32(k)
		if asym {
			s := (hi - lo) * f / float32(top)
			if s > 0 {
				consider(s, min(max(int(math.RoundToEven(float64(-lo*f/s))), 0), top))
			}
			continue
		}
		// The end with one more code goes to the larger side.
		consider(-peak*f/float32(half), half)
		consider(peak*f/float32(half-1), half)
	}
	if math.IsInf(best, 1) {
		scale, zero = 0, half
	}
	for i := range q {
		if i >= len(x) || scale == 0 {
			q[i] = zero
		}
	}
	return scale, zero, nil
}
