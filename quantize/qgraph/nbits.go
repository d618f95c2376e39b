package qgraph

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
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
	Keep  Patterns // of nodes that stay float
	// Memory bounds what is held while the network is written, in bytes; 0 is the usual amount.
	Memory int64
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
	if err := w.Keep.check(g); err != nil {
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
	if w.Keep.Match(n) {
		return "asked for"
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
	m := &blocked{w: t, bits: bits, block: block, asym: w.Asymmetric, outs: t.Shape[1], cols: t.Shape[0], step: t.Shape[1], next: 1, memory: w.Memory}
	if m.memory <= 0 {
		m.memory = usualMemory
	}
	if n.Op == "Gemm" && n.Int("transB", 0) != 0 {
		m.outs, m.cols, m.step, m.next = t.Shape[0], t.Shape[1], 1, t.Shape[1]
	}
	m.blocks = (m.cols + block - 1) / block
	codes := m.part(graph.Uint8, true, func(o *blockedOut) []byte { return o.codes }, m.outs, m.blocks, block*bits/8)
	scales := m.part(graph.Float32, false, func(o *blockedOut) []byte { return o.scales }, m.outs*m.blocks)
	in := []*graph.Value{n.In[0], b.constant(v.Name+"_q", codes), b.constant(v.Name+"_scale", scales)}
	r.After += int64(m.outs) * int64(m.blocks) * int64(block*bits/8+4)
	if w.Asymmetric {
		zeros := m.part(graph.Uint8, false, func(o *blockedOut) []byte { return o.zeros }, m.outs*m.zeroBytes())
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
	memory                  int64
	mu                      sync.Mutex
	last                    *blockedOut // the band that was made last
	// Codes come first in a file, then scales, then zero points. Those that come later are kept when the codes
	// are made, where memory suffices: otherwise all is made again for each of them.
	scales, zeros []byte
	kept          int // outputs from the first on whose scales and zero points are kept
}

// blockedOut is a band of outputs, encoded.
type blockedOut struct {
	lo, hi               int
	codes, scales, zeros []byte
}

// usualMemory is taken where no limit is given: a third of it for the floats of a band, another for scales.
const usualMemory = 256 << 20

// bandOuts is the number of outputs of a band. Weights of [in, out] lie a band's width apart from row to row, so a
// band should be a page wide or more.
func (m *blocked) bandOuts() int {
	return int(max(m.memory/3/int64(4*m.cols), 1))
}

// keeps reports whether scales and zero points of all outputs fit into their share of memory.
func (m *blocked) keeps() bool {
	return int64(m.outs)*int64(4*m.blocks+m.zeroBytes()) <= m.memory/3
}

// zeroBytes is the size of an output's zero points: packed like codes, whole bytes for each output.
func (m *blocked) zeroBytes() int { return (m.blocks*m.bits + 7) / 8 }

// part is one of the planes as a tensor that is made while it is written.
func (m *blocked) part(typ graph.DType, codes bool, plane func(o *blockedOut) []byte, shape ...int) *graph.Tensor {
	t := &graph.Tensor{Type: typ, Shape: shape}
	each := typ.Bytes(graph.Elems(shape)) / m.outs // bytes of an output
	t.Fill = func(ctx context.Context, dst []byte, off int64) error {
		for len(dst) > 0 {
			o, err := m.band(ctx, int(off/int64(each)), codes)
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

// band encodes the outputs around one, unless they were the last ones, or all that is wanted of them was kept.
func (m *blocked) band(ctx context.Context, out int, codes bool) (*blockedOut, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !codes && m.kept == m.outs {
		return &blockedOut{hi: m.outs, scales: m.scales, zeros: m.zeros}, nil
	}
	if m.last != nil && m.last.lo <= out && out < m.last.hi {
		return m.last, nil
	}
	m.last = nil // its memory is that of the next
	size := m.bandOuts()
	o := &blockedOut{lo: out / size * size}
	o.hi = min(o.lo+size, m.outs)
	n := o.hi - o.lo
	o.codes, o.scales, o.zeros = make([]byte, n*m.blocks*m.block*m.bits/8), make([]byte, 4*n*m.blocks), make([]byte, n*m.zeroBytes())
	rows, err := m.floats(ctx, o.lo, n)
	if err != nil {
		return nil, err
	}
	err = par.Range(ctx, 0, n, 4, func(_, lo, hi int) error {
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
	if m.keeps() && o.lo == m.kept {
		m.scales, m.zeros, m.kept = append(m.scales, o.scales...), append(m.zeros, o.zeros...), o.hi
	}
	return o, nil
}

// dropEvery is how many rows of a mapped file are read before its pages are given back: the system maps up to 64 KiB
// around each that is touched, and they may take an eighth of the memory.
func (m *blocked) dropEvery() int {
	return min(512, max(1, int(m.memory/8>>16)/readTile)*readTile)
}

// readTile is how many rows are turned together: a cache line of the result.
const readTile = 16

// floats reads the weights of n outputs, one after the other.
func (m *blocked) floats(ctx context.Context, lo, n int) ([]float32, error) {
	rows := make([]float32, n*m.cols)
	if m.step == 1 {
		m.read(rows, lo*m.cols)
		m.drop()
		return rows, nil
	}
	const tile = readTile
	every := m.dropEvery()
	for from := 0; from < m.cols; from += every {
		to := min(from+every, m.cols)
		err := par.Range(ctx, 0, (to-from+tile-1)/tile, 2, func(_, first, last int) error {
			x := make([]float32, tile*n)
			for c := from + first*tile; c < min(from+last*tile, to); c += tile {
				high := min(tile, to-c)
				for k := range high {
					m.read(x[k*n:(k+1)*n], (c+k)*m.step+lo)
				}
				for i := range n {
					y := rows[i*m.cols+c : i*m.cols+c+high]
					for k := range y {
						y[k] = x[k*n+i]
					}
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		m.drop()
	}
	return rows, nil
}

// drop gives pages of a mapped file back.
func (m *blocked) drop() {
	if m.w.Drop != nil {
		m.w.Drop()
	}
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

// maxBlock is the most weights that share a scale, and rounder what rounds float64 by addition.
const (
	maxBlock = 256
	rounder  = 3 << 51
)

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
	var wide, try, levels [maxBlock]float64 // in float64; codes without their zero point, tried and best
	for i, v := range x {
		wide[i] = float64(v)
	}
	consider := func(s float32, z int) {
		if s == 0 || float64(s)-float64(s) != 0 {
			return
		}
		least, most := float64(-z), float64(top-z)
		for pass := range 2 { // the second with the scale that fits the codes best
			inv, step := 1/float64(s), float64(s)
			var sum, xl, ll float64
			for i, v := range wide[:len(x)] {
				// Adding and taking away 1.5 * 2^52 rounds to the nearest even integer.
				l := float64(v*inv) + rounder - rounder
				if l < least {
					l = least
				} else if l > most {
					l = most
				}
				try[i] = l
				d := v - float64(l*step)
				sum += float64(d * d)
				xl += float64(v * l)
				ll += float64(l * l)
			}
			if sum < best {
				best, scale, zero = sum, s, z
				copy(levels[:], try[:len(x)])
			}
			if pass == 1 || ll == 0 || xl/ll == 0 {
				break
			}
			s = float32(xl / ll)
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
		q[i] = zero
		if i < len(x) && scale != 0 {
			q[i] += int(levels[i])
		}
	}
	return scale, zero, nil
}
