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

// The levels that kernels exist for.
const (
	Portable Level = "portable"
	AVX2     Level = "avx2"   // amd64: AVX2, FMA, F16C
	AVX512   Level = "avx512" // amd64: AVX-512 F, BW, DQ, VL
	NEON     Level = "neon"   // arm64 baseline
)

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
