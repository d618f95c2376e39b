package eval

import (
	"math"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir/graph"
)

// mini is a float of 16 bits or less: sign, exponent, mantissa.
type mini struct {
	mant int     // bits of the mantissa
	emin int     // exponent of the smallest normal number
	max  float64 // largest finite number
	sign int     // the sign bit
	inf  int     // code of infinity, -1 without
	nan  int     // code of NaN
	uz   bool    // no negative zero; NaN has no sign
}

var minis = map[graph.DType]*mini{
	graph.Float16:    {mant: 10, emin: -14, max: 65504, sign: 1 << 15, inf: 0x7c00, nan: 0x7e00},
	graph.BFloat16:   {mant: 7, emin: -126, max: 0x1.fep127, sign: 1 << 15, inf: 0x7f80, nan: 0x7fc0},
	graph.F8E4M3FN:   {mant: 3, emin: -6, max: 448, sign: 0x80, inf: -1, nan: 0x7f},
	graph.F8E4M3FNUZ: {mant: 3, emin: -7, max: 240, sign: 0x80, inf: -1, nan: 0x80, uz: true},
	graph.F8E5M2:     {mant: 2, emin: -14, max: 57344, sign: 0x80, inf: 0x7c, nan: 0x7f},
	graph.F8E5M2FNUZ: {mant: 2, emin: -15, max: 57344, sign: 0x80, inf: -1, nan: 0x80, uz: true},
	graph.F4E2M1:     {mant: 1, emin: 0, max: 6, sign: 8, inf: -1, nan: -1},
}

// encode rounds to the nearest code, ties to even. What is too large becomes the largest number when it
// saturates, otherwise infinity, or NaN where there is none.
func (m *mini) encode(v float64, saturate bool) int {
	sign := 0
	if math.Signbit(v) {
		sign = m.sign
		v = -v
	}
	if math.IsNaN(v) {
		switch {
		case m.nan < 0: // 4 bits have no NaN
			return m.code(m.max)
		case m.uz:
			return m.nan
		}
		return sign | m.nan
	}
	if !math.IsInf(v, 0) {
		step := math.Ldexp(1, max(exponent(v), m.emin)-m.mant)
		v = math.RoundToEven(v/step) * step
	}
	switch {
	case v > m.max && (saturate || m.nan < 0):
		v = m.max
	case v > m.max && m.inf >= 0:
		return sign | m.inf
	case v > m.max && m.uz:
		return m.nan
	case v > m.max:
		return sign | m.nan
	case v == 0 && m.uz:
		return 0
	}
	return sign | m.code(v)
}

// code is that of a positive number which the type has.
func (m *mini) code(v float64) int {
	e := max(exponent(v), m.emin)
	// The mantissa's leading bit, which is not stored, adds one to the exponent.
	return (e-m.emin)<<m.mant + int(math.Ldexp(v, m.mant-e))
}

func (m *mini) decode(code int) float64 {
	sign := 1.0
	if code&m.sign != 0 {
		sign = -1
	}
	low := code &^ m.sign
	switch {
	case m.uz && code == m.nan:
		return math.NaN()
	case m.inf >= 0 && low == m.inf:
		return math.Inf(int(sign))
	case !m.uz && m.nan >= 0 && (low == m.nan || m.inf >= 0 && low > m.inf):
		return math.NaN()
	}
	e, frac := low>>m.mant, low&(1<<m.mant-1)
	if e == 0 {
		return sign * math.Ldexp(float64(frac), m.emin-m.mant)
	}
	return sign * math.Ldexp(float64(frac+1<<m.mant), m.emin+e-1-m.mant)
}

// exponent is that of the leading bit.
func exponent(v float64) int {
	if v == 0 {
		return math.MinInt32
	}
	_, e := math.Frexp(v)
	return e - 1
}

// decodeE8M0 is a power of two; 255 is NaN.
func decodeE8M0(code byte) float64 {
	if code == 0xff {
		return math.NaN()
	}
	return math.Ldexp(1, int(code)-127)
}

// encodeE8M0 rounds to a power of two: up, down, or to the nearest one with ties up.
func encodeE8M0(v float64, mode string, saturate bool) byte {
	v = math.Abs(v)
	if math.IsNaN(v) {
		return 0xff
	}
	e := math.MaxInt32
	if !math.IsInf(v, 0) {
		e = exponent(v)
		if low := math.Ldexp(1, e); v > low && (mode == "up" || mode == "nearest" && v >= 1.5*low) {
			e++
		}
	}
	switch {
	case e > 127 && saturate:
		return 0xfe
	case e < -127 && saturate:
		return 0
	case e > 127 || e < -127:
		return 0xff
	}
	return byte(e + 127)
}

// decodeTables are the numbers of types of 8 bits and less, by code.
var decodeTables = func() map[graph.DType][]float32 {
	t := map[graph.DType][]float32{}
	for typ, m := range minis {
		if typ.Bits() > 8 {
			continue
		}
		for code := range 1 << typ.Bits() {
			t[typ] = append(t[typ], float32(m.decode(code)))
		}
	}
	for code := range 256 {
		t[graph.F8E8M0] = append(t[graph.F8E8M0], float32(decodeE8M0(byte(code))))
	}
	return t
}()

// widenFloats reads elements [lo,lo+len(dst)) of a tensor of narrow floats.
func widenFloats(dst []float32, t *graph.Tensor, lo int) {
	switch t.Type {
	case graph.Float16:
		for i, h := range graph.Of[uint16](t)[lo : lo+len(dst)] {
			dst[i] = storage.F16ToF32(h)
		}
	case graph.BFloat16:
		for i, h := range graph.Of[uint16](t)[lo : lo+len(dst)] {
			dst[i] = math.Float32frombits(uint32(h) << 16)
		}
	case graph.F4E2M1:
		table := decodeTables[t.Type]
		for i := range dst {
			dst[i] = table[t.Data[(lo+i)/2]>>(4*((lo+i)&1))&15]
		}
	default:
		table := decodeTables[t.Type]
		for i, b := range t.Data[lo : lo+len(dst)] {
			dst[i] = table[b]
		}
	}
}

// rounding says how numbers that a type does not have are stored in it.
type rounding struct {
	saturate bool
	mode     string // of powers of two
}

// narrowFloats writes elements [lo,lo+len(src)) of a tensor of narrow floats.
func narrowFloats[T float32 | float64](t *graph.Tensor, lo int, src []T, r rounding) {
	switch t.Type {
	case graph.Float16, graph.BFloat16:
		dst := graph.Of[uint16](t)[lo : lo+len(src)]
		if s, ok := any(src).([]float32); ok {
			if t.Type == graph.Float16 {
				for i, v := range s {
					dst[i] = storage.F32ToF16(v)
				}
				return
			}
			for i, v := range s {
				dst[i] = storage.F32ToBF16(v)
			}
			return
		}
		m := minis[t.Type]
		for i, v := range src {
			dst[i] = uint16(m.encode(float64(v), false))
		}
	case graph.F8E8M0:
		for i, v := range src {
			t.Data[lo+i] = encodeE8M0(float64(v), r.mode, r.saturate)
		}
	case graph.F4E2M1:
		m := minis[t.Type]
		for i, v := range src {
			putBits(t.Data, lo+i, 4, m.encode(float64(v), true))
		}
	default:
		m := minis[t.Type]
		for i, v := range src {
			t.Data[lo+i] = byte(m.encode(float64(v), r.saturate))
		}
	}
}

// putBits writes element i of packed elements of some bits, the first in the low bits.
func putBits(data []byte, i, bits, v int) {
	per := 8 / bits
	shift := bits * (i % per)
	mask := byte(1<<bits-1) << shift
	data[i/per] = data[i/per]&^mask | byte(v)<<shift&mask
}

// getBits reads element i of packed elements.
func getBits(data []byte, i, bits int) int {
	per := 8 / bits
	return int(data[i/per]>>(bits*(i%per))) & (1<<bits - 1)
}
