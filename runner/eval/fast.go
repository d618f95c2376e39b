package eval

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// What follows makes a plan fast once it is known to be right: operators are joined where one kernel does the
// work of several, and images (float32 tensors [n, channels, height, width] or [n, channels, length]) that pass
// between convolutions, pools and what works number by number lie with their channels together, as the
// kernels want them. Whoever wants planes gets them: values change layout where they must, in a step of
// their own.
//
// Shapes stay what the graph says; only the order of elements in memory is another. A program that shows what
// it computes (Options.Observe) runs as it was planned.

// fast is the pass over a plan.
type fast struct {
	p       *plan
	steps   []*step // after the pass
	readers []int   // by slot: how often steps, bodies and the caller read it; fixed to many where it may not move
	maker   []int   // by slot: the index of the step that makes it, -1 when it comes from outside
	pixels  []bool  // by slot: channels lie together
	other   map[int]int
	gone    []bool // by index of step: part of another one
}

// many is more readers than a value has that may change or vanish.
const many = 1 << 20

func (p *plan) speedUp() {
	p.recognize()
	p.integers()
	f := &fast{
		p: p, readers: make([]int, len(p.specs)), maker: make([]int, len(p.specs)),
		pixels: make([]bool, len(p.specs)), other: map[int]int{}, gone: make([]bool, len(p.steps)),
	}
	for i := range f.maker {
		f.maker[i] = -1
	}
	worth := false
	for i, s := range p.steps {
		for _, slot := range s.in {
			if slot >= 0 {
				f.readers[slot]++
			}
		}
		for _, slot := range s.node.reads {
			f.readers[slot] = many
		}
		for _, slot := range s.out {
			if slot >= 0 {
				f.maker[slot] = i
			}
		}
		worth = worth || s.fast != nil || !s.open && joins[s.node.Op] != nil && s.node.Domain == ""
	}
	if !worth {
		return
	}
	for _, slot := range p.code.outputs {
		f.readers[slot] = many
	}
	joined := slices.Clone(p.steps) // what stands in the place of a step
	for i, s := range p.steps {
		if f.gone[i] || joined[i] != s || s.fast != nil || s.open || s.Values != nil || s.node.Domain != "" {
			continue
		}
		if join := joins[s.node.Op]; join != nil {
			if t, at := join(f, i, s); t != nil {
				f.gone[i], joined[i] = true, nil
				f.gone[at], joined[at] = false, t
			}
		}
	}
	f.merge(joined)
	for i, s := range joined {
		if s != nil && !f.gone[i] {
			f.place(s)
		}
	}
	for _, slot := range p.code.outputs {
		switch {
		case !f.pixels[slot]:
		case p.watching(): // whoever looks is told
			if p.pixels == nil {
				p.pixels = map[int]bool{}
			}
			p.pixels[slot] = true
		default:
			f.rename(slot)
		}
	}
	p.steps = f.steps
}

// joins has, for operators that are better run together with what follows or by another kernel, the function
// that makes that step; it is told the index and returns the index at which the new step stands. A nil
// step leaves all as it was.
var joins = map[string]func(f *fast, i int, s *step) (*step, int){}

// layouts has the operators that can work on pixels.
var layouts = map[string]func(f *fast, s *step) bool{}

// place appends a step, and before it changes of layout where it wants another.
func (f *fast) place(s *step) {
	if s.fast != nil {
		s.fast.place(f, s)
		f.steps = append(f.steps, s)
		return
	}
	open := s.open || s.Values != nil || len(s.node.reads) > 0
	if !open && s.node.Domain == "" && f.anyPixels(s) {
		if l := layouts[s.node.Op]; l != nil && l(f, s) {
			f.steps = append(f.steps, s)
			return
		}
	}
	s.in = slices.Clone(s.in)
	for k, slot := range s.in {
		if slot >= 0 && f.pixels[slot] {
			s.in[k] = f.planes(slot)
		}
	}
	for _, slot := range s.node.reads {
		if f.pixels[slot] {
			f.rename(slot)
		}
	}
	f.steps = append(f.steps, s)
}

func (f *fast) anyPixels(s *step) bool {
	return slices.ContainsFunc(s.in, func(slot int) bool { return slot >= 0 && f.pixels[slot] })
}

// geometry is the sizes of an image, of floats or of codes; ok says that the value is one.
type geometry struct{ n, h, w, c int }

func (f *fast) geometry(slot int) (g geometry, ok bool) {
	if slot < 0 || f.p.specs[slot].Later {
		return g, false
	}
	switch f.p.specs[slot].Type {
	case graph.Float32, graph.Uint8, graph.Int8:
		return geometryOf(f.p.specs[slot].Shape)
	}
	return g, false
}

func geometryOf(shape []int) (g geometry, ok bool) {
	switch len(shape) {
	case 3:
		return geometry{shape[0], 1, shape[2], shape[1]}, true
	case 4:
		return geometry{shape[0], shape[2], shape[3], shape[1]}, true
	}
	return g, false
}

func (g geometry) pixels() int { return g.h * g.w }

// same reports whether both layouts are the same bytes.
func (g geometry) same() bool { return g.c == 1 || g.h*g.w == 1 }

// mark says that a value is made as pixels.
func (f *fast) mark(slot int) {
	if g, ok := f.geometry(slot); ok && !g.same() {
		f.pixels[slot] = true
	}
}

// slot makes room for another value of the same shape.
func (f *fast) slot(like int) int {
	f.p.specs = append(f.p.specs, Out(f.p.specs[like].Type, f.p.specs[like].Shape...))
	f.pixels = append(f.pixels, false)
	return len(f.p.specs) - 1
}

// planes is the slot in which an image lies as planes; pixel is the reverse.
func (f *fast) planes(slot int) int {
	if slot < 0 || !f.pixels[slot] {
		return slot
	}
	o, ok := f.other[slot]
	if !ok {
		o = f.slot(slot)
		f.convert(slot, o, false)
	}
	return o
}

func (f *fast) pixel(slot int) int {
	g, ok := f.geometry(slot)
	if !ok || g.same() || f.pixels[slot] {
		return slot
	}
	o, ok := f.other[slot]
	if !ok {
		o = f.slot(slot)
		f.pixels[o] = true
		f.convert(slot, o, true)
	}
	return o
}

func (f *fast) convert(from, to int, toPixels bool) {
	f.other[from], f.other[to] = to, from
	g, _ := f.geometry(from)
	f.steps = append(f.steps, &step{
		node: f.nodeOf(from), in: []int{from}, out: []int{to},
		Step: Step{Out: []Spec{f.p.specs[to]}, Run: turn(g, toPixels)},
	})
}

// nodeOf is the node whose name errors of a value's step bear.
func (f *fast) nodeOf(slot int) *node {
	if slot < len(f.maker) && f.maker[slot] >= 0 {
		return f.p.steps[f.maker[slot]].node
	}
	return f.p.steps[0].node
}

// rename lets a value that was made as pixels, and that others know by its slot, lie there as planes: its
// maker is given another slot.
func (f *fast) rename(slot int) {
	o := f.slot(slot)
	f.pixels[o], f.pixels[slot] = true, false
	for _, s := range f.steps {
		if k := slices.Index(s.out, slot); k >= 0 {
			s.out = slices.Clone(s.out)
			s.out[k] = o
		}
		if slices.Contains(s.in, slot) {
			s.in = slices.Clone(s.in)
			for k, in := range s.in {
				if in == slot {
					s.in[k] = o
				}
			}
		}
	}
	if old, ok := f.other[slot]; ok { // the planes that others asked for serve as well
		delete(f.other, slot)
		f.other[old], f.other[o] = o, old
	}
	g, _ := f.geometry(slot)
	f.steps = append(f.steps, &step{
		node: f.nodeOf(slot), in: []int{o}, out: []int{slot},
		Step: Step{Out: []Spec{f.p.specs[slot]}, Run: turn(g, false)},
	})
}

// only reports whether step i alone makes a value and one step alone reads it, and which.
func (f *fast) only(slot, after int) (int, bool) {
	if slot < 0 || f.readers[slot] != 1 {
		return 0, false
	}
	for i := after + 1; i < len(f.p.steps); i++ {
		if slices.Contains(f.p.steps[i].in, slot) {
			s := f.p.steps[i]
			return i, !f.gone[i] && s.fast == nil && !s.open && s.Values == nil && s.node.Domain == ""
		}
	}
	return 0, false
}

// ready reports whether a value is there when step i runs.
func (f *fast) ready(slot, i int) bool { return f.maker[slot] < i }

// constant is the value of a slot when it is the same in every plan.
func (f *fast) constant(slot int) []float32 {
	if slot < 0 {
		return nil
	}
	s := f.p.specs[slot]
	if !s.Const || s.Type != graph.Float32 {
		return nil
	}
	return elems[float32](s.Known)
}

// turn changes the layout of an image.
func turn(g geometry, toPixels bool) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	px := g.pixels()
	return func(w *Worker, in, out []*graph.Tensor) error {
		if in[0].Type != graph.Float32 {
			turnCodes(w, out[0].Data, in[0].Data, g, toPixels)
			return nil
		}
		x, y := elems[float32](in[0]), elems[float32](out[0])
		for n := range g.n {
			from, to := x[n*px*g.c:(n+1)*px*g.c], y[n*px*g.c:(n+1)*px*g.c]
			if toPixels {
				w.transpose(to, from, g.c, px)
			} else {
				w.transpose(to, from, px, g.c)
			}
		}
		return nil
	}
}

// turnCodes changes the layout of an image of codes.
func turnCodes(w *Worker, y, x []byte, g geometry, toPixels bool) {
	rows, cols := g.pixels(), g.c
	if toPixels {
		rows, cols = g.c, g.pixels()
	}
	for n := range g.n {
		from, to := x[n*rows*cols:(n+1)*rows*cols], y[n*rows*cols:(n+1)*rows*cols]
		w.Range(cols, 2*rows, func(lo, hi int) {
			for c := lo; c < hi; c++ {
				row := to[c*rows : (c+1)*rows]
				for r := range row {
					row[r] = from[r*cols+c]
				}
			}
		})
	}
}
