package eval

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Cast", Plan: func(c *Call) (Step, error) { return planCast(c, graph.DType(c.Node.Int("to", 0))) }})
	register(Op{Name: "CastLike", Inputs: 2, Plan: func(c *Call) (Step, error) { return planCast(c, c.Type(1)) }})
	register(Op{Name: "BitCast", Plan: planBitCast})
}

func planCast(c *Call, to graph.DType) (Step, error) {
	if !to.Known() || to == graph.Complex64 || to == graph.Complex128 || c.Type(0) == graph.Complex64 || c.Type(0) == graph.Complex128 {
		return Step{}, c.Fault("a cast from %s to %s", c.Type(0), to)
	}
	if to == c.Type(0) {
		return alias(c, c.Shape(0)...)
	}
	s := Step{Out: []Spec{Out(to, c.Shape(0)...)}}
	r := rounding{c.Node.Int("saturate", 1) != 0, c.Node.Str("round_mode", "up")}
	switch {
	case to == graph.String:
		s.Run = func(_ *Worker, in, out []*graph.Tensor) error { return format(out[0].Strings, in[0]) }
	case c.Type(0) == graph.String:
		s.Run = func(_ *Worker, in, out []*graph.Tensor) error { return parse(out[0], in[0].Strings, r) }
	default:
		s.Run = func(_ *Worker, in, out []*graph.Tensor) error {
			recodeAs(out[0], in[0], r)
			return nil
		}
	}
	return s, nil
}

// format writes numbers as people do, the shortest form that reads back as the same number.
func format(dst []string, src *graph.Tensor) error {
	if src.Type == graph.Int64 || src.Type == graph.Uint64 || src.Type.Integer() || packed(src.Type) {
		wide := graph.New(graph.Int64, src.Elems())
		recode(wide, src)
		for i, v := range graph.Of[int64](wide) {
			if src.Type == graph.Uint64 {
				dst[i] = strconv.FormatUint(uint64(v), 10)
			} else {
				dst[i] = strconv.FormatInt(v, 10)
			}
		}
		return nil
	}
	if src.Type == graph.Bool {
		for i, v := range src.Data {
			dst[i] = []string{"False", "True"}[v&1]
		}
		return nil
	}
	bits := 32
	if src.Type == graph.Float64 {
		bits = 64
	}
	wide := graph.New(graph.Float64, src.Elems())
	recode(wide, src)
	for i, v := range graph.Of[float64](wide) {
		switch {
		case math.IsNaN(v):
			dst[i] = "NaN"
		case math.IsInf(v, 1):
			dst[i] = "INF"
		case math.IsInf(v, -1):
			dst[i] = "-INF"
		default:
			dst[i] = strconv.FormatFloat(v, 'g', -1, bits)
		}
	}
	return nil
}

func parse(dst *graph.Tensor, src []string, r rounding) error {
	wide := graph.New(graph.Float64, len(src))
	x := graph.Of[float64](wide)
	if dst.Type == graph.Int64 || dst.Type == graph.Uint64 { // more digits than a float has
		whole := graph.New(graph.Int64, len(src))
		ok := true
		for i, s := range src {
			v, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			graph.Of[int64](whole)[i] = v
			ok = ok && err == nil
		}
		if ok {
			recode(dst, whole)
			return nil
		}
	}
	for i, s := range src {
		v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil && !math.IsInf(v, 0) {
			return fmt.Errorf("%q is no number", s)
		}
		x[i] = v
	}
	recodeAs(dst, wide, r)
	return nil
}

// planBitCast calls the same bytes another type.
func planBitCast(c *Call) (Step, error) {
	to := graph.DType(c.Node.Int("to", 0))
	if !to.Known() || to.Bits() != c.Type(0).Bits() || to.Bits() == 0 {
		return Step{}, c.Fault("the bits of %s as %s", c.Type(0), to)
	}
	return Step{Out: []Spec{Out(to, c.Shape(0)...)}, Alias: true}, nil
}
