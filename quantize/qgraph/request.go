package qgraph

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// Kind is a family of quantizations.
type Kind int

// The kinds.
const (
	KindFloat   Kind = iota // nothing is quantized
	KindStatic              // Static
	KindDynamic             // Dynamic
	KindBlocks              // WeightOnly
)

// Request is a quantization by name, as recipes and flags have it.
type Request struct {
	Name string
	Kind Kind
	// Activations of KindStatic: Undefined leaves their 8 bits to the target; Wide wants 16.
	Activations graph.DType
	Wide        bool
	// Unsigned asks for weights around 128, of KindDynamic.
	Unsigned bool
	// Bits and Block of KindBlocks.
	Bits, Block int
}

// Plain are the activations of KindStatic where no target decides about them.
func (r Request) Plain() graph.DType {
	switch {
	case r.Activations != graph.Undefined:
		return r.Activations
	case r.Wide:
		return graph.Int16
	}
	return graph.Int8
}

// TypeNames lists the usual names.
func TypeNames() []string {
	return []string{"int8", "uint8", "int16", "dynamic-int8", "dynamic-uint8", "int4", "int4-32", "int4-128", "int8-32", "int8-128", "f32"}
}

// ParseRequest reads the name of a quantization: "int8" (activations and weights in 8 bits, in the form that the
// target executes), "uint8" (activations unsigned), "int16" (activations in 16 bits), "dynamic-int8",
// "int4-32" (weights alone, in blocks), "f32".
func ParseRequest(name string) (Request, error) {
	r := Request{Name: strings.ToLower(strings.TrimSpace(name))}
	switch r.Name {
	case "f32", "float32":
		r.Name = "f32"
		return r, nil
	case "int8":
		r.Kind = KindStatic
		return r, nil
	case "uint8":
		r.Kind, r.Activations = KindStatic, graph.Uint8
		return r, nil
	case "int16":
		r.Kind, r.Wide = KindStatic, true
		return r, nil
	case "dynamic", "dynamic-int8":
		r.Name, r.Kind = "dynamic-int8", KindDynamic
		return r, nil
	case "dynamic-uint8":
		r.Kind, r.Unsigned = KindDynamic, true
		return r, nil
	case "int4":
		r.Name = "int4-32"
	}
	bits, block, ok := strings.Cut(r.Name, "-")
	n, err := strconv.Atoi(block)
	if ok && err == nil && (bits == "int4" || bits == "int8") {
		r.Kind, r.Block, r.Bits = KindBlocks, n, int(bits[3]-'0')
		return r, WeightOnly{Bits: r.Bits, Block: n}.Check()
	}
	hint := "graphs can be " + strings.Join(TypeNames(), ", ")
	if near := human.Nearest(r.Name, TypeNames()); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	return r, &fault.Error{Op: "quantize", Err: fault.As(fault.ErrMisuse, fmt.Errorf("a graph cannot be %q", name)), Hint: hint}
}

// Sketch is the network that Build would make, with scales and codes that mean nothing: what a plan looks at. It
// runs nothing and needs no samples.
func Sketch(ctx context.Context, g *graph.Graph, net ir.Network, cfg Config) (*graph.Graph, *Report, error) {
	if err := cfg.Check(); err != nil {
		return nil, nil, err
	}
	s := &Static{cfg: cfg, net: net, hist: map[*graph.Value]*calib.Histogram{}}
	s.cfg.NoEqualize, s.cfg.NoRounding, s.cfg.NoBias = true, true, true
	var err error
	if s.g, s.changes, err = Prepare(ctx, g, net, cfg.opset()); err != nil {
		return nil, nil, err
	}
	if err := cfg.Keep.check(g, s.g); err != nil {
		return nil, nil, err
	}
	p := place(s.g, s.cfg, nil)
	if err := p.check(); err != nil {
		return nil, nil, &fault.Error{Op: "quantize.static", Err: fault.As(fault.ErrMisuse, err)}
	}
	positive := positives(s.g)
	for _, v := range watched(p) {
		lo := float32(-1)
		if positive[v] {
			lo = 0
		}
		s.hist[v] = calib.NewHistogram()
		if err := s.hist[v].Add([]float32{lo, 1}); err != nil {
			return nil, nil, err
		}
	}
	return s.Build(ctx, nil)
}

// positives are the values that cannot be below zero, whatever the inputs: their zero points are the least code.
func positives(g *graph.Graph) map[*graph.Value]bool {
	is := map[*graph.Value]bool{}
	for _, n := range g.Nodes {
		yes := false
		switch {
		case isOp(n, "Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs", "Sqrt", "Exp", "Softplus"):
			yes = true
		case isOp(n, "Clip"):
			least := n.Input(1)
			yes = least != nil && least.Const != nil && least.Const.Type == graph.Float32 && least.Const.Elems() == 1 && graph.Of[float32](least.Const)[0] >= 0
		case isOp(n, passOps...), isOp(n, "AveragePool", "GlobalAveragePool", "Resize", "ReduceMean"):
			yes = is[n.Input(0)]
		case isOp(n, "Add", "Mul", "Concat", "Max"):
			yes = len(n.In) > 0 && !slices.ContainsFunc(n.In, func(v *graph.Value) bool { return !is[v] })
		}
		if yes {
			for _, v := range n.Out {
				is[v] = true
			}
		}
	}
	return is
}
