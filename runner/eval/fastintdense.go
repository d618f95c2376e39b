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
	sharing
	packed  []*kernels.CodeConv // of so many columns each, the last of the rest
	windows kernels.Windows
	rowwise                   // what becomes of floats
	scratch int               // bytes of rows that are copied, so that kernels may read behind the last
	room    int               // and of a worker's floats that become codes
	dynamic bool              // zero point and scale are inputs 1, which may be left out, and 2
	now     []kernels.Factors // of the parts, then
	worker  *Worker
	from    []byte
	to      *graph.Tensor
	do      func(worker, item int)
}

// dense makes a step of a product of codes with a constant matrix.
func (u *integers) dense(_ int, s *step) bool {
	x := u.reals[s.in[0]]
	w := u.p.specs[s.in[1]]
	if x == nil || !x.plain || len(w.Shape) != 2 || s.Out[0].Type != graph.Float32 || graph.Elems(s.Out[0].Shape) == 0 || graph.Elems(w.Shape) == 0 {
		return false
	}
	d := &codeDense{sharing: sharing{in: w.Shape[0], out: w.Shape[1]}}
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
	if d.f = f; !ok || !u.complete(&d.product, s.out[0], bias) {
		return false
	}
	index, hot := u.hotIndex(d, s)
	if !hot {
		u.follow(&d.product, &d.rowwise, d.out, true)
	}
	if !d.pack(s.node, axis) {
		return false
	}
	if hot {
		u.oneHot(d, s, index)
		return true
	}
	if d.last != nil {
		u.take(d.steps)
		to, done := u.makes(d.tail.out)
		u.add(s.node, []int{d.x.slot}, []int{to}, d, Step{})
		done()
		return true
	}
	u.emit(&d.product, s.node, d)
	return true
}

// pack packs the matrix, whose output channels stand along an axis, and cuts the work.
func (d *codeDense) pack(n *node, axis int) bool {
	threads := n.prog.worker.Threads
	d.cols = denseCols(d.in, d.out, threads)
	d.packed, _ = Once(&Call{node: n}, fmt.Sprint("codes ", d.codes != nil, d.shift != nil), func() ([]*kernels.CodeConv, error) {
		spec := d.spec()
		weights := d.f.codes
		if axis == 1 {
			weights = make([]int8, len(d.f.codes))
			for i, v := range d.f.codes {
				weights[i%d.out*d.in+i/d.out] = v
			}
		}
		var list []*kernels.CodeConv
		for lo := 0; lo < d.out; lo += d.cols {
			hi := min(lo+d.cols, d.out)
			part := spec
			part.Kernel, part.In, part.Out, part.Weights = kernels.Plain(1, 1), d.in, hi-lo, weights[lo*d.in:hi*d.in]
			part.Scale, part.Bias, part.Shift = spec.Scale[lo:hi], cutOf(spec.Bias, lo, hi), cutOf(spec.Shift, lo, hi)
			c := n.prog.worker.Kernels.NewCodeConv(part)
			if c == nil {
				return nil, nil
			}
			list = append(list, c)
		}
		return list, nil
	})
	if d.packed == nil {
		return false
	}
	d.windows = d.packed[0].Windows(0, 0)
	d.cut(len(d.packed), threads, codePiece)
	return true
}

// cutOf is a part of a list that may be missing.
func cutOf[T any](x []T, lo, hi int) []T {
	if x == nil {
		return nil
	}
	return x[lo:hi]
}

// place finishes the step, which knows where its values lie.
func (d *codeDense) place(f *fast, s *step) {
	d.flatOrder.place(f, s)
	if !d.packed[0].Whole() {
		d.scratch = round(d.rows*d.in + kernels.Slack)
	}
	if d.last != nil {
		d.room = round(4 * d.band * min(d.parts*d.cols, d.out))
	}
	s.Scratch = d.scratch + d.room*s.node.prog.worker.Threads
	d.do, d.now = d.item, make([]kernels.Factors, len(d.packed))
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		d.worker, d.from, d.to = w, in[0].Data, out[0]
		if d.dynamic {
			zero := int32(0)
			if in[1] != nil {
				zero = int32(in[1].Data[0])
			}
			for i, p := range d.packed {
				p.Factors(&d.now[i], zero, elems[float32](in[2])[0])
			}
		}
		if d.scratch > 0 {
			copy(w.Scratch, d.from)
			d.from = w.Scratch[:d.scratch]
		}
		w.Do(d.items, d.do)
		return nil
	}
}

func (d *codeDense) item(worker, item int) {
	lo, hi, first, last, from, to := d.share(item, len(d.packed))
	x := d.from[lo*d.in:]
	if d.codes != nil {
		y := kernels.NewImage(d.to.Data[lo*d.out:hi*d.out], 1, hi-lo, d.out)
		for i, p := range d.packed[first:last] {
			c := from + i*d.cols
			p.Run(y.Channels(c, min(c+d.cols, d.out)), x, d.windows)
		}
		return
	}
	var y kernels.Image
	if d.last == nil {
		y = kernels.NewImage(elems[float32](d.to)[lo*d.out:hi*d.out], 1, hi-lo, d.out).Channels(from, to)
	} else {
		room := d.worker.Scratch[d.scratch+worker*d.room:][:d.room]
		y = kernels.NewImage(elems[float32](&graph.Tensor{Type: graph.Float32, Data: room}), 1, hi-lo, to-from)
	}
	for i, p := range d.packed[first:last] {
		c := i * d.cols
		var f *kernels.Factors
		if d.dynamic {
			f = &d.now[first+i]
		}
		p.Floats(y.Channels(c, min(c+d.cols, to-from)), x, d.windows, f)
	}
	for r := lo; r < hi && (len(d.then) > 0 || d.last != nil); r++ {
		row := y.Data[(r-lo)*y.Pixel:][:to-from]
		for _, fn := range d.then {
			fn(d.worker.Kernels, row, from)
		}
		if d.last != nil {
			d.worker.Kernels.Codes(d.to.Data[r*d.out+from:r*d.out+to], row, d.last.Scale, d.last.Zero, 0)
		}
	}
}

// each calls fn with every part and its columns.
func (d *codeDense) each(fn func(p *kernels.CodeConv, lo, hi int)) {
	for i, p := range d.packed {
		fn(p, i*d.cols, min((i+1)*d.cols, d.out))
	}
}

// hotIndex finds the index that rows of zeros and a single one were made of, as joinOneHot does.
func (u *integers) hotIndex(d *codeDense, s *step) (index int, ok bool) {
	made := func(slot int, op string) *step {
		i, ok := u.maker[slot]
		if !ok || u.readers[slot] != 1 || u.p.steps[i].node.Op != op || u.p.steps[i].open || u.p.steps[i].node.Domain != "" {
			return nil
		}
		return u.p.steps[i]
	}
	dequantize := made(s.in[0], "DequantizeLinear")
	if dequantize == nil {
		return 0, false
	}
	quantize := made(dequantize.in[0], "QuantizeLinear")
	if quantize == nil {
		return 0, false
	}
	cast := made(quantize.in[0], "Cast")
	if cast == nil || u.p.specs[cast.in[0]].Type != graph.Bool {
		return 0, false
	}
	equal := made(cast.in[0], "Equal")
	if equal == nil {
		return 0, false
	}
	index, list := equal.in[0], equal.in[1]
	if !counts(u.p.specs[list], d.in) {
		index, list = list, index
	}
	x := u.p.specs[index]
	if !counts(u.p.specs[list], d.in) || len(x.Shape) == 0 || x.Shape[len(x.Shape)-1] != 1 || graph.Elems(x.Shape) != d.rows || !readsIndex(x.Type) {
		return 0, false
	}
	return index, true
}

// oneHot replaces a product with such rows: that of each is computed once.
func (u *integers) oneHot(d *codeDense, s *step, index int) {
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
			d.each(func(p *kernels.CodeConv, lo, hi int) {
				p.Floats(kernels.NewImage(elems[float32](t), 1, d.in+1, d.out).Channels(lo, hi), rows, d.windows, nil)
			})
		} else {
			d.each(func(p *kernels.CodeConv, lo, hi int) {
				p.Run(kernels.NewImage(t.Data, 1, d.in+1, d.out).Channels(lo, hi), rows, d.windows)
			})
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
}
