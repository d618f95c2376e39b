package diskfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// setDirect makes writes go past the page cache, or no longer.
func setDirect(f *os.File, on bool) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	flags &^= unix.O_DIRECT
	if on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags)
	return err
}

// refused says that a file system does not take direct writes after all.
func refused(err error) bool { return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) }

// reserve asks for space on disk without changing the size of the file. Blocks that lie together are
// written faster; where the system cannot, nothing is lost.
func reserve(f *os.File, off, n int64) {
	_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n) //nolint:gosec // descriptors are small
}
