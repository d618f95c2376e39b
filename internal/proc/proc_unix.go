//go:build unix

package proc

import (
	"runtime"

	"golang.org/x/sys/unix"
)

func peakMemory() int64 {
	if n := field("/proc/self/status", "VmHWM:"); n > 0 {
		return n << 10
	}
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	if runtime.GOOS == "darwin" || runtime.GOOS == "ios" {
		return int64(u.Maxrss) // bytes there, kilobytes elsewhere
	}
	return int64(u.Maxrss) << 10
}
