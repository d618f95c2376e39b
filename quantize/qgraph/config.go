package qgraph

import (
	"errors"
	"fmt"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// Config says how a network is quantized statically. The zero value is 8 bits: unsigned activations, signed
// weights per channel, ranges of least squared error, with equalization and least-squares rounding.
type Config struct {
	Activations graph.DType // Uint8 (default), Int8, Uint16, Int16
	// SymmetricActivations fixes the zero point of activations in the middle of the codes.
	SymmetricActivations bool
	Weights              graph.DType // Int8 (default), Uint8, Int4
	// PerTensor gives a weight one scale instead of one per output channel.
	PerTensor bool
	// AsymmetricWeights lets the range of unsigned weights decide their zero point; without it that is 128.
	AsymmetricWeights bool
	// SevenBits holds weights to [-64, 63]: products of u8 and s8 are then exact on processors without VNNI.
	SevenBits bool
	// PowerOfTwo makes all scales powers of two.
	PowerOfTwo bool

	Method  calib.Method
	Percent float64 // of Percentile
	// Ranged says that Method is meant: without it, its zero value means the default, MSE.
	Ranged bool

	// Everything quantizes every node that has an integer form, inputs and outputs of the network included:
	// what an NPU wants. Without it, nodes that only lead to the outputs stay float, since integers gain
	// nothing there.
	Everything bool
	// ShareConcat gives all inputs of a Concat the scale of its output.
	ShareConcat bool
	// Recurrent keeps the weights of LSTM, GRU and RNN as 8-bit codes that are expanded when they run.
	Recurrent bool

	NoEqualize bool // leave the channels of activations as they are
	NoRounding bool // round weights to nearest
	NoBias     bool // leave biases as they are

	// ISA is the level of the kernels that choose codes, whose results enter bytes; empty: the best here.
	ISA cpu.Level

	// Keep selects the nodes that stay float.
	Keep Patterns
}

func (c Config) activations() graph.DType {
	if c.Activations == graph.Undefined {
		return graph.Uint8
	}
	return c.Activations
}

func (c Config) weights() graph.DType {
	if c.Weights == graph.Undefined {
		return graph.Int8
	}
	return c.Weights
}

func (c Config) method() calib.Method {
	if !c.Ranged && c.Method == calib.MinMax {
		return calib.MSE
	}
	return c.Method
}

// ErrConfig is the reason when a configuration names what does not go together.
var ErrConfig = errors.New("no such quantization")

// Check reports what does not go together.
func (c Config) Check() error {
	bad := func(format string, args ...any) error {
		return &fault.Error{Op: "quantize.static", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...)))}
	}
	if _, ok := activationGrids[c.activations()]; !ok {
		return bad("activations of %s; u8, i8, u16 and i16 are possible", c.activations())
	}
	switch c.weights() {
	case graph.Int8, graph.Uint8, graph.Int4:
	default:
		return bad("weights of %s; i8, u8 and i4 are possible", c.weights())
	}
	if c.SevenBits && c.weights() != graph.Int8 {
		return bad("7 bits of %s weights", c.weights())
	}
	if c.AsymmetricWeights && c.weights() != graph.Uint8 {
		return bad("asymmetric weights of %s; u8 ones can be", c.weights())
	}
	if c.Percent < 0 || c.Percent > 100 {
		return bad("a percentile of %v", c.Percent)
	}
	for _, p := range c.Keep {
		if ir.CheckPattern(p) != nil {
			return bad("pattern %q", p)
		}
	}
	return nil
}

var activationGrids = map[graph.DType][2]calib.Grid{ // asymmetric, symmetric
	graph.Uint8: {calib.Uint8, calib.Uint8Sym}, graph.Int8: {calib.Int8, calib.Int8Sym},
	graph.Uint16: {calib.Uint16, calib.Uint16Sym}, graph.Int16: {calib.Int16, calib.Int16Sym},
}

// activationGrid are the codes of activations.
func (c Config) activationGrid() calib.Grid {
	g := activationGrids[c.activations()][0]
	if c.SymmetricActivations {
		g = activationGrids[c.activations()][1]
	}
	g.PowerOfTwo = c.PowerOfTwo
	return g
}

// weightGrid are the codes of weights.
func (c Config) weightGrid() calib.Grid {
	var g calib.Grid
	switch {
	case c.weights() == graph.Int4:
		g = calib.Int4Sym
	case c.weights() == graph.Uint8 && c.AsymmetricWeights:
		g = calib.Uint8
	case c.weights() == graph.Uint8:
		g = calib.Uint8Sym
		g.Min = 1 // as many codes below the zero point as above
	case c.SevenBits:
		g = calib.Int7Sym
	default:
		g = calib.Int8Sym
	}
	g.PowerOfTwo = c.PowerOfTwo
	return g
}

// opset is the least version of ai.onnx in which the quantized network can be written: scales per channel
// came with 13, codes of 16 and 4 bits with 21.
func (c Config) opset() int {
	switch {
	case c.weights() == graph.Int4, c.activations() == graph.Uint16, c.activations() == graph.Int16:
		return 21
	}
	return 13
}
