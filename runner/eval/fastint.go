package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

// Quantized graphs say what integer processors compute in floats: codes are made real, an operator works on
// them, and the result becomes codes again. What follows replaces that by steps that stay among the codes:
// products add up integers exactly; what moves values moves codes; and what works number by number on the 256
// numbers that codes can stand for is a table of 256.
//
// Products differ from the declared floats by the rounding of these, so by a code at most and seldom; all else is
// the same numbers. Inside, codes are unsigned: signed ones have a twin with the highest bit turned over.

// codeSlot is a value of unsigned codes.
type codeSlot struct {
	slot int
	kernels.Affine
}

// meaning is a value of floats that is a function of codes.
type meaning struct {
	codeSlot
	table *[256]float32
	plain bool // what the codes stand for
	made  bool // there is a step that makes the floats
}

// integers is the pass over a plan.
type integers struct {
	p       *plan
	steps   []*step     // after the pass
	readers []int       // by slot, many where it must be there
	reader  []int       // by slot: the index of the last step that reads it
	maker   map[int]int // by slot: the index of the step that makes it
	reals   map[int]*meaning
	folded  map[int]*node // by slot of a constant: the node that made it real
	twins   map[int]int
	gone    []bool
	later   map[int][]func() // by index of step: what is appended in its place
}

// rules has, for operators, what makes steps on codes of them. A rule appends the steps and returns true, or leaves
// all as it was.
var rules = map[string]func(u *integers, i int, s *step) bool{}

// integers runs the pass. It does nothing to a plan without codes.
func (p *plan) integers() {
	u := &integers{
		p: p, readers: make([]int, len(p.specs)), reader: make([]int, len(p.specs)),
		maker: map[int]int{}, reals: map[int]*meaning{}, folded: map[int]*node{}, twins: map[int]int{}, gone: make([]bool, len(p.steps)),
		later: map[int][]func(){},
	}
	found := false
	for _, s := range p.steps {
		found = found || s.node.Op == "DequantizeLinear" || rules[s.node.Op] != nil && s.node.Op != "QuantizeLinear" && integerOps[s.node.Op]
	}
	if !found {
		return
	}
	for _, n := range p.code.nodes {
		if n.Op == "DequantizeLinear" && n.out[0] >= 0 && p.specs[n.out[0]].Const {
			u.folded[n.out[0]] = n
		}
	}
	for i, s := range p.steps {
		for _, slot := range s.in {
			if slot >= 0 {
				u.readers[slot]++
				u.reader[slot] = i
			}
		}
		for _, slot := range s.node.reads {
			u.readers[slot] = many
		}
		for _, slot := range s.out {
			u.maker[slot] = i
		}
	}
	for _, slot := range p.code.outputs {
		u.readers[slot] = many
	}
	for i, s := range p.steps {
		for _, add := range u.later[i] {
			add()
		}
		if u.gone[i] {
			continue
		}
		if rule := rules[s.node.Op]; rule != nil && !s.open && s.Values == nil && (s.node.Domain == "" || s.node.Domain == msDomain) && rule(u, i, s) {
			continue
		}
		for _, slot := range s.in {
			u.need(slot)
		}
		for _, slot := range s.node.reads {
			u.need(slot)
		}
		u.steps = append(u.steps, s)
	}
	for _, slot := range p.code.outputs {
		u.need(slot)
	}
	p.steps = u.steps
	p.prune()
	u.pairs()
}

// integerOps are the operators that compute with codes though no DequantizeLinear is near.
var integerOps = map[string]bool{}

// add appends a step of a node with another function.
func (u *integers) add(n *node, in, out []int, how placer, st Step) *step {
	st.Out = nil
	for _, o := range out {
		st.Out = append(st.Out, u.p.specs[o])
	}
	s := &step{node: n, in: in, out: out, fast: how, Step: st}
	u.steps = append(u.steps, s)
	return s
}

// slot makes room for codes of a shape.
func (u *integers) slot(shape []int) int {
	u.p.specs = append(u.p.specs, Out(graph.Uint8, shape...))
	u.readers, u.reader = append(u.readers, 0), append(u.reader, 0)
	return len(u.p.specs) - 1
}

// need makes the floats of a slot when they are a function of codes.
func (u *integers) need(slot int) {
	r := u.reals[slot]
	if r == nil || r.made {
		return
	}
	r.made = true
	n := u.p.nodeOf(slot)
	if r.plain {
		u.add(n, []int{r.slot}, []int{slot}, sameOrder{}, Step{Run: func(w *Worker, in, out []*graph.Tensor) error {
			x, y := in[0].Data, elems[float32](out[0])
			w.Range(len(x), 1, func(lo, hi int) { w.Kernels.Reals(y[lo:hi], x[lo:hi], r.Scale, r.Zero, 0) })
			return nil
		}})
		return
	}
	u.add(n, []int{r.slot}, []int{slot}, sameOrder{}, Step{Run: func(w *Worker, in, out []*graph.Tensor) error {
		x, y := in[0].Data, elems[float32](out[0])
		w.Range(len(x), 2, func(lo, hi int) { w.Kernels.Lookup(y[lo:hi], x[lo:hi], r.table) })
		return nil
	}})
}

// nodeOf is the node that makes a slot, or the first one.
func (p *plan) nodeOf(slot int) *node {
	for _, n := range p.code.nodes {
		if slices.Contains(n.out, slot) {
			return n
		}
	}
	return p.code.nodes[0]
}

// unsigned is the slot of unsigned codes for one of codes.
func (u *integers) unsigned(slot int) int {
	if u.p.specs[slot].Type == graph.Uint8 {
		return slot
	}
	t, ok := u.twins[slot]
	if !ok {
		t = u.slot(u.p.specs[slot].Shape)
		u.twins[slot] = t
		u.turn(slot, t)
	}
	return t
}

// makes is the slot of unsigned codes that the next step, which done ends, writes in place of a slot of codes.
func (u *integers) makes(slot int) (to int, done func()) {
	if u.p.specs[slot].Type == graph.Uint8 {
		return slot, func() {}
	}
	to = u.slot(u.p.specs[slot].Shape)
	u.twins[slot] = to
	return to, func() { u.turn(to, slot) }
}

// turn makes signed codes of unsigned ones, or these of them. It vanishes where nobody reads them.
func (u *integers) turn(from, to int) {
	u.add(u.p.nodeOf(from), []int{from}, []int{to}, sameOrder{}, Step{InPlace: []int{0}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		x, y := in[0].Data, out[0].Data
		w.Range(len(x), 1, func(lo, hi int) {
			for i, v := range x[lo:hi] {
				y[lo+i] = v ^ kernels.Signed
			}
		})
		return nil
	}})
}

// affine reads constant parameters of codes: a scale, and a zero point that is moved to unsigned codes.
func (u *integers) affine(typ graph.DType, scale, zero int) (a kernels.Affine, ok bool) {
	s := u.p.specs[scale]
	if typ != graph.Uint8 && typ != graph.Int8 || !s.Const || s.Type != graph.Float32 || graph.Elems(s.Shape) != 1 {
		return a, false
	}
	a.Scale = elems[float32](s.Known)[0]
	if typ == graph.Int8 {
		a.Zero = kernels.Signed
	}
	if zero >= 0 && u.p.specs[zero].Type != graph.Undefined {
		z := u.p.specs[zero]
		if !z.Const || z.Type != typ || graph.Elems(z.Shape) != 1 {
			return a, false
		}
		a.Zero = int32(z.Known.Data[0])
		if typ == graph.Int8 {
			a.Zero ^= kernels.Signed
		}
	}
	return a, a.Scale > 0 && !math.IsInf(float64(a.Scale), 1)
}

// input is input k of a step, -1 when it is left out.
func (s *step) input(k int) int {
	if k < len(s.in) {
		return s.in[k]
	}
	return -1
}

// quantizer is a QuantizeLinear to codes with constant parameters.
func (u *integers) quantizer(s *step) (a kernels.Affine, ok bool) {
	if s.node.Op != "QuantizeLinear" || s.open || s.Values != nil || len(s.Out) != 1 || len(s.in) < 2 || u.p.specs[s.in[0]].Type != graph.Float32 {
		return a, false
	}
	return u.affine(s.Out[0].Type, s.in[1], s.input(2))
}

// only is the step that alone reads a slot.
func (u *integers) only(slot int) (int, *step) {
	if slot < 0 || u.readers[slot] != 1 {
		return 0, nil
	}
	i := u.reader[slot]
	if s := u.p.steps[i]; !u.gone[i] && !s.open && s.Values == nil {
		return i, s
	}
	return 0, nil
}

// tail is what becomes of the floats that an operator makes: bounds, then codes if it has any.
type tail struct {
	lo, hi float32
	codes  *kernels.Affine
	out    int   // slot that is written
	steps  []int // that are part of it
}

// tail follows the floats of a slot to the codes that they become. Bounds without codes are left to others.
func (u *integers) tail(slot int) tail {
	t := tail{lo: float32(math.Inf(-1)), hi: float32(math.Inf(1)), out: slot}
	for at := slot; ; {
		i, s := u.only(at)
		if s == nil || s.in[0] != at {
			return tail{lo: float32(math.Inf(-1)), hi: float32(math.Inf(1)), out: slot}
		}
		t.steps = append(t.steps, i)
		if a, ok := u.quantizer(s); ok {
			t.codes, t.out = &a, s.out[0]
			return t
		}
		switch s.node.Op {
		case "Relu":
			t.lo = max(t.lo, 0)
		case "Clip":
			lo, hi, ok := u.bounds(s)
			if !ok {
				return tail{lo: float32(math.Inf(-1)), hi: float32(math.Inf(1)), out: slot}
			}
			t.lo, t.hi = min(max(t.lo, lo), hi), max(min(t.hi, hi), lo)
		default:
			return tail{lo: float32(math.Inf(-1)), hi: float32(math.Inf(1)), out: slot}
		}
		at = s.out[0]
	}
}

// bounds are those of a Clip.
func (u *integers) bounds(s *step) (lo, hi float32, ok bool) {
	f := &fast{p: u.p}
	return clipBounds(f, s)
}

// kernelCodes is how kernels make codes of sums.
func (t *tail) kernelCodes() *kernels.Codes {
	cut := func(v float32) uint8 {
		v = float32(math.RoundToEven(float64(v/t.codes.Scale))) + float32(t.codes.Zero)
		return uint8(min(max(v, 0), 255))
	}
	return &kernels.Codes{Zero: t.codes.Zero, Lo: cut(t.lo), Hi: cut(t.hi)}
}

// take marks steps as part of another.
func (u *integers) take(steps []int) {
	for _, i := range steps {
		u.gone[i] = true
	}
}

// sameOrder places a step that works number by number: outputs lie as its first input, which lies as it may.
type sameOrder struct{}

func (sameOrder) place(f *fast, s *step) {
	if slot := s.in[0]; f.pixels[slot] {
		for _, o := range s.out {
			f.mark(o)
		}
	}
}

// flatOrder places a step that wants its inputs as the graph has them.
type flatOrder struct{}

func (flatOrder) place(f *fast, s *step) {
	s.in = slices.Clone(s.in)
	for k, slot := range s.in {
		if slot >= 0 {
			s.in[k] = f.planes(slot)
		}
	}
}

// oneOrder places a step that works number by number on values of one shape.
type oneOrder struct{}

func (oneOrder) place(f *fast, s *step) {
	if !f.anyPixels(s) {
		return
	}
	s.in = slices.Clone(s.in)
	for k, slot := range s.in {
		s.in[k] = f.pixel(slot)
	}
	f.mark(s.out[0])
}
