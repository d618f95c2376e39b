//go:build !noasm && (amd64 || arm64)

package cpu

// Pause tells the CPU that its caller spins: the core gives its power, and the other thread of the
// same core its turn, for some tens of cycles.
func Pause()
