package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "MatMul", Inputs: 2, Narrow: true, BF16: true, Plan: planMatMul})
	register(Op{Name: "Gemm", Inputs: 2, Narrow: true, Plan: planGemm})
}

// multiply is dst [m,n] = a [m,k] b, where b is [k,n], or [n,k] when form is NT.
func multiply[T number](w *Worker, form kernels.Form, dst, a, b []T, m, n, k int) error {
	if m == 0 || n == 0 {
		return nil
	}
	switch d := any(dst).(type) {
	case []float32:
		return multiplyFloat(w, form, d, any(a).([]float32), any(b).([]float32), m, n, k)
	case []float64:
		return multiplyFloat(w, form, d, any(a).([]float64), any(b).([]float64), m, n, k)
	}
	// integers wrap around
	for i := range m {
		row := dst[i*n : (i+1)*n]
		clear(row)
		for p := range k {
			x := a[i*k+p]
			for j := range row {
				if form == kernels.NT {
					row[j] += x * b[j*k+p]
				} else {
					row[j] += x * b[p*n+j]
				}
			}
		}
	}
	return nil
}

// gemmPiece is about the multiplications that one thread does before another one is worth starting.
const gemmPiece = 1 << 19

func multiplyFloat[T float](w *Worker, form kernels.Form, dst, a, b []T, m, n, k int) error {
	threads := min(w.Threads, 1+m*n*k/gemmPiece)
	l, r := kernels.View(a, m, k), kernels.View(b, k, n)
	if form == kernels.NT {
		r = kernels.View(b, n, k)
	}
	return kernels.Gemm(w.ctx, w.Kernels, threads, form, kernels.View(dst, m, n), l, r, false)
}

// byNumber picks one of the functions for the types that products have.
func byNumber(c *Call, f32, f64, i32, i64, u32, u64 func(*Worker, []*graph.Tensor, []*graph.Tensor) error) (func(*Worker, []*graph.Tensor, []*graph.Tensor) error, error) {
	if c.Type(1) != c.Type(0) {
		return nil, c.Fault("types %s and %s", c.Type(0), c.Type(1))
	}
	switch c.Type(0) {
	case graph.Float32:
		return f32, nil
	case graph.Float64:
		return f64, nil
	case graph.Int32:
		return i32, nil
	case graph.Int64:
		return i64, nil
	case graph.Uint32:
		return u32, nil
	case graph.Uint64:
		return u64, nil
	}
	return nil, c.Fault("elements of type %s", c.Type(0))
}

// matrices is a batch of products.
type matrices struct {
	m, n, k int
	a, b    []int // which matrices each product takes
}

func planMatMul(c *Call) (Step, error) {
	p, shape, err := newMatrices(c, c.Shape(0), c.Shape(1))
	if err != nil {
		return Step{}, err
	}
	if c.Type(0) == graph.BFloat16 && c.Type(1) == graph.BFloat16 {
		return Step{Out: []Spec{Out(graph.BFloat16, shape...)}, Scratch: 4 * p.m * p.n, Run: p.runBF16}, nil
	}
	run, err := byNumber(c, runMatrices[float32](p), runMatrices[float64](p), runMatrices[int32](p), runMatrices[int64](p),
		runMatrices[uint32](p), runMatrices[uint64](p))
	if err != nil {
		return Step{}, err
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: run}, nil
}

// newMatrices lays two batches of matrices over each other, as numpy does: a vector is a matrix of one row or
// column, which the result does not have.
func newMatrices(c *Call, a, b []int) (*matrices, []int, error) {
	if len(a) == 0 || len(b) == 0 {
		return nil, nil, c.Fault("shapes %v and %v", a, b)
	}
	left, right := a, b
	if len(a) == 1 {
		left = []int{1, a[0]}
	}
	if len(b) == 1 {
		right = []int{b[0], 1}
	}
	la, lb := len(left)-2, len(right)-2
	p := &matrices{m: left[la], k: left[la+1], n: right[lb+1]}
	if right[lb] != p.k {
		return nil, nil, c.Fault("shapes %v and %v", a, b)
	}
	batch, err := broadcast(left[:la], right[:lb])
	if err != nil {
		return nil, nil, c.Fault("%w", err)
	}
	shape := slices.Clone(batch)
	if len(a) > 1 {
		shape = append(shape, p.m)
	}
	if len(b) > 1 {
		shape = append(shape, p.n)
	}
	if err := graph.CheckShape(shape); err != nil {
		return nil, nil, c.Fault("%w", err)
	}
	if graph.Elems(right[:lb]) == 1 { // one matrix on the right: all rows on the left make one
		p.m *= graph.Elems(batch)
		p.a, p.b = []int{0}, []int{0}
		return p, shape, nil
	}
	w, err := newWalk(batch, stretched(left[:la], batch), stretched(right[:lb], batch))
	if err != nil {
		return nil, nil, c.Fault("%w", err)
	}
	if graph.Elems(batch) == 0 {
		return p, shape, nil
	}
	at := w.at(0)
	for range w.rows() {
		for i := range w.n {
			p.a = append(p.a, at.off[0]+i*w.inner[0])
			p.b = append(p.b, at.off[1]+i*w.inner[1])
		}
		at.next()
	}
	return p, shape, nil
}

func runMatrices[T number](p *matrices) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	return func(w *Worker, in, out []*graph.Tensor) error {
		x, y, o := elems[T](in[0]), elems[T](in[1]), elems[T](out[0])
		one := func(w *Worker, i int) error {
			a, b := x[p.a[i]*p.m*p.k:][:p.m*p.k], y[p.b[i]*p.k*p.n:][:p.k*p.n]
			return multiply(w, kernels.NN, o[i*p.m*p.n:][:p.m*p.n], a, b, p.m, p.n, p.k)
		}
		if len(p.a) >= 2*w.Threads && w.Threads > 1 && len(p.a)*p.m*p.n*p.k > 2*gemmPiece {
			// whole products are shared out
			errs := make([]error, len(p.a))
			alone := *w
			alone.Threads = 1
			w.Range(len(p.a), p.m*p.n*p.k, func(lo, hi int) {
				for i := lo; i < hi; i++ {
					errs[i] = one(&alone, i)
				}
			})
			for _, err := range errs {
				if err != nil {
					return err
				}
			}
			return nil
		}
		for i := range p.a {
			if err := one(w, i); err != nil {
				return err
			}
		}
		return nil
	}
}

// runBF16 multiplies bfloat16 as it lies and sums in float32, which is rounded once.
func (p *matrices) runBF16(w *Worker, in, out []*graph.Tensor) error {
	x, y := graph.Of[uint16](in[0]), graph.Of[uint16](in[1])
	sums := graph.Of[float32](&graph.Tensor{Type: graph.Float32, Data: w.Scratch})[:p.m*p.n]
	threads := min(w.Threads, 1+p.m*p.n*p.k/gemmPiece)
	for i := range p.a {
		a, b := x[p.a[i]*p.m*p.k:][:p.m*p.k], y[p.b[i]*p.k*p.n:][:p.k*p.n]
		err := kernels.GemmBF16(w.ctx, w.Kernels, threads, kernels.NN, kernels.View(sums, p.m, p.n), kernels.View(a, p.m, p.k), kernels.View(b, p.k, p.n), false)
		if err != nil {
			return err
		}
		narrowFloats(out[0], i*len(sums), sums, rounding{})
	}
	return nil
}

func planGemm(c *Call) (Step, error) {
	a, b := c.Shape(0), c.Shape(1)
	if len(a) != 2 || len(b) != 2 {
		return Step{}, c.Fault("shapes %v and %v", a, b)
	}
	ta, tb := c.Node.Int("transA", 0) != 0, c.Node.Int("transB", 0) != 0
	g := gemm{m: a[0], k: a[1], n: b[1], turn: ta, alpha: float64(c.Node.Float("alpha", 1)), beta: float64(c.Node.Float("beta", 1))}
	if ta {
		g.m, g.k = a[1], a[0]
	}
	inner := b[0]
	if tb {
		inner, g.n = b[1], b[0]
		g.form = kernels.NT
	} else {
		g.form = kernels.NN
	}
	if inner != g.k {
		return Step{}, c.Fault("shapes %v and %v", a, b)
	}
	shape := []int{g.m, g.n}
	if c.Has(2) {
		got, err := broadcast(c.Shape(2), shape)
		if err != nil || !slices.Equal(got, shape) || c.Type(2) != c.Type(0) {
			return Step{}, c.Fault("input 2 is %s %v, the product %s %v", c.Type(2), c.Shape(2), c.Type(0), shape)
		}
		steps := stretched(c.Shape(2), shape)
		g.rowStep, g.colStep = steps[0], steps[1]
	}
	s := Step{Out: []Spec{Out(c.Type(0), shape...)}}
	if ta {
		s.Scratch = c.Type(0).Bytes(g.m * g.k)
	}
	var err error
	s.Run, err = byNumber(c, runGemm[float32](g), runGemm[float64](g), runGemm[int32](g), runGemm[int64](g), runGemm[uint32](g), runGemm[uint64](g))
	return s, err
}

// gemm is a product of two matrices plus a third one.
type gemm struct {
	m, n, k          int
	form             kernels.Form
	turn             bool // the left one is transposed
	alpha, beta      float64
	rowStep, colStep int // of the third
}

func runGemm[T number](g gemm) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	return func(w *Worker, in, out []*graph.Tensor) error {
		a, o := elems[T](in[0]), elems[T](out[0])
		if g.turn {
			t := elems[T](&graph.Tensor{Type: in[0].Type, Data: w.Scratch})[:len(a)]
			for i := range g.m {
				for p := range g.k {
					t[i*g.k+p] = a[p*g.m+i]
				}
			}
			a = t
		}
		if err := multiply(w, g.form, o, a, elems[T](in[1]), g.m, g.n, g.k); err != nil {
			return err
		}
		if g.alpha != 1 {
			for i, v := range o {
				o[i] = T(g.alpha * float64(v))
			}
		}
		if len(in) < 3 || in[2] == nil || g.beta == 0 || len(o) == 0 {
			return nil
		}
		x := elems[T](in[2])
		for i := range g.m {
			row, c := o[i*g.n:(i+1)*g.n], x[i*g.rowStep:]
			for j := range row {
				v := c[j*g.colStep]
				if g.beta != 1 {
					v = T(g.beta * float64(v))
				}
				row[j] += v
			}
		}
		return nil
	}
}
