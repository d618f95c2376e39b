//go:build arm64 && !noasm

package cpu

func detect() []Level { return []Level{NEON} } // every arm64 CPU has it
