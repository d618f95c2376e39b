package calib

import "math"

// Grid is the set of codes that values are rounded to.
type Grid struct {
	Min, Max int  // smallest and largest code: 0 and 255
	Zero     *int // the zero point where it is fixed (symmetric grids), nil where the range decides it
	// PowerOfTwo makes every scale a power of two, rounded up, for hardware that only shifts.
	PowerOfTwo bool
}

// Grids of activations and weights. Symmetric grids leave out the code that has no negative.
var (
	Uint8     = Grid{Min: 0, Max: 255}
	Int8      = Grid{Min: -128, Max: 127}
	Uint16    = Grid{Min: 0, Max: 65535}
	Int16     = Grid{Min: -32768, Max: 32767}
	Int8Sym   = Grid{Min: -127, Max: 127, Zero: code(0)}
	Uint8Sym  = Grid{Min: 0, Max: 255, Zero: code(128)}
	Int16Sym  = Grid{Min: -32767, Max: 32767, Zero: code(0)}
	Uint16Sym = Grid{Min: 0, Max: 65535, Zero: code(32768)}
	// Int7Sym are weights for processors whose products of u8 and s8 pairs saturate at 16 bits.
	Int7Sym = Grid{Min: -64, Max: 63, Zero: code(0)}
	Int4Sym = Grid{Min: -7, Max: 7, Zero: code(0)}
)

func code(q int) *int { return &q }

// Affine is how codes stand for values: x = Scale * (q - Zero).
type Affine struct {
	Scale float32
	Zero  int
}

// smallest is the least scale that is given out: dividing by it stays finite for what float32 networks
// hold, and a bias of int32 at the product of two such scales is still a normal number.
const smallest = 1e-18

// Affine is the scale and zero point with which the codes cover [lo, hi], zero included: s = (hi-lo) /
// (max-min), z = min - lo/s to the nearest code, ties to even. A fixed zero point takes the scale that
// covers the farther end. An empty range gets scale 1.
func (g Grid) Affine(lo, hi float64) Affine {
	lo, hi = min(lo, 0), max(hi, 0)
	var s float64
	if g.Zero != nil {
		z := float64(*g.Zero)
		// Both ends must fit: codes below and above the zero point may differ by one in number.
		if below := z - float64(g.Min); below > 0 {
			s = -lo / below
		}
		s = max(s, hi/(float64(g.Max)-z))
	} else {
		s = (hi - lo) / float64(g.Max-g.Min)
	}
	if s == 0 {
		s = 1
	}
	s = max(s, smallest)
	if g.PowerOfTwo {
		s = math.Exp2(math.Ceil(math.Log2(s)))
	}
	a := Affine{Scale: float32(s)}
	if g.Zero != nil {
		a.Zero = *g.Zero
		return a
	}
	z := math.RoundToEven(float64(g.Min) - lo/float64(a.Scale))
	a.Zero = int(min(max(z, float64(g.Min)), float64(g.Max)))
	return a
}

// Quantize is the code of x: the nearest, ties to even, saturating, as ONNX QuantizeLinear has it.
func (g Grid) Quantize(a Affine, x float32) int {
	q := math.RoundToEven(float64(x/a.Scale)) + float64(a.Zero)
	return int(min(max(q, float64(g.Min)), float64(g.Max)))
}

// Dequantize is the value of a code.
func (a Affine) Dequantize(q int) float32 { return float32(q-a.Zero) * a.Scale }

// Span is the range that the codes of a cover.
func (g Grid) Span(a Affine) (lo, hi float64) {
	return float64(a.Scale) * float64(g.Min-a.Zero), float64(a.Scale) * float64(g.Max-a.Zero)
}
