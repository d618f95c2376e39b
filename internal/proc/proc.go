// Package proc asks the operating system about this process and this machine: memory at its peak,
// memory and disk that are free, and what the processor is called. Everything it tells goes into
// reports and estimates, never into a package.
package proc

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

// TotalMemory is the machine's memory in bytes, or 0 when unknown.
func TotalMemory() int64 {
	return field("/proc/meminfo", "MemTotal:") << 10
}

// FreeDisk is the space that an unprivileged user may still write below path, or 0 when unknown.
func FreeDisk(path string) int64 { return freeDisk(path) }

// CPUName is the processor's name, or the architecture when the system does not tell.
func CPUName() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for _, want := range []string{"model name", "Model", "Hardware"} { // x86, then ARM boards
			for line := range strings.Lines(string(b)) {
				if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == want {
					if v = strings.Join(strings.Fields(v), " "); v != "" {
						return v
					}
				}
			}
		}
	}
	return runtime.GOARCH
}

// field reads the number behind a name in a file of "Name:  123 kB" lines.
func field(file, name string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
