// Package diskfile writes large files from front to back at the speed of the disk. Where the system
// can, the bytes go there straight from the writer's buffer: pages of the cache that a large file would
// fill cost more time than the disk itself, and push out what others read. Small files and systems that
// cannot are written as usual.
package diskfile

import (
	"errors"
	"os"
	"unsafe"
)

// Buffer is what a writer holds back, and the size of its writes; unit is what their places and lengths
// are multiples of.
const (
	Buffer = 4 << 20
	first  = 64 << 10 // the buffer of a file that may stay small
	unit   = 4096
)

// Writer writes one file. It is not safe for concurrent use.
type Writer struct {
	f      *os.File
	buf    []byte // begins at a multiple of unit
	n      int    // bytes in buf
	off    int64  // bytes written
	direct bool   // past the system's cache
	asked  bool   // whether that works has been tried
	ahead  int64  // end of the space that was reserved
}

// Create makes or empties a file.
func Create(path string) (*Writer, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &Writer{f: f, buf: aligned(first)}, nil
}

// aligned is a buffer that begins at a multiple of unit.
func aligned(n int) []byte {
	b := make([]byte, n+unit)
	at := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % unit)
	return b[at : at+n : at+n]
}

// Write takes the next bytes of the file.
func (w *Writer) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n := copy(w.buf[w.n:], p[done:])
		w.n, done = w.n+n, done+n
		if w.n < len(w.buf) {
			break
		}
		if len(w.buf) < Buffer { // not so small: the real buffer
			big := aligned(Buffer)
			copy(big, w.buf)
			w.buf = big
			continue
		}
		if err := w.flush(); err != nil {
			return done, err
		}
	}
	return done, nil
}

// flush writes the whole buffer.
func (w *Writer) flush() error {
	if !w.asked {
		w.asked, w.direct = true, setDirect(w.f, true) == nil
	}
	if w.direct {
		n, err := w.f.WriteAt(w.buf[:w.n], w.off)
		if err == nil {
			w.off, w.n = w.off+int64(n), 0
			return nil
		}
		if !refused(err) || n > 0 {
			return err
		}
		if err := w.through(); err != nil { // the file system takes the flag but not the writes
			return err
		}
	}
	const step = 64 << 20
	if w.off+int64(w.n) > w.ahead {
		w.ahead = w.off + step
		reserve(w.f, w.off, step)
	}
	n, err := w.f.WriteAt(w.buf[:w.n], w.off)
	w.off, w.n = w.off+int64(n), 0
	return err
}

// through goes back to the system's cache.
func (w *Writer) through() error {
	w.direct = false
	return setDirect(w.f, false)
}

// Close writes what is held back, waits until the file is on disk and closes it.
func (w *Writer) Close() error {
	err := w.finish()
	return errors.Join(err, w.f.Close())
}

func (w *Writer) finish() error {
	if w.direct { // the end is no multiple of unit
		if err := w.through(); err != nil {
			return err
		}
	}
	n, err := w.f.WriteAt(w.buf[:w.n], w.off)
	if err != nil {
		return err
	}
	if size := w.off + int64(n); w.ahead > size {
		if err := w.f.Truncate(size); err != nil { // gives back what was reserved
			return err
		}
	}
	return w.f.Sync()
}

// Abandon closes the file without waiting for the disk; what it holds is of no use.
func (w *Writer) Abandon() error { return w.f.Close() }
