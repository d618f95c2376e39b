//go:build unix

package mapped

import (
	"os"

	"golang.org/x/sys/unix"
)

func mapFile(f *os.File, size int) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED) //nolint:gosec // descriptors are small
}

// drop takes pages out of the process. The mapping is shared and never written, so nothing is lost;
// that the call fails on some kind of file only leaves them where they are.
func drop(b []byte) { _ = unix.Madvise(b, unix.MADV_DONTNEED) }

func unmap(b []byte) error { return unix.Munmap(b) }
