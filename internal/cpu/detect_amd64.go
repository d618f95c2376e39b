//go:build amd64 && !noasm

package cpu

import x "golang.org/x/sys/cpu"

// cpuid is what the processor says of itself in two registers.
func cpuid(leaf uint32) (ebx, ecx uint32)

// f16c says whether half precision can be converted, which package x/sys/cpu does not name: a bit of
// leaf 1. The conversions need what AVX does of the operating system.
func f16c() bool {
	_, ecx := cpuid(1)
	return ecx&(1<<29) != 0
}

// intel says whether the maker's name begins with "Genu".
func intel() bool {
	ebx, _ := cpuid(0)
	return ebx == 'G'|'e'<<8|'n'<<16|'u'<<24
}

func detect() (found []Level) {
	if !x.X86.HasAVX2 || !x.X86.HasFMA || !f16c() {
		return nil
	}
	found = append(found, AVX2)
	if x.X86.HasAVXVNNI {
		found = append(found, AVXVNNI)
	}
	if !x.X86.HasAVX512F || !x.X86.HasAVX512BW || !x.X86.HasAVX512DQ || !x.X86.HasAVX512VL {
		return found
	}
	found = append(found, AVX512)
	if !x.X86.HasAVX512VNNI {
		return found
	}
	if !x.X86.HasAVX512BF16 {
		return append(found, AVX512VNNI)
	}
	// Intel's dot products of bfloat16 outside of AMX are half as fast as multiply-adds of what has been
	// widened: measured 84 against 172 GFLOP/s on a core of Emerald Rapids
	if intel() {
		return append(found, AVX512BF16, AVX512VNNI)
	}
	return append(found, AVX512VNNI, AVX512BF16)
}
