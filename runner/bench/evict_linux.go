package bench

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// evict asks the system to drop the files' pages from its cache, and reports whether they are gone:
// other users of a file, and some file systems, keep them.
func evict(files []string) bool {
	for _, name := range files {
		if !evictFile(name) {
			return false
		}
	}
	return len(files) > 0
}

func evictFile(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || f.Sync() != nil { // only clean pages can be dropped
		return false
	}
	fd := int(f.Fd())
	if unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) != nil {
		return false
	}
	// A read that must not wait says whether the data is cached. Sixteen places of the file stand for
	// all of it.
	for i := range int64(16) {
		b := [][]byte{make([]byte, 1)}
		if n, err := unix.Preadv2(fd, b, st.Size()/16*i, unix.RWF_NOWAIT); n > 0 || !errors.Is(err, unix.EAGAIN) {
			return false
		}
		if st.Size() < 1<<16 { // reading ahead would cache the rest of a small file
			break
		}
	}
	return true
}
