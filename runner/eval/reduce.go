package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// reducer folds numbers into one. A is the accumulator: float64 for floats, so that the order of a sum
// hardly shows, and the type itself for integers.
type reducer[T, A number] struct {
	start  A
	add    func(a A, x T) A
	finish func(a A, n int) T
}

// reduceOp names the reductions.
type reduceOp int

const (
	reduceSum reduceOp = iota
	reduceMean
	reduceMax
	reduceMin
	reduceProd
	reduceL1
	reduceL2
	reduceSumSquare
	reduceLogSum
	reduceLogSumExp
)

func floatReducer[T float](op reduceOp) reducer[T, float64] {
	r := reducer[T, float64]{finish: func(a float64, _ int) T { return T(a) }}
	sum := func(a float64, x T) float64 { return a + float64(x) }
	square := func(a float64, x T) float64 { return a + float64(float64(x)*float64(x)) }
	switch op {
	case reduceSum:
		r.add = sum
	case reduceMean:
		r.add, r.finish = sum, func(a float64, n int) T { return T(a / float64(n)) }
	case reduceMax:
		r.start, r.add = math.Inf(-1), func(a float64, x T) float64 { return max(a, float64(x)) }
	case reduceMin:
		r.start, r.add = math.Inf(1), func(a float64, x T) float64 { return min(a, float64(x)) }
	case reduceProd:
		r.start, r.add = 1, func(a float64, x T) float64 { return a * float64(x) }
	case reduceL1:
		r.add = func(a float64, x T) float64 { return a + math.Abs(float64(x)) }
	case reduceL2:
		r.add, r.finish = square, func(a float64, _ int) T { return T(math.Sqrt(a)) }
	case reduceSumSquare:
		r.add = square
	case reduceLogSum:
		r.add, r.finish = sum, func(a float64, _ int) T { return T(math.Log(a)) }
	}
	return r
}

func intReducer[T integer](op reduceOp) reducer[T, T] {
	r := reducer[T, T]{finish: func(a T, _ int) T { return a }}
	sum := func(a, x T) T { return a + x }
	least, most := bounds[T]()
	switch op {
	case reduceSum:
		r.add = sum
	case reduceMean:
		r.add, r.finish = sum, func(a T, n int) T { return divInt(a, T(n)) }
	case reduceMax:
		r.start, r.add = least, func(a, x T) T { return max(a, x) }
	case reduceMin:
		r.start, r.add = most, func(a, x T) T { return min(a, x) }
	case reduceProd:
		r.start, r.add = 1, func(a, x T) T { return a * x }
	case reduceL1:
		r.add = func(a, x T) T {
			if x < 0 {
				x = -x
			}
			return a + x
		}
	case reduceL2:
		r.add, r.finish = func(a, x T) T { return a + x*x }, func(a T, _ int) T { return T(math.Sqrt(float64(a))) }
	case reduceSumSquare:
		r.add = func(a, x T) T { return a + x*x }
	case reduceLogSum:
		r.add, r.finish = sum, func(a T, _ int) T { return T(math.Log(float64(a))) }
	}
	return r
}

// bounds are the least and the largest number of a type.
func bounds[T integer]() (least, most T) {
	most = ^T(0)
	if most > 0 {
		return 0, most
	}
	// a signed type: all bits but the first
	one := T(1)
	for one<<1 > 0 {
		one <<= 1
	}
	most = one + (one - 1)
	return -most - 1, most
}

// reduction is the dimensions of a reduction: which are kept, which go.
type reduction struct {
	kept, gone *walk
	n          int // numbers that are folded into one
	outs       int
}

// planAxes finds the axes of a Reduce node: an attribute, an input since version 18 (13 for ReduceSum).
func planAxes(c *Call) (axes []int, noop bool, err error) {
	if axes, err = c.IntsOr(1, "axes"); err != nil {
		return nil, false, err
	}
	rank := len(c.Shape(0))
	if len(axes) == 0 {
		if c.Node.Int("noop_with_empty_axes", 0) != 0 {
			return nil, true, nil
		}
		for i := range rank {
			axes = append(axes, i)
		}
	}
	if axes, err = axesOf(axes, rank); err != nil {
		return nil, false, c.Fault("%w", err)
	}
	return axes, false, nil
}

func newReduction(c *Call, axes []int) (*reduction, []int, error) {
	in := c.Shape(0)
	own := strides(in)
	keep := c.Node.Int("keepdims", 1) != 0
	shape := []int{}
	var keptDims, keptSteps, goneDims, goneSteps []int
	for i, d := range in {
		if slices.Contains(axes, i) {
			goneDims, goneSteps = append(goneDims, d), append(goneSteps, own[i])
			if keep {
				shape = append(shape, 1)
			}
			continue
		}
		keptDims, keptSteps = append(keptDims, d), append(keptSteps, own[i])
		shape = append(shape, d)
	}
	r := &reduction{n: graph.Elems(goneDims), outs: graph.Elems(keptDims)}
	var err error
	if r.kept, err = newWalk(keptDims, keptSteps); err != nil {
		return nil, nil, c.Fault("%w", err)
	}
	if r.gone, err = newWalk(goneDims, goneSteps); err != nil {
		return nil, nil, c.Fault("%w", err)
	}
	return r, shape, nil
}

// fold reduces rows [lo,hi) of what is kept.
func fold[T, A number](r *reduction, f reducer[T, A], out, in []T, lo, hi int) {
	kept := r.kept.at(lo)
	for k := lo; k < hi; k++ {
		for i := range r.kept.n {
			base := kept.off[0] + i*r.kept.inner[0]
			a := f.start
			if r.n > 0 {
				gone := r.gone.at(0)
				for range r.gone.rows() {
					at := base + gone.off[0]
					if step := r.gone.inner[0]; step == 1 {
						for _, x := range in[at : at+r.gone.n] {
							a = f.add(a, x)
						}
					} else {
						for range r.gone.n {
							a = f.add(a, in[at])
							at += step
						}
					}
					gone.next()
				}
			}
			out[k*r.kept.n+i] = f.finish(a, r.n)
		}
		kept.next()
	}
}

func runFold[T, A number](r *reduction, f reducer[T, A]) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	return func(w *Worker, in, out []*graph.Tensor) error {
		x, y := elems[T](in[0]), elems[T](out[0])
		if r.outs == 0 {
			return nil
		}
		rows := r.kept.rows()
		if w.Threads == 1 || rows < 2 || r.outs*r.n < 2*piece {
			fold(r, f, y, x, 0, rows)
			return nil
		}
		w.Range(rows, r.kept.n*max(1, r.n), func(lo, hi int) { fold(r, f, y, x, lo, hi) })
		return nil
	}
}

// logSumExp takes the largest number out, so that no exponential overflows.
func logSumExp[T float](r *reduction) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	largest := runFold(r, floatReducer[T](reduceMax))
	return func(w *Worker, in, out []*graph.Tensor) error {
		if err := largest(w, in, out); err != nil {
			return err
		}
		x, y := elems[T](in[0]), elems[T](out[0])
		kept := r.kept.at(0)
		for k := range r.kept.rows() {
			for i := range r.kept.n {
				o := &y[k*r.kept.n+i]
				top := float64(*o)
				if math.IsInf(top, 0) {
					continue
				}
				sum := reducer[T, float64]{
					add:    func(a float64, v T) float64 { return a + math.Exp(float64(v)-top) },
					finish: func(a float64, _ int) T { return T(top + math.Log(a)) },
				}
				one := reduction{kept: &walk{n: 1}, gone: r.gone, n: r.n, outs: 1}
				fold(&one, sum, y[k*r.kept.n+i:], x[kept.off[0]+i*r.kept.inner[0]:], 0, 1)
			}
			kept.next()
		}
		return nil
	}
}

func planReduce(c *Call, op reduceOp) (Step, error) {
	axes, noop, err := planAxes(c)
	if err != nil {
		return Step{}, err
	}
	if noop && (op == reduceSum || op == reduceMean || op == reduceMax || op == reduceMin || op == reduceProd || op == reduceLogSumExp) {
		return alias(c, c.Shape(0)...)
	}
	r, shape, err := newReduction(c, axes)
	if err != nil {
		return Step{}, err
	}
	s := Step{Out: []Spec{Out(c.Type(0), shape...)}}
	switch c.Type(0) {
	case graph.Float32:
		if s.Run = runFold(r, floatReducer[float32](op)); op == reduceLogSumExp {
			s.Run = logSumExp[float32](r)
		}
	case graph.Float64:
		if s.Run = runFold(r, floatReducer[float64](op)); op == reduceLogSumExp {
			s.Run = logSumExp[float64](r)
		}
	case graph.Int8:
		s.Run = runFold(r, intReducer[int8](op))
	case graph.Int16:
		s.Run = runFold(r, intReducer[int16](op))
	case graph.Int32:
		s.Run = runFold(r, intReducer[int32](op))
	case graph.Int64:
		s.Run = runFold(r, intReducer[int64](op))
	case graph.Uint8:
		s.Run = runFold(r, intReducer[uint8](op))
	case graph.Uint16:
		s.Run = runFold(r, intReducer[uint16](op))
	case graph.Uint32:
		s.Run = runFold(r, intReducer[uint32](op))
	case graph.Uint64:
		s.Run = runFold(r, intReducer[uint64](op))
	case graph.Bool:
		if op == reduceMax || op == reduceMin {
			s.Run = runFold(r, intReducer[uint8](op))
			if op == reduceMin { // no numbers at all are true
				f := intReducer[uint8](op)
				f.start = 1
				s.Run = runFold(r, f)
			}
		}
	}
	if s.Run == nil || op == reduceLogSumExp && c.Type(0).Integer() {
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

func init() {
	for name, op := range map[string]reduceOp{
		"ReduceSum": reduceSum, "ReduceMean": reduceMean, "ReduceMax": reduceMax, "ReduceMin": reduceMin,
		"ReduceProd": reduceProd, "ReduceL1": reduceL1, "ReduceL2": reduceL2, "ReduceSumSquare": reduceSumSquare,
		"ReduceLogSum": reduceLogSum, "ReduceLogSumExp": reduceLogSumExp,
	} {
		register(Op{Name: name, Narrow: true, Plan: func(c *Call) (Step, error) { return planReduce(c, op) }})
	}
}
