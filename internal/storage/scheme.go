package storage

import "fmt"

// Planes is the stored type of a uniformly quantized tensor in pare's canonical form: one signed
// byte per code, row-major, beside planes of scales and zero points. Containers pack it; nothing
// ships in this form. Which grid the codes live on is said by a Scheme.
const Planes Type = "planes"

// Scheme is the mathematics of uniform quantization, apart from any packing:
//
//	w ~ scale * (q - zero)
//
// with one scale (and zero point) for each group.
type Scheme struct {
	Bits      int  // 2..8
	Symmetric bool // zero is 0 and codes are signed; otherwise codes are unsigned
	// Group is the number of consecutive elements of a row that share a scale: GroupTensor for
	// the whole tensor, GroupChannel for a row.
	Group int
	// Scale is the stored type of a scale (f32, f16 or bf16); codes are computed from the
	// rounded scale.
	Scale Type
	// Narrow drops the lowest signed code, so that codes lie in ±(2^(Bits-1)-1).
	Narrow bool
}

// Values of Scheme.Group that are not a length.
const (
	GroupTensor  = -1
	GroupChannel = 0
)

// Range is the inclusive range of codes.
func (s Scheme) Range() (lo, hi int) {
	if !s.Symmetric {
		return 0, 1<<s.Bits - 1
	}
	lo, hi = -(1 << (s.Bits - 1)), 1<<(s.Bits-1)-1
	if s.Narrow {
		lo++
	}
	return lo, hi
}

// Groups is the number of groups in a row of cols elements; a last short group counts.
func (s Scheme) Groups(cols int) int {
	if s.Group <= 0 {
		return 1
	}
	return (cols + s.Group - 1) / s.Group
}

// String is the spelling used in reports: "int4 g128 sym", "int8 channel asym".
func (s Scheme) String() string {
	group := fmt.Sprintf("g%d", s.Group)
	switch s.Group {
	case GroupTensor:
		group = "tensor"
	case GroupChannel:
		group = "channel"
	}
	sym := "asym"
	if s.Symmetric {
		sym = "sym"
	}
	return fmt.Sprintf("int%d %s %s", s.Bits, group, sym)
}
