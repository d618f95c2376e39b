//go:build !noasm

package cpu

import "golang.org/x/sys/unix"

// What the kernel tells every program about the processor: the word of later features, and in it the bit
// for bfloat16, which package x/sys/cpu does not name.
const (
	hwcap2     = 26
	hwcap2BF16 = 1 << 14
)

func bf16() bool {
	words, err := unix.Auxv()
	if err != nil {
		return false
	}
	for _, w := range words {
		if w[0] == hwcap2 {
			return w[1]&hwcap2BF16 != 0
		}
	}
	return false
}
