package eval

import (
	"math"

	"github.com/pare-dev/pare/ir/graph"
)

// unary registers an operator on each element of a float tensor.
func unary(name string, f func(x float64) float64) {
	register(Op{Name: name, Narrow: true, Plan: func(c *Call) (Step, error) { return planMap(c, f) }})
}

// planMap applies a function to each element of input 0.
func planMap(c *Call, f func(x float64) float64) (Step, error) {
	s := Step{Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, InPlace: []int{0}}
	switch c.Type(0) {
	case graph.Float32:
		s.Run = mapper(func(out, in []float32) {
			for i, x := range in {
				out[i] = float32(f(float64(x)))
			}
		}, 32)
	case graph.Float64:
		s.Run = mapper(func(out, in []float64) {
			for i, x := range in {
				out[i] = f(x)
			}
		}, 32)
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

// mapper runs fn on pieces of input 0 and output 0. Its elements cost that many operations each.
func mapper[R, T any](fn func(out []R, in []T), cost int) func(w *Worker, in, out []*graph.Tensor) error {
	return func(w *Worker, in, out []*graph.Tensor) error {
		x, y := elems[T](in[0]), elems[R](out[0])
		if len(y)*cost < 2*piece || w.Threads == 1 {
			fn(y, x)
			return nil
		}
		w.Range(len(y), cost, func(lo, hi int) { fn(y[lo:hi], x[lo:hi]) })
		return nil
	}
}

// mapNumber makes the Step of an operator that is defined for every number.
func mapNumber(c *Call, f32 func(out, in []float32), f64 func(out, in []float64), ints func(t graph.DType) func(*Worker, []*graph.Tensor, []*graph.Tensor) error) (Step, error) {
	s := Step{Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, InPlace: []int{0}}
	switch t := c.Type(0); {
	case t == graph.Float32:
		s.Run = mapper(f32, 2)
	case t == graph.Float64:
		s.Run = mapper(f64, 2)
	case t.Integer():
		s.Run = ints(t)
	default:
		return Step{}, c.Fault("elements of type %s", t)
	}
	return s, nil
}

func absOf[T number](out, in []T) {
	for i, x := range in {
		if x < 0 {
			x = -x
		}
		out[i] = x
	}
}

func absFloat[T float](out, in []T) { // the sign of zero goes, too
	for i, x := range in {
		out[i] = T(math.Abs(float64(x)))
	}
}

func negOf[T number](out, in []T) {
	for i, x := range in {
		out[i] = -x
	}
}

func signOf[T number](out, in []T) {
	one := T(1)
	for i, x := range in {
		switch {
		case x > 0:
			out[i] = one
		case x < 0:
			out[i] = -one
		default:
			out[i] = x
		}
	}
}

func reluOf[T number](out, in []T) {
	for i, x := range in {
		if x < 0 {
			x = 0
		}
		out[i] = x
	}
}

func notOf[T integer](out, in []T) {
	for i, x := range in {
		out[i] = ^x
	}
}

// intOp names the functions that integers have.
type intOp int

const (
	intAbs intOp = iota
	intNeg
	intSign
	intRelu
	intNot
)

func intFunc[T integer](op intOp) func(out, in []T) {
	return []func(out, in []T){absOf[T], negOf[T], signOf[T], reluOf[T], notOf[T]}[op]
}

// onInts runs an integer function on tensors of a type.
func onInts(op intOp) func(t graph.DType) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	return func(t graph.DType) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
		switch t {
		case graph.Int8:
			return mapper(intFunc[int8](op), 2)
		case graph.Int16:
			return mapper(intFunc[int16](op), 2)
		case graph.Int32:
			return mapper(intFunc[int32](op), 2)
		case graph.Int64:
			return mapper(intFunc[int64](op), 2)
		case graph.Uint8:
			return mapper(intFunc[uint8](op), 2)
		case graph.Uint16:
			return mapper(intFunc[uint16](op), 2)
		case graph.Uint32:
			return mapper(intFunc[uint32](op), 2)
		}
		return mapper(intFunc[uint64](op), 2)
	}
}

func init() {
	register(Op{Name: "Abs", Narrow: true, Plan: func(c *Call) (Step, error) {
		return mapNumber(c, absFloat[float32], absFloat[float64], onInts(intAbs))
	}})
	register(Op{Name: "Neg", Narrow: true, Plan: func(c *Call) (Step, error) {
		return mapNumber(c, negOf[float32], negOf[float64], onInts(intNeg))
	}})
	register(Op{Name: "Sign", Narrow: true, Plan: func(c *Call) (Step, error) {
		return mapNumber(c, signOf[float32], signOf[float64], onInts(intSign))
	}})
	register(Op{Name: "Relu", Narrow: true, Plan: func(c *Call) (Step, error) {
		return mapNumber(c, reluOf[float32], reluOf[float64], onInts(intRelu))
	}})
	register(Op{Name: "BitwiseNot", Plan: func(c *Call) (Step, error) {
		if !c.Type(0).Integer() {
			return Step{}, c.Fault("elements of type %s", c.Type(0))
		}
		return mapNumber(c, nil, nil, onInts(intNot))
	}})
	register(Op{Name: "Not", Plan: func(c *Call) (Step, error) {
		if c.Type(0) != graph.Bool {
			return Step{}, c.Fault("elements of type %s", c.Type(0))
		}
		return Step{Out: []Spec{Out(graph.Bool, c.Shape(0)...)}, InPlace: []int{0}, Run: mapper(func(out, in []byte) {
			for i, x := range in {
				out[i] = x ^ 1
			}
		}, 1)}, nil
	}})
	for name, f := range map[string]func(float64) float64{
		"Acos": math.Acos, "Acosh": math.Acosh, "Asin": math.Asin, "Asinh": math.Asinh, "Atan": math.Atan,
		"Atanh": math.Atanh, "Ceil": math.Ceil, "Cos": math.Cos, "Cosh": math.Cosh, "Erf": math.Erf, "Exp": math.Exp,
		"Floor": math.Floor, "Log": math.Log, "Round": math.RoundToEven, "Sin": math.Sin, "Sinh": math.Sinh,
		"Sqrt": math.Sqrt, "Tan": math.Tan, "Tanh": math.Tanh,
		"Reciprocal": func(x float64) float64 { return 1 / x },
		"Sigmoid":    sigmoid,
		"Softplus":   softplus,
		"Softsign":   softsign,
		"HardSwish":  func(x float64) float64 { return x * min(max(x/6+0.5, 0), 1) },
		"Mish":       func(x float64) float64 { return x * math.Tanh(softplus(x)) },
	} {
		unary(name, f)
	}
	for name, make := range map[string]func(n *graph.Node) func(float64) float64{
		"Elu":             func(n *graph.Node) func(float64) float64 { return elu(float64(n.Float("alpha", 1))) },
		"Celu":            celu,
		"Selu":            selu,
		"LeakyRelu":       func(n *graph.Node) func(float64) float64 { return leaky(float64(n.Float("alpha", 0.01))) },
		"ThresholdedRelu": thresholded,
		"HardSigmoid":     hardSigmoid,
		"Gelu":            gelu,
		"Swish":           swish,
	} {
		register(Op{Name: name, Narrow: true, Plan: func(c *Call) (Step, error) { return planMap(c, make(c.Node)) }})
	}
	register(Op{Name: "Shrink", Narrow: true, Plan: planShrink})
	register(Op{Name: "IsNaN", Narrow: true, Plan: func(c *Call) (Step, error) { return planTest(c, math.IsNaN) }})
	register(Op{Name: "IsInf", Narrow: true, Plan: func(c *Call) (Step, error) {
		above, below := c.Node.Int("detect_positive", 1) != 0, c.Node.Int("detect_negative", 1) != 0
		return planTest(c, func(x float64) bool { return above && math.IsInf(x, 1) || below && math.IsInf(x, -1) })
	}})
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

func softsign(x float64) float64 { return x / (1 + math.Abs(x)) }

func softplus(x float64) float64 { return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }

func elu(alpha float64) func(float64) float64 {
	return func(x float64) float64 {
		if x < 0 {
			return alpha * math.Expm1(x)
		}
		return x
	}
}

func celu(n *graph.Node) func(float64) float64 {
	alpha := float64(n.Float("alpha", 1))
	return func(x float64) float64 { return max(0, x) + min(0, alpha*math.Expm1(x/alpha)) }
}

func selu(n *graph.Node) func(float64) float64 {
	f, gamma := elu(float64(n.Float("alpha", 1.6732632))), float64(n.Float("gamma", 1.050701))
	return func(x float64) float64 { return gamma * f(x) }
}

func leaky(alpha float64) func(float64) float64 {
	return func(x float64) float64 {
		if x < 0 {
			return alpha * x
		}
		return x
	}
}

func thresholded(n *graph.Node) func(float64) float64 { return above(float64(n.Float("alpha", 1))) }

// above passes what is larger than a bound.
func above(alpha float64) func(float64) float64 {
	return func(x float64) float64 {
		if x > alpha {
			return x
		}
		return 0
	}
}

func hardSigmoid(n *graph.Node) func(float64) float64 {
	alpha, beta := float64(n.Float("alpha", 0.2)), float64(n.Float("beta", 0.5))
	return func(x float64) float64 { return max(0, min(1, alpha*x+beta)) }
}

func gelu(n *graph.Node) func(float64) float64 {
	if n.Str("approximate", "none") == "tanh" {
		return func(x float64) float64 {
			return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
		}
	}
	return func(x float64) float64 { return 0.5 * x * (1 + math.Erf(x/math.Sqrt2)) }
}

func swish(n *graph.Node) func(float64) float64 {
	alpha := float64(n.Float("alpha", 1))
	return func(x float64) float64 { return x * sigmoid(alpha*x) }
}

// planShrink pulls numbers toward zero, integers included.
func planShrink(c *Call) (Step, error) {
	lambda, bias := float64(c.Node.Float("lambd", 0.5)), float64(c.Node.Float("bias", 0))
	f := func(x float64) float64 {
		switch {
		case x < -lambda:
			return x + bias
		case x > lambda:
			return x - bias
		}
		return 0
	}
	if !c.Type(0).Integer() {
		return planMap(c, f)
	}
	n := c.Elems(0)
	typ, shape := c.Type(0), c.Shape(0)
	return Step{Out: []Spec{Out(typ, shape...)}, Scratch: 8 * n, Run: func(w *Worker, in, out []*graph.Tensor) error {
		t := graph.Tensor{Type: graph.Float64, Shape: shape, Data: w.Scratch[:8*n]}
		recode(&t, in[0])
		x := graph.Of[float64](&t)
		for i := range x {
			x[i] = f(x[i])
		}
		recode(out[0], &t)
		return nil
	}}, nil
}

// planTest asks something of each element.
func planTest(c *Call, f func(x float64) bool) (Step, error) {
	s := Step{Out: []Spec{Out(graph.Bool, c.Shape(0)...)}}
	switch c.Type(0) {
	case graph.Float32:
		s.Run = mapper(func(out []bool, in []float32) {
			for i, x := range in {
				out[i] = f(float64(x))
			}
		}, 4)
	case graph.Float64:
		s.Run = mapper(func(out []bool, in []float64) {
			for i, x := range in {
				out[i] = f(x)
			}
		}, 4)
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}
