// Package mapped reads files that may be larger than memory. Conversions use positioned reads into
// their own buffers, so that what they hold is what they allocated; the runner, which comes back
// to the same weights for every token, asks for a mapping. The mapping is made on first use.
package mapped

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"sync/atomic"
)

// File is an open file of fixed size. Its methods are safe for concurrent use, Close excepted.
type File struct {
	f    *os.File
	size int64

	once sync.Once
	data []byte      // nil when the system cannot map the file
	used atomic.Bool // data is there: for Drop, which may come before the first Bytes or after Close
}

// ErrNotFile is the reason when a path names a folder, pipe or device.
var ErrNotFile = errors.New("not a regular file")

// Open opens a regular file for reading.
func Open(path string) (*File, error) { return open(path, os.Stat, os.Open) }

// OpenIn opens a regular file below a folder, which no name and no link leads out of.
func OpenIn(root *os.Root, name string) (*File, error) { return open(name, root.Stat, root.Open) }

func open(path string, stat func(string) (os.FileInfo, error), open func(string) (*os.File, error)) (*File, error) {
	st, err := stat(path)
	if err == nil && !st.Mode().IsRegular() {
		err = ErrNotFile // opening a pipe would wait for somebody to write into it
	}
	if err != nil {
		return nil, err
	}
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	st, err = f.Stat() // the file that was opened, which may be another one
	if err == nil && !st.Mode().IsRegular() {
		err = ErrNotFile
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{f: f, size: st.Size()}, nil
}

// Size is the length in bytes when the file was opened.
func (f *File) Size() int64 { return f.size }

// ReadAt fills p from offset off. A range that does not lie inside the file is an error, and
// nothing is read: io.ErrUnexpectedEOF.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > f.size-int64(len(p)) {
		return 0, fmt.Errorf("%w: bytes [%d,+%d) of %d", io.ErrUnexpectedEOF, off, len(p), f.size)
	}
	n, err := f.f.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: the file became shorter while it was read", io.ErrUnexpectedEOF)
	}
	return n, err
}

// Bytes returns a read-only view of [off,off+n), valid until Close, or false when the system does
// not map the file. The whole file is mapped at the first call; pages arrive as they are touched.
func (f *File) Bytes(off, n int64) ([]byte, bool) {
	if off < 0 || n < 0 || off > f.size-n {
		return nil, false
	}
	f.once.Do(func() {
		if f.size > 0 && f.size <= math.MaxInt {
			f.data, _ = mapFile(f.f, int(f.size)) // without a mapping the caller reads instead
			f.used.Store(f.data != nil)
		}
	})
	if f.data == nil {
		return nil, false
	}
	return f.data[off : off+n : off+n], true
}

// Drop gives the memory behind [off,off+n) of the mapping back. Views stay valid: what is touched
// again is read again. It does nothing where the system has no such call, and after Close.
func (f *File) Drop(off, n int64) {
	if !f.used.Load() || off < 0 || n <= 0 || off > f.size-n {
		return
	}
	page := int64(os.Getpagesize())
	off, n = off/page*page, n+off%page
	drop(f.data[off : off+n : off+n])
}

// Close unmaps and closes the file; views become invalid.
func (f *File) Close() error {
	f.once.Do(func() {}) // no mapping after Close
	var err error
	if f.data != nil {
		f.used.Store(false)
		err = unmap(f.data)
		f.data = nil
	}
	return errors.Join(err, f.f.Close())
}
