package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
)

// npyWriter writes a float32 matrix in NumPy's format 1.0 a row at a time
// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html). The file appears under
// its name when it is complete.
type npyWriter struct {
	path string
	f    *os.File
	w    *bufio.Writer
	buf  []byte
	left int
}

func newNpy(path string, rows, cols int) (*npyWriter, error) {
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return nil, err
	}
	head := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", rows, cols)
	// magic, version, length and header together are a multiple of 64, ending in a newline
	head += strings.Repeat(" ", 63-(10+len(head))%64) + "\n"
	n := &npyWriter{path: path, f: f, w: bufio.NewWriterSize(f, 1<<16), buf: make([]byte, 4*cols), left: rows}
	start := append([]byte("\x93NUMPY\x01\x00"), byte(len(head)), byte(len(head)>>8))
	if _, err := n.w.Write(append(start, head...)); err != nil {
		return nil, errors.Join(err, n.abandon())
	}
	return n, nil
}

func (n *npyWriter) row(x []float32) error {
	for i, v := range x {
		binary.LittleEndian.PutUint32(n.buf[4*i:], math.Float32bits(v))
	}
	n.left--
	_, err := n.w.Write(n.buf[:4*len(x)])
	return err
}

// close finishes the file, or removes it when rows are missing.
func (n *npyWriter) close() error {
	if n.left != 0 {
		return n.abandon()
	}
	if err := errors.Join(n.w.Flush(), n.f.Close()); err != nil {
		return errors.Join(err, os.Remove(n.path+".tmp"))
	}
	return os.Rename(n.path+".tmp", n.path)
}

func (n *npyWriter) abandon() error { return errors.Join(n.f.Close(), os.Remove(n.path+".tmp")) }
