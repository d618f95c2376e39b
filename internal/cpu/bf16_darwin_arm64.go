//go:build !noasm

package cpu

import "golang.org/x/sys/unix"

func bf16() bool {
	v, err := unix.SysctlUint32("hw.optional.arm.FEAT_BF16")
	return err == nil && v != 0
}
