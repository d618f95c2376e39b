//go:build linux || darwin

package proc

import (
	"math"

	"golang.org/x/sys/unix"
)

func freeDisk(path string) int64 {
	var s unix.Statfs_t
	if unix.Statfs(path, &s) != nil || s.Bsize <= 0 {
		return 0
	}
	free := float64(s.Bavail) * float64(s.Bsize)
	return int64(min(free, math.MaxInt64/2))
}
