//go:build amd64 && !noasm

package cpu

import (
	"os"
	"regexp"
	"testing"
)

// Linux names what the processor can do, and its maker.
func TestCPUID(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip("no /proc/cpuinfo here")
	}
	if want := regexp.MustCompile(`\bf16c\b`).Match(info); f16c() != want {
		t.Errorf("F16C %v, Linux says %v", !want, want)
	}
	if want := regexp.MustCompile(`GenuineIntel`).Match(info); intel() != want {
		t.Errorf("of Intel %v, Linux says %v", !want, want)
	}
}
