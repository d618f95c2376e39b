package mapped

import "golang.org/x/sys/unix"

// large asks for large pages: they are filled in one fault instead of 512.
func large(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }
