package npy

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
)

// Writer writes an array in NumPy's format 1.0, C order, little-endian, piece by piece
// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html). The file appears under its name
// when it is complete.
type Writer struct {
	path string
	f    *os.File
	w    *bufio.Writer
	buf  []byte
	left int
}

// Create begins an array.
func Create(path string, elem Elem, shape ...int) (*Writer, error) {
	mark := "<"
	if elem.Size == 1 {
		mark = "|"
	}
	return create(path, mark+elem.String(), elem.Size, shape)
}

func create(path, descr string, size int, shape []int) (*Writer, error) {
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return nil, err
	}
	n := &Writer{path: path, f: f, w: bufio.NewWriterSize(f, 1<<16), left: size}
	dims := make([]string, len(shape))
	for i, d := range shape {
		dims[i] = fmt.Sprint(d)
		n.left *= d
	}
	text := strings.Join(dims, ", ")
	if len(shape) == 1 {
		text += ","
	}
	head := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, text)
	// magic, version, length and header together are a multiple of 64, ending in a newline
	head += strings.Repeat(" ", 63-(10+len(head))%64) + "\n"
	start := append([]byte(magic+"\x01\x00"), byte(len(head)), byte(len(head)>>8))
	if _, err := n.w.Write(append(start, head...)); err != nil {
		return nil, errors.Join(err, n.abandon())
	}
	return n, nil
}

// Write adds elements, little-endian.
func (n *Writer) Write(b []byte) (int, error) {
	n.left -= len(b)
	return n.w.Write(b)
}

// Floats adds elements of an array of f4.
func (n *Writer) Floats(x []float32) error {
	n.buf = n.buf[:0]
	for _, v := range x {
		n.buf = binary.LittleEndian.AppendUint32(n.buf, math.Float32bits(v))
	}
	_, err := n.Write(n.buf)
	return err
}

// Close finishes the file, or removes it when elements are missing.
func (n *Writer) Close() error {
	if n.left != 0 {
		return n.abandon()
	}
	if err := errors.Join(n.w.Flush(), n.f.Close()); err != nil {
		return errors.Join(err, os.Remove(n.path+".tmp"))
	}
	return os.Rename(n.path+".tmp", n.path)
}

func (n *Writer) abandon() error { return errors.Join(n.f.Close(), os.Remove(n.path+".tmp")) }

// Strings writes an array of texts, in NumPy's type U: code points of 32 bits, padded with zeros to the longest.
func Strings(path string, texts []string, shape ...int) (err error) {
	longest := 1
	for _, t := range texts {
		longest = max(longest, len([]rune(t)))
	}
	n, err := create(path, fmt.Sprintf("<U%d", longest), 4*longest, shape)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	for _, t := range texts {
		b := make([]byte, 4*longest)
		for i, r := range []rune(t) {
			binary.LittleEndian.PutUint32(b[4*i:], uint32(r)) //nolint:gosec // a code point
		}
		if _, err := n.Write(b); err != nil {
			return err
		}
	}
	return nil
}
