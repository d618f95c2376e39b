//go:build amd64 && !noasm

package cpu

import x "golang.org/x/sys/cpu"

// features is what the processor says of itself in ECX of CPUID's leaf 1.
func features() (ecx uint32)

// f16c is the bit for conversions of half precision, which package x/sys/cpu does not name. They need
// what AVX does of the operating system.
const f16c = 1 << 29

func detect() (found []Level) {
	if !x.X86.HasAVX2 || !x.X86.HasFMA || features()&f16c == 0 {
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
