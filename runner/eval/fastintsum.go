package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	rules["Add"] = (*integers).sum
	rules["Mul"] = (*integers).sum
}

// sum adds or multiplies codes that become codes.
func (u *integers) sum(i int, s *step) bool {
	if u.function(i, s) {
		return true
	}
	if len(s.in) != 2 || s.in[0] == s.in[1] {
		return false
	}
	t := u.tail(s.out[0])
	if t.codes == nil {
		return false
	}
	if bounds := t.kernelCodes(); bounds.Lo != 0 || bounds.Hi != 255 {
		return false
	}
	a, b := u.reals[s.in[0]], u.reals[s.in[1]]
	other := s.in[1]
	if a == nil {
		a, b, other = b, a, s.in[0]
	}
	if a == nil || !a.plain || !slices.Equal(u.p.specs[a.slot].Shape, s.Out[0].Shape) {
		return false
	}
	if b == nil {
		return u.row(s, &t, a, other)
	}
	if !b.plain || !slices.Equal(u.p.specs[b.slot].Shape, s.Out[0].Shape) {
		return false
	}
	op := (*kernels.Set).AddCodes
	if s.node.Op == "Mul" {
		op = (*kernels.Set).MulCodes
	}
	u.take(t.steps)
	to, done := u.makes(t.out)
	x, y, z := a.Affine, b.Affine, *t.codes
	u.add(s.node, []int{a.slot, b.slot}, []int{to}, oneOrder{}, Step{InPlace: []int{0, 1}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		p, q, dst := in[0].Data, in[1].Data, out[0].Data
		w.Range(len(dst), 2, func(lo, hi int) { op(w.Kernels, dst[lo:hi], p[lo:hi], q[lo:hi], z, x, y) })
		return nil
	}})
	done()
	return true
}

// codeRow adds a constant row to rows of codes, or multiplies them with it, through floats that stay near.
type codeRow struct {
	u           *integers
	constant    int // slot
	x, y        kernels.Affine
	product     bool
	row         []float32 // repeated, so that calls are worth it
	block, room int
	worker      *Worker
	from, to    []byte
	items       int
	do          func(worker, item int)
}

// codeRowBlock is about how many numbers are made real at a time.
const codeRowBlock = 2048

// row makes a step of codes and a constant that has a number for every channel, or for every place of the last
// dimension.
func (u *integers) row(s *step, t *tail, a *meaning, constant int) bool {
	k := u.p.specs[constant]
	shape := s.Out[0].Shape
	if !k.Const || k.Type != graph.Float32 || graph.Elems(shape) == 0 {
		return false
	}
	g, image := geometryOf(shape)
	if !(image && ofChannels(k.Shape, shape, g.c)) && !lastOf(k.Shape, shape) {
		return false
	}
	u.take(t.steps)
	to, done := u.makes(t.out)
	r := &codeRow{u: u, constant: constant, x: a.Affine, y: *t.codes, product: s.node.Op == "Mul"}
	u.add(s.node, []int{a.slot}, []int{to}, r, Step{InPlace: []int{0}})
	done()
	return true
}

// lastOf reports whether a shape broadcasts along the last dimension of another alone.
func lastOf(row, shape []int) bool {
	n := graph.Elems(row)
	return len(shape) > 0 && len(row) > 0 && len(row) <= len(shape) && n == row[len(row)-1] && n == shape[len(shape)-1]
}

func (r *codeRow) place(f *fast, s *step) {
	k, shape := f.p.specs[r.constant], s.Out[0].Shape
	g, image := geometryOf(shape)
	s.in = slices.Clone(s.in)
	if channels := image && ofChannels(k.Shape, shape, g.c); channels && (f.pixels[s.in[0]] || !lastOf(k.Shape, shape)) {
		s.in[0] = f.pixel(s.in[0])
		f.mark(s.out[0])
	} else {
		s.in[0] = f.planes(s.in[0])
	}
	v := elems[float32](k.Known)
	if len(v) == 1 {
		v = slices.Repeat(v, g.c)
	}
	r.row = slices.Repeat(v, max(1, codeRowBlock/len(v)))
	n, threads := graph.Elems(shape), s.node.prog.worker.Threads
	if r.items = 1; threads > 1 {
		r.items = max(1, min(4*threads, 2*n/piece))
	}
	r.block = (n/len(v) + r.items - 1) / r.items * len(v)
	r.room = round(4 * len(r.row))
	s.Scratch = r.room * threads
	r.do = r.item
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		r.worker, r.from, r.to = w, in[0].Data, out[0].Data
		w.Do(r.items, r.do)
		return nil
	}
}

func (r *codeRow) item(worker, item int) {
	room := elems[float32](&graph.Tensor{Type: graph.Float32, Data: r.worker.Scratch[worker*r.room:][:4*len(r.row)]})
	set := r.worker.Kernels
	for lo, end := item*r.block, min((item+1)*r.block, len(r.from)); lo < end; lo += len(r.row) {
		hi := min(lo+len(r.row), end)
		v := room[:hi-lo]
		set.Reals(v, r.from[lo:hi], r.x.Scale, r.x.Zero, 0)
		if r.product {
			set.MulTo(v, v, r.row[:hi-lo])
		} else {
			set.AddTo(v, v, r.row[:hi-lo])
		}
		set.Codes(r.to[lo:hi], v, r.y.Scale, r.y.Zero, 0)
	}
}
