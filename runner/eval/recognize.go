package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// Exporters write some functions in many operators: GELU, attention. Before steps are joined one by one, those
// are found and replaced by one step each.

// seeker looks for what operators mean together.
type seeker struct {
	p     *plan
	maker []int   // by slot: the index of the step that makes it, -1 when it comes from outside
	users [][]int // by slot: indices of the steps that read it, as often as they do; -1 for others
	with  []*step // by index: what stands in the place of a step
}

// idioms has, by the operator that they are recognised by, functions that find what it is the middle of. They
// say which step at which index computes it; others that nobody reads any more go away.
var idioms = map[string]func(f *seeker, i int, s *step) (*step, int){}

// recognize replaces what idioms find.
func (p *plan) recognize() {
	if !slices.ContainsFunc(p.steps, func(s *step) bool { return idioms[s.node.Op] != nil }) {
		return
	}
	f := &seeker{p: p, maker: make([]int, len(p.specs)), users: make([][]int, len(p.specs)), with: slices.Clone(p.steps)}
	for i := range f.maker {
		f.maker[i] = -1
	}
	for i, s := range p.steps {
		for _, slot := range s.in {
			if slot >= 0 {
				f.users[slot] = append(f.users[slot], i)
			}
		}
		for _, slot := range s.node.reads {
			f.users[slot] = append(f.users[slot], -1)
		}
		for _, slot := range s.out {
			if slot >= 0 {
				f.maker[slot] = i
			}
		}
	}
	for _, slot := range p.code.outputs {
		f.users[slot] = append(f.users[slot], -1)
	}
	found := false
	for i, s := range p.steps {
		if idiom := idioms[s.node.Op]; idiom != nil && f.plain(s) && f.with[i] == s {
			if t, at := idiom(f, i, s); t != nil && f.with[at] == p.steps[at] {
				f.with[at], found = t, true
			}
		}
	}
	if found {
		p.steps = f.with
		p.prune()
	}
}

// plain reports whether a step is an operator of ai.onnx that was planned and makes float32.
func (f *seeker) plain(s *step) bool {
	return s != nil && s.fast == nil && !s.open && s.Values == nil && s.node.Domain == "" && len(s.Out) > 0 && len(s.out) > 0 && s.out[0] >= 0 &&
		s.Out[0].Type == graph.Float32 && len(s.in) > 0 && s.in[0] >= 0
}

// made is the step that makes a value by one of these operators, or nil.
func (f *seeker) made(slot int, ops ...string) *step {
	if slot < 0 || f.maker[slot] < 0 {
		return nil
	}
	if s := f.p.steps[f.maker[slot]]; f.plain(s) && s.out[0] == slot && slices.Contains(ops, s.node.Op) {
		return s
	}
	return nil
}

// next is the only step that reads a value, if it is one of these operators, and its index.
func (f *seeker) next(slot int, ops ...string) (*step, int) {
	if slot < 0 || len(f.users[slot]) != 1 || f.users[slot][0] < 0 {
		return nil, 0
	}
	i := f.users[slot][0]
	if s := f.p.steps[i]; f.plain(s) && slices.Contains(ops, s.node.Op) {
		return s, i
	}
	return nil, 0
}

// other is the other one of two inputs, -1 when the value is both.
func other(s *step, slot int) int {
	switch {
	case len(s.in) != 2 || s.in[0] == s.in[1]:
		return -1
	case s.in[0] == slot:
		return s.in[1]
	}
	return s.in[0]
}

// scalar is the value of a constant of one number.
func (f *seeker) scalar(slot int) (float64, bool) {
	if slot < 0 {
		return 0, false
	}
	s := f.p.specs[slot]
	if s.Known == nil || s.Type != graph.Float32 || graph.Elems(s.Shape) != 1 {
		return 0, false
	}
	return float64(elems[float32](s.Known)[0]), true
}

// as is a step of another operator in the place of s.
func as(s *step, op string, attrs map[string]graph.Attr, in []int, run func(*Worker, []*graph.Tensor, []*graph.Tensor) error) *step {
	nd := *s.node
	nd.Node = &graph.Node{Name: s.node.Name, Op: op, Attrs: attrs, Out: s.node.Node.Out}
	nd.once = map[string]any{}
	return &step{node: &nd, in: in, out: s.out, Step: Step{Out: s.Out, Run: run, InPlace: []int{0}}}
}

func init() {
	idioms["Erf"] = findGelu
	idioms["Tanh"] = findGelu
}

// polynom is the coefficients of a polynomial of third degree.
type polynom [4]float64

// polynomial reads a value as a polynomial of x.
func (f *seeker) polynomial(slot, x, depth int) (c polynom, ok bool) {
	if slot == x {
		return polynom{0, 1}, true
	}
	if v, ok := f.scalar(slot); ok {
		return polynom{v}, true
	}
	s := f.made(slot, "Add", "Mul", "Div", "Pow")
	if s == nil || depth == 0 || len(s.in) != 2 {
		return c, false
	}
	a, ok := f.polynomial(s.in[0], x, depth-1)
	b, ok2 := f.polynomial(s.in[1], x, depth-1)
	if !ok || !ok2 {
		return c, false
	}
	number := b == polynom{b[0]}
	switch s.node.Op {
	case "Add":
		for i := range c {
			c[i] = a[i] + b[i]
		}
		return c, true
	case "Div":
		for i := range c {
			c[i] = a[i] / b[0]
		}
		return c, number && b[0] != 0
	case "Pow":
		switch {
		case number && b[0] == 2:
			return multiplied(a, a)
		case number && b[0] == 3:
			if c, ok = multiplied(a, a); ok {
				return multiplied(c, a)
			}
		}
		return c, false
	}
	return multiplied(a, b)
}

func multiplied(a, b polynom) (c polynom, ok bool) {
	for i, v := range a {
		for k, w := range b {
			switch {
			case i+k < len(c):
				c[i+k] += float64(v * w)
			case v*w != 0:
				return c, false
			}
		}
	}
	return c, true
}

// like reports whether coefficients are those of a formula, up to the rounding of float32.
func (c polynom) like(want polynom) bool {
	for i := range c {
		if !(math.Abs(c[i]-want[i]) <= 1e-5*(math.Abs(want[i])+1e-9)) {
			return false
		}
	}
	return true
}

// findGelu finds x/2 (1 + erf(x/sqrt 2)) and the form with tanh, their factors in any order.
func findGelu(f *seeker, _ int, s *step) (*step, int) {
	shifted, at := f.next(s.out[0], "Add")
	if shifted == nil {
		return nil, 0
	}
	if one, ok := f.scalar(other(shifted, s.out[0])); !ok || one != 1 {
		return nil, 0
	}
	// the factors that follow: numbers, and one times x
	last, factor, x := shifted, 1.0, -1
	for x < 0 || factor != 0.5 {
		m, i := f.next(last.out[0], "Mul")
		if m == nil || !slices.Equal(m.Out[0].Shape, s.Out[0].Shape) {
			return nil, 0
		}
		o := other(m, last.out[0])
		if v, ok := f.scalar(o); ok {
			factor *= v
		} else if x >= 0 || o < 0 {
			return nil, 0
		} else {
			x = o
			if h := f.made(o, "Mul"); h != nil && factor == 1 { // x/2
				for k, in := range h.in {
					if v, ok := f.scalar(in); ok && v == 0.5 && len(h.in) == 2 {
						x, factor = h.in[1-k], 0.5
					}
				}
			}
		}
		last, at = m, i
	}
	if f.p.specs[x].Type != graph.Float32 || !slices.Equal(f.p.specs[x].Shape, last.Out[0].Shape) {
		return nil, 0
	}
	inner, ok := f.polynomial(s.in[0], x, 6)
	root := math.Sqrt(2 / math.Pi)
	attrs := map[string]graph.Attr{}
	switch {
	case ok && s.node.Op == "Erf" && inner.like(polynom{0, math.Sqrt2 / 2}):
	case ok && s.node.Op == "Tanh" && inner.like(polynom{0, root, 0, root * 0.044715}):
		attrs["approximate"] = graph.Attr{Kind: graph.AttrString, String: "tanh"}
	default:
		return nil, 0
	}
	t := as(last, "Gelu", attrs, []int{x}, nil)
	act := curveOf(t.node)
	t.Run = func(w *Worker, in, out []*graph.Tensor) error {
		copy(out[0].Data, in[0].Data)
		act(w.Kernels, elems[float32](out[0]))
		return nil
	}
	return t, at
}
