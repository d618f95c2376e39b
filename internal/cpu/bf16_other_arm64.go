//go:build arm64 && !noasm && !linux && !darwin

package cpu

// bf16 is not asked for here.
func bf16() bool { return false }
