//go:build amd64 && !noasm

package cpu

import x "golang.org/x/sys/cpu"

func detect() (found []Level) {
	if !x.X86.HasAVX2 || !x.X86.HasFMA {
		return nil
	}
	found = append(found, AVX2)
	if x.X86.HasAVXVNNI {
		found = append(found, AVXVNNI)
	}
	if x.X86.HasAVX512F && x.X86.HasAVX512BW && x.X86.HasAVX512DQ && x.X86.HasAVX512VL {
		found = append(found, AVX512)
		if x.X86.HasAVX512VNNI {
			found = append(found, AVX512VNNI)
		}
	}
	return found
}
