package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// rowFn computes a row of an operator with two inputs. An input of length one goes with every element.
type rowFn[T, R any] func(out []R, a, b []T)

// planRows lays two inputs over each other and computes row by row.
func planRows[T, R any](c *Call, typ graph.DType, cost int, row rowFn[T, R]) (Step, error) {
	a, b := c.Shape(0), secondShape(c)
	shape, err := broadcast(a, b)
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	w, err := newWalk(shape, stretched(a, shape), stretched(b, shape))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	s := Step{Out: []Spec{Out(typ, shape...)}}
	if typ == c.Type(0) {
		for i, in := range [][]int{a, b} {
			if slices.Equal(in, shape) {
				s.InPlace = append(s.InPlace, i)
			}
		}
	}
	rows := w.rows()
	s.Run = func(wk *Worker, in, out []*graph.Tensor) error {
		o, x, y := elems[R](out[0]), elems[T](in[0]), elems[T](in[1])
		switch {
		case len(o) == 0:
		case rows > 1 && (wk.Threads == 1 || len(o)*cost < 2*piece):
			rowsOf(w, 0, rows, o, x, y, row)
		case rows > 1:
			wk.Range(rows, w.n*cost, func(lo, hi int) { rowsOf(w, lo, hi, o, x, y, row) })
		case wk.Threads == 1 || len(o)*cost < 2*piece:
			row(o, part(x, w.inner[0], 0, w.n), part(y, w.inner[1], 0, w.n))
		default:
			wk.Range(w.n, cost, func(lo, hi int) {
				row(o[lo:hi], part(x, w.inner[0], lo, hi), part(y, w.inner[1], lo, hi))
			})
		}
		return nil
	}
	return s, nil
}

// part is elements [lo,hi) of a row, or the one element that goes with all.
func part[T any](x []T, stride, lo, hi int) []T {
	if stride == 0 {
		return x[:1]
	}
	return x[lo:hi]
}

func rowsOf[T, R any](w *walk, lo, hi int, o []R, x, y []T, row rowFn[T, R]) {
	at := w.at(lo)
	for r := lo; r < hi; r++ {
		row(o[r*w.n:(r+1)*w.n], part(x[at.off[0]:], w.inner[0], 0, w.n), part(y[at.off[1]:], w.inner[1], 0, w.n))
		at.next()
	}
}

// secondShape is the shape of input 1. Before version 7 it is laid over input 0 from an axis on where the
// node asks for it.
func secondShape(c *Call) []int {
	b := c.Shape(1)
	if c.Node.Op == "PRelu" && c.Version < 7 && len(b) == 1 { // a slope per channel
		return append(slices.Clone(b), slices.Repeat([]int{1}, max(0, len(c.Shape(0))-2))...)
	}
	if c.Version >= 7 || c.Node.Domain != "" || c.Node.Int("broadcast", 0) == 0 || !c.Node.Has("axis") {
		return b
	}
	axis, err := axisOf(c.Node.Int("axis", 0), len(c.Shape(0)))
	if err != nil {
		return b
	}
	b = slices.Clone(b)
	for axis+len(b) < len(c.Shape(0)) {
		b = append(b, 1)
	}
	return b
}

// Operators with two inputs and results of their type.
type arithOp int

const (
	opAdd arithOp = iota
	opSub
	opMul
	opDiv
	opMax
	opMin
	opMod
	opFmod
	opPow
	opPRelu
	opAnd
	opOr
	opXor
	opShiftLeft
	opShiftRight
)

func arithFloat[T float](op arithOp) rowFn[T, T] {
	switch op {
	case opAdd:
		return addRow[T]
	case opSub:
		return subRow[T]
	case opMul:
		return mulRow[T]
	case opDiv:
		return each(func(a, b T) T { return a / b })
	case opMax:
		return each(func(a, b T) T { return max(a, b) })
	case opMin:
		return each(func(a, b T) T { return min(a, b) })
	case opMod, opFmod:
		return each(func(a, b T) T { return T(math.Mod(float64(a), float64(b))) })
	case opPow:
		return powRow[T]
	case opPRelu:
		return each(pRelu[T])
	}
	return nil
}

func arithInt[T integer](op arithOp) rowFn[T, T] {
	switch op {
	case opAdd:
		return addRow[T]
	case opSub:
		return subRow[T]
	case opMul:
		return mulRow[T]
	case opDiv:
		return each(divInt[T])
	case opMax:
		return each(func(a, b T) T { return max(a, b) })
	case opMin:
		return each(func(a, b T) T { return min(a, b) })
	case opMod:
		return each(modInt[T])
	case opFmod:
		return each(remInt[T])
	case opPow:
		return each(func(a, b T) T { return T(int64(math.Pow(float64(a), float64(b)))) })
	case opPRelu:
		return each(pRelu[T])
	case opAnd:
		return each(func(a, b T) T { return a & b })
	case opOr:
		return each(func(a, b T) T { return a | b })
	case opXor:
		return each(func(a, b T) T { return a ^ b })
	case opShiftLeft:
		return each(func(a, b T) T { return a << uint64(b) })
	case opShiftRight:
		return each(func(a, b T) T { return a >> uint64(b) })
	}
	return nil
}

func addRow[T number](out, a, b []T) {
	switch {
	case len(a) == 1:
		x := a[0]
		for i, y := range b[:len(out)] {
			out[i] = x + y
		}
	case len(b) == 1:
		y := b[0]
		for i, x := range a[:len(out)] {
			out[i] = x + y
		}
	default:
		b = b[:len(out)]
		for i, x := range a[:len(out)] {
			out[i] = x + b[i]
		}
	}
}

func subRow[T number](out, a, b []T) {
	switch {
	case len(a) == 1:
		x := a[0]
		for i, y := range b[:len(out)] {
			out[i] = x - y
		}
	case len(b) == 1:
		y := b[0]
		for i, x := range a[:len(out)] {
			out[i] = x - y
		}
	default:
		b = b[:len(out)]
		for i, x := range a[:len(out)] {
			out[i] = x - b[i]
		}
	}
}

func mulRow[T number](out, a, b []T) {
	switch {
	case len(a) == 1:
		x := a[0]
		for i, y := range b[:len(out)] {
			out[i] = x * y
		}
	case len(b) == 1:
		y := b[0]
		for i, x := range a[:len(out)] {
			out[i] = x * y
		}
	default:
		b = b[:len(out)]
		for i, x := range a[:len(out)] {
			out[i] = x * b[i]
		}
	}
}

// powRow knows the exponents that graphs are full of.
func powRow[T float](out, a, b []T) {
	if len(b) == 1 && len(a) >= len(out) {
		switch b[0] {
		case 2:
			mulRow(out, a, a)
			return
		case 0.5:
			for i, x := range a[:len(out)] {
				out[i] = T(math.Sqrt(float64(x)))
			}
			return
		}
	}
	each(func(x, y T) T { return T(math.Pow(float64(x), float64(y))) })(out, a, b)
}

// each makes a row of a function of two elements. a and b may both have length one when out has.
func each[T, R any](f func(a, b T) R) rowFn[T, R] {
	return func(out []R, a, b []T) {
		switch {
		case len(a) == len(out) && len(b) == len(out):
			for i, x := range a {
				out[i] = f(x, b[i])
			}
		case len(a) == 1:
			x := a[0]
			if len(b) == 1 {
				y := f(x, b[0])
				for i := range out {
					out[i] = y
				}
				return
			}
			for i, y := range b[:len(out)] {
				out[i] = f(x, y)
			}
		default:
			y := b[0]
			for i, x := range a[:len(out)] {
				out[i] = f(x, y)
			}
		}
	}
}

// divInt rounds toward zero. Nothing divided by zero is defined; 0 is what is given.
func divInt[T integer](a, b T) T {
	if b == 0 {
		return 0
	}
	return a / b
}

// modInt has the sign of the divisor.
func modInt[T integer](a, b T) T {
	if b == 0 {
		return 0
	}
	r := a % b
	if r != 0 && (r < 0) != (b < 0) {
		r += b
	}
	return r
}

// remInt has the sign of the dividend.
func remInt[T integer](a, b T) T {
	if b == 0 {
		return 0
	}
	return a % b
}

func pRelu[T number](x, slope T) T {
	if x < 0 {
		return x * slope
	}
	return x
}

// planArith plans an operator for the type of its inputs.
func planArith(c *Call, op arithOp) (Step, error) {
	if c.Type(1) != c.Type(0) {
		return Step{}, c.Fault("types %s and %s", c.Type(0), c.Type(1))
	}
	cost := 2
	if op == opPow || op == opFmod || op == opMod {
		cost = 32
	}
	switch t := c.Type(0); t {
	case graph.Float32:
		if row := arithFloat[float32](op); row != nil {
			return planRows(c, t, cost, row)
		}
	case graph.Float64:
		if row := arithFloat[float64](op); row != nil {
			return planRows(c, t, cost, row)
		}
	case graph.Int8:
		return planRows(c, t, cost, arithInt[int8](op))
	case graph.Int16:
		return planRows(c, t, cost, arithInt[int16](op))
	case graph.Int32:
		return planRows(c, t, cost, arithInt[int32](op))
	case graph.Int64:
		return planRows(c, t, cost, arithInt[int64](op))
	case graph.Uint8:
		return planRows(c, t, cost, arithInt[uint8](op))
	case graph.Uint16:
		return planRows(c, t, cost, arithInt[uint16](op))
	case graph.Uint32:
		return planRows(c, t, cost, arithInt[uint32](op))
	case graph.Uint64:
		return planRows(c, t, cost, arithInt[uint64](op))
	case graph.Bool:
		if op == opAnd || op == opOr || op == opXor {
			return planRows(c, t, cost, arithInt[uint8](op))
		}
	}
	return Step{}, c.Fault("elements of type %s", c.Type(0))
}

func init() {
	for name, op := range map[string]arithOp{
		"Add": opAdd, "Sub": opSub, "Mul": opMul, "Div": opDiv, "PRelu": opPRelu,
		"BitwiseAnd": opAnd, "BitwiseOr": opOr, "BitwiseXor": opXor,
	} {
		register(Op{Name: name, Inputs: 2, Narrow: true, Plan: func(c *Call) (Step, error) { return planArith(c, op) }})
	}
	for name, op := range map[string]arithOp{"And": opAnd, "Or": opOr, "Xor": opXor} {
		register(Op{Name: name, Inputs: 2, Plan: func(c *Call) (Step, error) {
			if c.Type(0) != graph.Bool {
				return Step{}, c.Fault("elements of type %s", c.Type(0))
			}
			return planArith(c, op)
		}})
	}
	register(Op{Name: "Mod", Inputs: 2, Narrow: true, Plan: func(c *Call) (Step, error) {
		if c.Node.Int("fmod", 0) != 0 {
			return planArith(c, opFmod)
		}
		return planArith(c, opMod)
	}})
	register(Op{Name: "BitShift", Inputs: 2, Plan: func(c *Call) (Step, error) {
		switch d := c.Node.Str("direction", ""); d {
		case "LEFT":
			return planArith(c, opShiftLeft)
		case "RIGHT":
			return planArith(c, opShiftRight)
		default:
			return Step{}, c.Fault("direction %q", d)
		}
	}})
	register(Op{Name: "Pow", Inputs: 2, Narrow: true, Plan: planPow})
}

// planPow allows a base and an exponent of two types; the result has that of the base.
func planPow(c *Call) (Step, error) {
	if c.Type(0) == c.Type(1) && c.Type(0).Float() {
		return planArith(c, opPow)
	}
	shape, err := broadcast(c.Shape(0), secondShape(c))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	w, err := newWalk(shape, stretched(c.Shape(0), shape), stretched(secondShape(c), shape))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	row := each(math.Pow)
	a, b, n := round(8*c.Elems(0)), round(8*c.Elems(1)), graph.Elems(shape)
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Scratch: a + b + 8*n, Run: func(wk *Worker, in, out []*graph.Tensor) error {
		wide := func(data []byte, t *graph.Tensor) []float64 {
			d := graph.Tensor{Type: graph.Float64, Shape: t.Shape, Data: data[:8*t.Elems()]}
			recode(&d, t)
			return graph.Of[float64](&d)
		}
		x, y := wide(wk.Scratch, in[0]), wide(wk.Scratch[a:], in[1])
		r := graph.Tensor{Type: graph.Float64, Shape: shape, Data: wk.Scratch[a+b:][:8*n]}
		if n > 0 {
			rowsOf(w, 0, w.rows(), graph.Of[float64](&r), x, y, row)
		}
		recode(out[0], &r)
		return nil
	}}, nil
}
