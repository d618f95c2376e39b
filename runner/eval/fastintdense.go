package eval

import (
	"fmt"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	rules["MatMul"] = (*integers).dense
	rules["Gemm"] = (*integers).dense
}

// codeDense is a product of rows of codes with a constant matrix.
type codeDense struct {
	product
	flatOrder
	rows, in, out int
	packed        *kernels.CodeConv
	windows       kernels.Windows
	items         int
	scratch       int  // of rows that are copied, so that kernels may read behind the last
	dynamic       bool // zero point and scale are inputs 1, which may be left out, and 2
	now           kernels.Factors
	worker        *Worker
	from          []byte
	to            *graph.Tensor
	do            func(worker, item int)
}

// dense makes a step of a product of codes with a constant matrix.
func (u *integers) dense(_ int, s *step) bool {
	x := u.reals[s.in[0]]
	w := u.p.specs[s.in[1]]
	if x == nil || !x.plain || len(w.Shape) != 2 || s.Out[0].Type != graph.Float32 || graph.Elems(s.Out[0].Shape) == 0 || graph.Elems(w.Shape) == 0 {
		return false
	}
	d := &codeDense{in: w.Shape[0], out: w.Shape[1]}
	axis, bias := 1, -1
	if s.node.Op == "Gemm" {
		if s.node.Int("transA", 0) != 0 || s.node.Float("alpha", 1) != 1 || s.node.Float("beta", 1) != 1 {
			return false
		}
		if s.node.Int("transB", 0) != 0 {
			d.in, d.out, axis = d.out, d.in, 0
		}
		bias = s.input(2)
	}
	shape := u.p.specs[s.in[0]].Shape
	if len(shape) == 0 || shape[len(shape)-1] != d.in {
		return false
	}
	d.rows = graph.Elems(shape) / d.in
	d.x = x.codeSlot
	f, ok := u.realWeights(s.in[1], axis, d.out)
	if d.f = f; !ok || !u.complete(&d.product, s.out[0], bias) || !d.pack(s.node, axis) {
		return false
	}
	if u.oneHot(d, s) {
		return true
	}
	u.emit(&d.product, s.node, d)
	return true
}

// pack packs the matrix, whose output channels stand along an axis, and cuts the work.
func (d *codeDense) pack(n *node, axis int) bool {
	d.packed, _ = Once(&Call{node: n}, fmt.Sprint("codes ", d.codes != nil, d.shift != nil), func() (*kernels.CodeConv, error) {
		spec := d.spec()
		spec.Kernel, spec.In, spec.Out, spec.Weights = kernels.Plain(1, 1), d.in, d.out, d.f.codes
		if axis == 1 {
			spec.Weights = make([]int8, len(d.f.codes))
			for i, v := range d.f.codes {
				spec.Weights[i%d.out*d.in+i/d.out] = v
			}
		}
		return n.prog.worker.Kernels.NewCodeConv(spec), nil
	})
	if d.packed == nil {
		return false
	}
	d.windows = d.packed.Windows(0, 0)
	threads := n.prog.worker.Threads
	if d.items = max(1, min(4*threads, d.rows*d.in*d.out/codePiece, (d.rows+11)/12)); threads == 1 {
		d.items = 1
	}
	return true
}

// place finishes the step, which knows where its values lie.
func (d *codeDense) place(f *fast, s *step) {
	d.flatOrder.place(f, s)
	if !d.packed.Whole() {
		d.scratch = round(d.rows*d.in + kernels.Slack)
		s.Scratch = d.scratch
	}
	d.do = d.item
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		d.worker, d.from, d.to = w, in[0].Data, out[0]
		if d.dynamic {
			zero := int32(0)
			if in[1] != nil {
				zero = int32(in[1].Data[0])
			}
			d.packed.Factors(&d.now, zero, elems[float32](in[2])[0])
		}
		if d.scratch > 0 {
			copy(w.Scratch, d.from)
			d.from = w.Scratch
		}
		w.Do(d.items, d.do)
		return nil
	}
}

func (d *codeDense) item(_, item int) {
	cut := func(i int) int {
		if i == d.items {
			return d.rows
		}
		return d.rows * i / d.items / 12 * 12
	}
	lo, hi := cut(item), cut(item+1)
	if lo == hi {
		return
	}
	if d.codes != nil {
		d.packed.Run(kernels.NewImage(d.to.Data[lo*d.out:hi*d.out], 1, hi-lo, d.out), d.from[lo*d.in:], d.windows)
		return
	}
	f := &d.now
	if !d.dynamic {
		f = nil
	}
	d.packed.Floats(kernels.NewImage(elems[float32](d.to)[lo*d.out:hi*d.out], 1, hi-lo, d.out), d.from[lo*d.in:], d.windows, f)
}

// oneHot replaces a product with rows of zeros and a single one, as joinOneHot does: the product of every such row
// is computed once.
func (u *integers) oneHot(d *codeDense, s *step) bool {
	made := func(slot int, op string) *step {
		i, ok := u.maker[slot]
		if !ok || u.readers[slot] != 1 || u.p.steps[i].node.Op != op || u.p.steps[i].open || u.p.steps[i].node.Domain != "" {
			return nil
		}
		return u.p.steps[i]
	}
	dequantize := made(s.in[0], "DequantizeLinear")
	if dequantize == nil {
		return false
	}
	quantize := made(dequantize.in[0], "QuantizeLinear")
	if quantize == nil {
		return false
	}
	cast := made(quantize.in[0], "Cast")
	if cast == nil || u.p.specs[cast.in[0]].Type != graph.Bool {
		return false
	}
	equal := made(cast.in[0], "Equal")
	if equal == nil {
		return false
	}
	index, list := equal.in[0], equal.in[1]
	if !counts(u.p.specs[list], d.in) {
		index, list = list, index
	}
	x := u.p.specs[index]
	if !counts(u.p.specs[list], d.in) || len(x.Shape) == 0 || x.Shape[len(x.Shape)-1] != 1 || graph.Elems(x.Shape) != d.rows || !readsIndex(x.Type) {
		return false
	}
	size := d.out
	if d.codes == nil {
		size *= 4
	}
	table, _ := Once(&Call{node: s.node}, "one hot", func() ([]byte, error) {
		one := byte(codeOf(1/d.x.Scale, float32(d.x.Zero), 0, 255))
		rows := make([]byte, (d.in+1)*d.in+kernels.Slack) // the last one is of no index
		fillBytes(rows, byte(d.x.Zero))
		for i := range d.in {
			rows[i*d.in+i] = one
		}
		t := &graph.Tensor{Type: graph.Float32, Data: graph.Aligned((d.in + 1) * size)}
		if d.codes == nil {
			d.packed.Floats(kernels.NewImage(elems[float32](t), 1, d.in+1, d.out), rows, d.windows, nil)
		} else {
			d.packed.Run(kernels.NewImage(t.Data, 1, d.in+1, d.out), rows, d.windows)
		}
		return t.Data, nil
	})
	u.take(d.steps)
	to, done := d.tail.out, func() {}
	if d.codes != nil {
		to, done = u.makes(to)
	}
	rows, n := d.rows, d.in
	u.add(s.node, []int{index}, []int{to}, flatOrder{}, Step{Run: func(w *Worker, in, out []*graph.Tensor) error {
		w.Range(rows, size/8, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				k, ok := indexAt(in[0], r)
				if !ok || k < 0 || k > n {
					k = n
				}
				copy(out[0].Data[r*size:(r+1)*size], table[k*size:])
			}
		})
		return nil
	}})
	done()
	return true
}
