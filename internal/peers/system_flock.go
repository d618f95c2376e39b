//go:build linux || darwin

package main

import (
	"errors"
	"os"
	"runtime"
	"syscall"
)

// peakOf is the largest resident memory of a process that ended, mapped pages of files included.
func peakOf(p *os.ProcessState) float64 {
	u, ok := p.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return float64(u.Maxrss) // bytes there, kilobytes elsewhere
	}
	return float64(u.Maxrss) * 1024
}

// hold waits for the exclusive lock of a file, as flock(1) does, and gives the release.
func hold(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // a lock that others share
	if err != nil {
		return nil, err
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX) //nolint:gosec // descriptors are small
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // which gives the lock back
}
