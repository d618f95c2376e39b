// Package cpu names the instruction-set levels that pare's kernels are built for and picks one.
package cpu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
)

// Level is an instruction-set level. Portable is pure Go with a fixed order of every sum: it gives
// the same bits on every machine.
type Level string

// The levels that kernels exist for. Each stands on the one below it.
const (
	Portable   Level = "portable"
	AVX2       Level = "avx2"       // amd64: AVX2, FMA, F16C
	AVXVNNI    Level = "avxvnni"    // amd64: AVX2 with AVX-VNNI
	AVX512     Level = "avx512"     // amd64: AVX-512 F, BW, DQ, VL
	AVX512VNNI Level = "avx512vnni" // amd64: AVX-512 with VNNI
	AVX512BF16 Level = "avx512bf16" // amd64: AVX-512 with VNNI and dot products of bfloat16
	NEON       Level = "neon"       // arm64 baseline
	DotProd    Level = "dotprod"    // arm64 with SDOT and UDOT
	I8MM       Level = "i8mm"       // arm64 with SMMLA and UMMLA as well
	BF16       Level = "bf16"       // arm64 with dot products of bfloat16 as well
)

// below is the next lower level of each; one that is not named stands on Portable.
var below = map[Level]Level{AVXVNNI: AVX2, AVX512: AVX2, AVX512VNNI: AVX512, AVX512BF16: AVX512VNNI, DotProd: NEON, I8MM: DotProd, BF16: I8MM}

// Levels lists every level there is, of all architectures.
func Levels() []Level {
	return []Level{Portable, AVX2, AVXVNNI, AVX512, AVX512VNNI, AVX512BF16, NEON, DotProd, I8MM, BF16}
}

// Below is the level that l stands on: it has every instruction of it. Portable stands on itself.
func (l Level) Below() Level {
	if b, ok := below[l]; ok {
		return b
	}
	return Portable
}

// Available lists the levels that this machine and this binary can run, best last; Portable is
// always first.
func Available() []Level { return append([]Level{Portable}, detect()...) }

// Best is the level used when nobody asks for another.
func Best() Level {
	all := Available()
	return all[len(all)-1]
}

// Parse turns a user's --isa into a level that runs here. Empty and "auto" mean
// Best.
func Parse(s string) (Level, error) {
	all := Available()
	if s == "" || s == "auto" {
		return Best(), nil
	}
	if slices.Contains(all, Level(s)) {
		return Level(s), nil
	}
	names := make([]string, len(all))
	for i, l := range all {
		names[i] = string(l)
	}
	return "", fault.As(fault.ErrMisuse, fmt.Errorf("isa %q cannot run here; choose auto, %s", s, strings.Join(names, ", ")))
}
