//go:build arm64 && !noasm

package cpu

import x "golang.org/x/sys/cpu"

func detect() []Level {
	found := []Level{NEON} // every arm64 CPU has it
	if x.ARM64.HasASIMDDP {
		found = append(found, DotProd)
		if x.ARM64.HasI8MM {
			found = append(found, I8MM)
			if bf16() {
				found = append(found, BF16)
			}
		}
	}
	return found
}
