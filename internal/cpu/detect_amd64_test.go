//go:build amd64 && !noasm

package cpu

import (
	"os"
	"regexp"
	"testing"
)

// Linux names what the processor can do.
func TestF16C(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip("no /proc/cpuinfo here")
	}
	if want := regexp.MustCompile(`\bf16c\b`).Match(info); (features()&f16c != 0) != want {
		t.Errorf("F16C %v, Linux says %v", !want, want)
	}
}
