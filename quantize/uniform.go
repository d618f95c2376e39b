package quantize

import (
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
)

// Clip says how the range of a group is chosen. The zero value takes the extremes of the group
// (round to nearest, "absmax"); a positive Norm searches 80 smaller ranges, p = 1 - i/100, and keeps
// the first with the least sum |w - Q(w)|^Norm. 2.4 is what the GPTQ family uses, 2 is the mean
// squared error.
type Clip struct{ Norm float64 }

// ClipSearch is the usual search.
var ClipSearch = Clip{Norm: 2.4}

const (
	clipGrid  = 100
	clipSteps = 80
)

// Uniform quantizes rows by a storage.Scheme, with w ~ scale*(q - zero). It holds what a scheme
// needs to be applied often; it is safe for concurrent use.
type Uniform struct {
	scheme storage.Scheme
	clip   Clip
	lo, hi int
	round  func(float32) float32 // to the stored type of a scale
	least  float32               // smallest positive scale of that type
	power  *powerTable
}

// NewUniform checks the scheme: bits 2 to 8, a scale type of f32, f16 or bf16.
func NewUniform(s storage.Scheme, clip Clip) (*Uniform, error) {
	if s.Bits < 2 || s.Bits > 8 {
		return nil, fault.As(fault.ErrMisuse, fmt.Errorf("%d bits: uniform schemes have 2 to 8", s.Bits))
	}
	if s.Group < storage.GroupTensor {
		return nil, fault.As(fault.ErrMisuse, fmt.Errorf("group size %d", s.Group))
	}
	if !(clip.Norm >= 0) || clip.Norm > 16 {
		return nil, fault.As(fault.ErrMisuse, fmt.Errorf("norm %v of the clip search: 0 to 16", clip.Norm))
	}
	u := &Uniform{scheme: s, clip: clip}
	u.lo, u.hi = s.Range()
	switch s.Scale {
	case storage.F32:
		u.round, u.least = func(v float32) float32 { return v }, math.SmallestNonzeroFloat32
	case storage.F16:
		u.round = func(v float32) float32 { return storage.F16ToF32(storage.F32ToF16(v)) }
		u.least = storage.F16ToF32(1)
	case storage.BF16:
		u.round = func(v float32) float32 { return math.Float32frombits(uint32(storage.F32ToBF16(v)) << 16) }
		u.least = math.Float32frombits(1 << 16)
	default:
		return nil, fault.As(fault.ErrMisuse, fmt.Errorf("scales of type %q: f32, f16 or bf16", s.Scale))
	}
	if clip.Norm > 0 {
		u.power = newPowerTable(clip.Norm)
	}
	return u, nil
}

// Scheme returns the scheme.
func (u *Uniform) Scheme() storage.Scheme { return u.scheme }

// Range is the smallest and largest value of a group, with zero inside when the scheme is
// asymmetric, so that zero stays exact. For symmetric schemes it is -a, a for a = max|w|.
func (u *Uniform) Range(w []float32) (lo, hi float32, err error) {
	for _, v := range w {
		if v-v != 0 {
			return 0, 0, fault.ErrNotFinite
		}
		lo, hi = min(lo, v), max(hi, v)
	}
	if u.scheme.Symmetric {
		hi = max(hi, -lo)
		lo = -hi
	}
	return lo, hi, nil
}

// Params are scale and zero point for a range of real values, rounded as they are stored.
//
//	symmetric   scale = a / ((2^b-1)/2), or a / (2^(b-1)-1) when narrow; zero = 0
//	asymmetric  scale = (hi-lo) / (2^b-1); zero = clamp(round(-lo/scale))
//
// Rounding is to the nearest, ties to even. An empty range has scale 1; a range too small for the
// scale's type has its smallest positive value, one too large is fault.ErrNotFinite.
func (u *Uniform) Params(lo, hi float32) (scale float32, zero int, err error) {
	if lo == hi {
		return 1, u.zeroOf(lo, 1), nil
	}
	levels := float32(int(1)<<u.scheme.Bits - 1)
	if u.scheme.Symmetric && u.scheme.Narrow {
		levels--
	}
	// halves first: hi-lo may overflow where the scale itself does not
	scale = u.round((hi/2 - lo/2) / levels * 2)
	if scale < u.least {
		scale = u.least
	}
	if scale-scale != 0 {
		return 0, 0, fmt.Errorf("a range of %v to %v needs a scale beyond %s: %w", lo, hi, u.scheme.Scale, fault.ErrNotFinite)
	}
	return scale, u.zeroOf(lo, scale), nil
}

func (u *Uniform) zeroOf(lo, scale float32) int {
	if u.scheme.Symmetric {
		return 0
	}
	return clampInt(roundEven(-lo/scale), u.lo, u.hi)
}

// Fit chooses scale and zero point of one group. importance is nil or one weight per element, which
// multiplies its error in the clip search.
func (u *Uniform) Fit(w, importance []float32) (scale float32, zero int, err error) {
	lo, hi, err := u.Range(w)
	if err != nil {
		return 0, 0, err
	}
	scale, zero, err = u.Params(lo, hi)
	if err != nil || u.clip.Norm == 0 || lo == hi {
		return scale, zero, err
	}
	var buf [clipSteps]params
	cands, err := u.candidates(buf[:0], lo, hi)
	if err != nil {
		return 0, 0, err
	}
	best := math.Inf(1)
	for _, c := range cands {
		if e := u.loss(w, importance, c.scale, c.zero, best); e < best {
			best, scale, zero = e, c.scale, c.zero
		}
	}
	return scale, zero, nil
}

// params are a scale and a zero point.
type params struct {
	scale float32
	zero  int
}

// candidates appends the parameters that the clip search compares, the whole range first; only that
// one without a search.
func (u *Uniform) candidates(dst []params, lo, hi float32) ([]params, error) {
	n := clipSteps
	if u.clip.Norm == 0 || lo == hi {
		n = 1
	}
	for i := range n {
		p := 1 - float32(i)/clipGrid
		s, z, err := u.Params(float32(p*lo), float32(p*hi))
		if err != nil {
			return nil, err
		}
		dst = append(dst, params{s, z})
	}
	return dst, nil
}

// loss is sum importance*|w/scale - (q-zero)|^Norm * scale^Norm, in index order. It stops once it
// reaches limit, which later terms can only exceed.
func (u *Uniform) loss(w, importance []float32, scale float32, zero int, limit float64) float64 {
	unit := power(float64(scale), u.clip.Norm)
	limit /= unit
	inv := 1 / scale
	lo, hi := float32(u.lo-zero), float32(u.hi-zero)
	var sum float64
	for i := 0; i < len(w); i += lossChunk {
		part := w[i:min(i+lossChunk, len(w))]
		var weights []float32
		if importance != nil {
			weights = importance[i:]
		}
		for j, v := range part {
			t := float32(v * inv)
			r := t
			if r < lo {
				r = lo
			} else if r > hi {
				r = hi
			}
			// clamped first: the bounds are integers
			e := u.power.of(math.Float32frombits(math.Float32bits(t-((r+magic)-magic)) &^ (1 << 31)))
			if weights != nil {
				e = float64(e * float64(weights[j]))
			}
			sum += e
		}
		if sum >= limit {
			break
		}
	}
	return float64(sum * unit)
}

const (
	lossChunk = 16      // elements between looks at the limit
	magic     = 3 << 22 // added and taken away it rounds |v| < 2^22 to an integer, ties to even
)

// Codes writes the codes of one group: q = clamp(round(w/scale) + zero), as signed bytes for
// symmetric schemes and unsigned ones otherwise.
func (u *Uniform) Codes(dst []byte, w []float32, scale float32, zero int) {
	dst = dst[:len(w)]
	for i, v := range w {
		dst[i] = byte(clampInt(roundEven(v/scale)+zero, u.lo, u.hi))
	}
}

// Dequantize writes scale*(q - zero) for one group of codes.
func (u *Uniform) Dequantize(dst []float32, codes []byte, scale float32, zero int) {
	codes = codes[:len(dst)]
	if u.scheme.Symmetric {
		for i, q := range codes {
			dst[i] = scale * float32(int8(q))
		}
		return
	}
	for i, q := range codes {
		dst[i] = scale * float32(int(q)-zero)
	}
}

// FitRow chooses scales and zero points of a whole row, Scheme.Groups(len(row)) of each; zeros may
// be nil for symmetric schemes. Per-tensor schemes have no rows of their own: use Range over all
// of the tensor, then Params.
func (u *Uniform) FitRow(scales []float32, zeros []uint8, row, importance []float32) error {
	return u.groups(len(row), func(g, lo, hi int) error {
		var imp []float32
		if importance != nil {
			imp = importance[lo:hi]
		}
		s, z, err := u.Fit(row[lo:hi], imp)
		if err != nil {
			return err
		}
		scales[g] = s
		if zeros != nil {
			zeros[g] = uint8(z)
		}
		return nil
	})
}

// CodesRow writes the codes of a row for given scales and zero points.
func (u *Uniform) CodesRow(dst []byte, row, scales []float32, zeros []uint8) {
	_ = u.groups(len(row), func(g, lo, hi int) error {
		u.Codes(dst[lo:hi], row[lo:hi], scales[g], zeroAt(zeros, g))
		return nil
	})
}

// DequantizeRow writes the real values of a row of codes.
func (u *Uniform) DequantizeRow(dst []float32, codes []byte, scales []float32, zeros []uint8) {
	_ = u.groups(len(dst), func(g, lo, hi int) error {
		u.Dequantize(dst[lo:hi], codes[lo:hi], scales[g], zeroAt(zeros, g))
		return nil
	})
}

func zeroAt(zeros []uint8, g int) int {
	if zeros == nil {
		return 0
	}
	return int(zeros[g])
}

// groups calls fn for every group [lo,hi) of a row; the last may be short.
func (u *Uniform) groups(cols int, fn func(g, lo, hi int) error) error {
	size := u.scheme.Group
	if size <= 0 {
		size = max(cols, 1)
	}
	for g, lo := 0, 0; lo < cols; g, lo = g+1, lo+size {
		if err := fn(g, lo, min(lo+size, cols)); err != nil {
			return err
		}
	}
	return nil
}

// roundFloat rounds |v| < 2^22 to an integer, ties to even; larger values are integers to within
// what clamping needs.
func roundFloat(v float32) float32 {
	if v > 1<<22 || v < -(1<<22) {
		return v
	}
	return (v + magic) - magic
}

func roundEven(v float32) int {
	if v > 1<<22 || v < -(1<<22) {
		return int(math.Copysign(1<<22, float64(v)))
	}
	return int(roundFloat(v))
}

func clampInt(v, lo, hi int) int { return min(max(v, lo), hi) }
