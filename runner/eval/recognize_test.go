package eval

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/pare-dev/pare/ir/graph"
)

// Functions that are written in many operators come to the same numbers as those operators one by one, which the
// suite of the specification holds, and take the steps that they should.
func TestRecognize(t *testing.T) {
	heads := func(n *net, x *graph.Value, perm ...int64) *graph.Value { // [2, 6, 13, 64] as [12, 13, 4, 16]
		y := n.op("Reshape", nil, x, ints(12, 13, 4, 16))
		return n.op("Transpose", attrs{"perm": perm}, y)
	}
	attention := func(mask func(n *net) *graph.Value, first bool) func(*net, *graph.Value) []*graph.Value {
		return func(n *net, x *graph.Value) []*graph.Value {
			q, k, v := heads(n, x, 0, 2, 1, 3), heads(n, n.op("Mul", nil, x, n.constant(64)), 0, 2, 3, 1), heads(n, n.op("Neg", nil, x), 0, 2, 1, 3)
			s := n.op("MatMul", nil, q, k)
			s = n.op("Div", nil, s, single(4))
			if mask != nil && first {
				s = n.op("Add", nil, mask(n), s)
			} else if mask != nil {
				s = n.op("Add", nil, s, mask(n))
			}
			y := n.op("MatMul", nil, n.op("Softmax", attrs{"axis": -1}, s), v)
			return []*graph.Value{n.op("Reshape", nil, n.op("Transpose", attrs{"perm": []int64{0, 2, 1, 3}}, y), ints(2, 6, 13, 64))}
		}
	}
	least := float32(-math.MaxFloat32)
	keys := func(hide func(text, key int) float32) func(n *net) *graph.Value {
		return func(*net) *graph.Value {
			x := graph.New(graph.Float32, 12, 1, 1, 13)
			for i := range elems[float32](x) {
				elems[float32](x)[i] = hide(i/13, i%13)
			}
			return &graph.Value{Name: "mask", Type: graph.Float32, Const: x}
		}
	}
	gelu := func(op string, at float32, cubic bool, order int) func(*net, *graph.Value) []*graph.Value {
		return func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("MatMul", nil, x, n.constant(64, 50))
			inner := y
			if cubic {
				inner = n.op("Add", nil, y, n.op("Mul", nil, n.op("Pow", nil, y, single(3)), single(0.044715)))
			}
			e := n.op("Add", nil, n.op(op, nil, n.op("Mul", nil, inner, single(at))), single(1))
			switch order {
			case 0:
				return []*graph.Value{n.op("Mul", nil, n.op("Mul", nil, y, e), single(0.5))}
			case 1:
				return []*graph.Value{n.op("Mul", nil, n.op("Mul", nil, y, single(0.5)), e)}
			}
			return []*graph.Value{n.op("Mul", nil, n.op("Mul", nil, single(0.5), e), y)}
		}
	}
	rootHalf, rootPi := float32(math.Sqrt2/2), float32(math.Sqrt(2/math.Pi))
	for name, c := range map[string]struct {
		build func(*net, *graph.Value) []*graph.Value
		op    string // of a step that must be there
		gone  string // of steps that must not
	}{
		"attention":                    {attention(nil, false), "Attention", "Softmax"},
		"with texts of their lengths":  {attention(keys(func(text, key int) float32 { return map[bool]float32{true: least}[key > text] }), false), "Attention", "Softmax"},
		"padded in front":              {attention(keys(func(text, key int) float32 { return map[bool]float32{true: least}[key < text] }), true), "Attention", "Softmax"},
		"with holes":                   {attention(keys(func(text, key int) float32 { return map[bool]float32{true: least}[(key+text)%3 == 0] }), true), "Attention", "Softmax"},
		"with nothing to see":          {attention(keys(func(text, key int) float32 { return map[bool]float32{true: least}[text == 3] }), false), "Attention", "Softmax"},
		"with numbers for each":        {attention(func(n *net) *graph.Value { return n.constant(1, 4, 13, 13) }, false), "Attention", "Softmax"},
		"erf, x first":                 {gelu("Erf", rootHalf, false, 0), "MatMul", "Erf"},
		"erf, half x":                  {gelu("Erf", rootHalf, false, 1), "MatMul", "Erf"},
		"erf, x last":                  {gelu("Erf", rootHalf, false, 2), "MatMul", "Erf"},
		"tanh":                         {gelu("Tanh", rootPi, true, 2), "MatMul", "Tanh"},
		"erf with another factor":      {gelu("Erf", 0.7, false, 0), "Erf", "Gelu"},
		"tanh without the third power": {gelu("Tanh", rootPi, false, 0), "Tanh", "Gelu"},
		"norm of a sum": {func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("Add", nil, x, n.op("MatMul", nil, x, n.constant(64, 64)))
			return []*graph.Value{n.op("LayerNormalization", attrs{"axis": -1}, y, n.constant(64), n.constant(64)), n.op("Neg", nil, x)}
		}, "LayerNormalization", "Add"},
		"norm of what is read elsewhere": {func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("Add", nil, x, n.op("Neg", nil, n.op("Exp", nil, x)))
			return []*graph.Value{n.op("LayerNormalization", nil, y, n.constant(64)), n.op("Neg", nil, y)}
		}, "Add", ""},
		"scores that are read elsewhere": {func(n *net, x *graph.Value) []*graph.Value {
			s := n.op("MatMul", nil, heads(n, x, 0, 2, 1, 3), heads(n, x, 0, 2, 3, 1))
			return []*graph.Value{n.op("MatMul", nil, n.op("Softmax", attrs{"axis": -1}, s), heads(n, x, 0, 2, 1, 3)), n.op("Neg", nil, s)}
		}, "Softmax", "Attention"},
	} {
		t.Run(name, func(t *testing.T) {
			n, x := newNet(2, 6, 13, 64)
			n.Outputs = c.build(n, x)
			in := n.constant(2, 6, 13, 64).Const
			plain, err := Compile(n.Graph, Options{Threads: 1, Observe: func(*graph.Value, *graph.Tensor) error { return nil }})
			if err != nil {
				t.Fatal(err)
			}
			want := outputs(t, plain, in)
			ways(t, n.Graph, func(t *testing.T, p *Program) {
				for range 2 { // memory is used again
					for i, got := range outputs(t, p, in) {
						closeTo(t, fmt.Sprint("output ", i), elems[float32](got), elems[float32](want[i]), 2e-6)
					}
				}
				if p.opt.Observe != nil {
					return
				}
				has := func(op string) bool {
					return slices.ContainsFunc(p.plans[0].steps, func(s *step) bool { return s.node.Op == op })
				}
				if !has(c.op) || c.gone != "" && has(c.gone) {
					t.Errorf("%s: want %s and no %s", name, c.op, c.gone)
				}
			})
		})
	}
}
