//go:build !unix && !windows

package proc

func peakMemory() int64 { return 0 }
