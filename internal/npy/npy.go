package npy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
)

// Elem is the type of an array's elements: NumPy's letter ('b' bool, 'i' signed, 'u' unsigned, 'f' float,
// 'c' complex) and the bytes of one.
type Elem struct {
	Kind byte
	Size int
}

// String is how NumPy spells the type: "f4".
func (e Elem) String() string { return fmt.Sprintf("%c%d", e.Kind, e.Size) }

// known lists what there is.
var known = map[byte][]int{'b': {1}, 'i': {1, 2, 4, 8}, 'u': {1, 2, 4, 8}, 'f': {2, 4, 8}, 'c': {8, 16}}

// File is an open array.
type File struct {
	Elem  Elem
	Shape []int

	at      io.ReaderAt
	start   int64
	swap    bool   // elements are big-endian
	fortran bool   // first index fastest
	whole   []byte // all elements in order, once somebody needed them so
	closer  io.Closer
	name    string
}

// Reasons why a file is no array.
var (
	ErrHeader = errors.New("not a NumPy array")
	ErrShort  = errors.New("the file is shorter than its header says")
	ErrType   = errors.New("elements of a type that pare does not read")
)

const (
	magic     = "\x93NUMPY"
	maxHeader = 1 << 16
	maxElems  = math.MaxInt64 / 64
)

// Open opens an array file and reads its header: .npy or IDX, told apart by content.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.As(fault.ErrMisuse, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, errors.New("not a file"))}
	}
	var a *File
	if err == nil {
		a, err = Read(f, st.Size())
	}
	if err != nil {
		var fe *fault.Error
		if !errors.As(err, &fe) {
			err = &fault.Error{File: path, Err: err}
		} else if fe.File == "" {
			fe.File = path
		}
		return nil, errors.Join(err, f.Close())
	}
	a.closer, a.name = f, path
	return a, nil
}

// Read reads the header of an array of size bytes.
func Read(r io.ReaderAt, size int64) (*File, error) {
	head := make([]byte, min(size, 12))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		return readZipped(r, size)
	case len(head) >= 4 && head[0] == 0 && head[1] == 0:
		return readIDX(r, size)
	case len(head) < 10 || string(head[:6]) != magic:
		return nil, ErrHeader
	}
	var length, from int64
	switch head[6] {
	case 1:
		length, from = int64(binary.LittleEndian.Uint16(head[8:])), 10
	case 2, 3:
		if len(head) < 12 {
			return nil, ErrShort
		}
		length, from = int64(binary.LittleEndian.Uint32(head[8:])), 12
	default:
		return nil, fmt.Errorf("%w: format %d.%d", ErrHeader, head[6], head[7])
	}
	if length > maxHeader || from+length > size {
		return nil, fmt.Errorf("%w: a header of %d bytes in a file of %d", ErrShort, length, size)
	}
	text := make([]byte, length)
	if _, err := r.ReadAt(text, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	a, err := parseHeader(string(text))
	if err != nil {
		return nil, err
	}
	a.at, a.start = r, from+length
	return a, a.fits(size)
}

// The header is a Python dictionary of exactly these three keys, in any order.
var (
	descrKey = regexp.MustCompile(`['"]descr['"]\s*:\s*(?:['"]([<>|=]?)([a-zA-Z?])([0-9]*)['"]|(\[))`)
	orderKey = regexp.MustCompile(`['"]fortran_order['"]\s*:\s*(True|False)\b`)
	shapeKey = regexp.MustCompile(`['"]shape['"]\s*:\s*\(([0-9,\sL]*)\)`)
)

func parseHeader(text string) (*File, error) {
	d, o, s := descrKey.FindStringSubmatch(text), orderKey.FindStringSubmatch(text), shapeKey.FindStringSubmatch(text)
	if d == nil || o == nil || s == nil {
		return nil, ErrHeader
	}
	if d[4] != "" {
		return nil, fmt.Errorf("%w: a structure of several fields", ErrType)
	}
	a := &File{Shape: []int{}, fortran: o[1] == "True", swap: d[1] == ">"}
	a.Elem.Kind = d[2][0]
	if a.Elem.Kind == '?' {
		a.Elem.Kind, d[3] = 'b', "1"
	}
	a.Elem.Size, _ = strconv.Atoi(d[3]) // not a number: no size that is known
	if !slices.Contains(known[a.Elem.Kind], a.Elem.Size) {
		return nil, fmt.Errorf("%w: %q", ErrType, d[2]+d[3])
	}
	for part := range strings.SplitSeq(s[1], ",") {
		part = strings.TrimSuffix(strings.TrimSpace(part), "L") // Python 2 wrote 3L
		if part == "" {
			continue
		}
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, fmt.Errorf("%w: shape (%s)", ErrHeader, s[1])
		}
		a.Shape = append(a.Shape, n)
	}
	return a, nil
}

// fits compares what the header promises with what is there, before anything is allocated.
func (a *File) fits(size int64) error {
	if len(a.Shape) > 64 {
		return fmt.Errorf("%w: %d dimensions", ErrHeader, len(a.Shape))
	}
	n := int64(1)
	for _, d := range a.Shape {
		if d > 0 && n > maxElems/int64(d) {
			return fmt.Errorf("%w: shape %v", ErrShort, a.Shape)
		}
		n *= int64(d)
	}
	if need := n * int64(a.Elem.Size); need > size-a.start {
		return fmt.Errorf("%w: %d bytes of elements, %d are there", ErrShort, need, size-a.start)
	}
	return nil
}

// Len is the number of rows: elements along the first axis, 1 for a scalar.
func (a *File) Len() int {
	if len(a.Shape) == 0 {
		return 1
	}
	return a.Shape[0]
}

// Elems is the number of elements.
func (a *File) Elems() int {
	n := 1
	for _, d := range a.Shape {
		n *= d
	}
	return n
}

// Rows reads rows [lo,hi) along the first axis, in C order and little-endian.
func (a *File) Rows(lo, hi int) ([]byte, error) {
	if lo < 0 || hi < lo || hi > a.Len() {
		return nil, fmt.Errorf("rows %d to %d of %d", lo, hi, a.Len())
	}
	if a.Len() == 0 {
		return nil, nil
	}
	row := a.Elems() / a.Len() * a.Elem.Size
	if a.fortran && len(a.Shape) > 1 {
		if err := a.transpose(); err != nil {
			return nil, err
		}
	}
	if a.whole != nil {
		return slices.Clone(a.whole[lo*row : hi*row]), nil
	}
	b := make([]byte, (hi-lo)*row)
	if _, err := a.at.ReadAt(b, a.start+int64(lo)*int64(row)); err != nil && !errors.Is(err, io.EOF) {
		return nil, &fault.Error{File: a.name, Op: "read", Err: err}
	}
	a.order(b)
	return b, nil
}

// All reads every element.
func (a *File) All() ([]byte, error) { return a.Rows(0, a.Len()) }

// order makes elements little-endian.
func (a *File) order(b []byte) {
	if !a.swap {
		return
	}
	part := a.Elem.Size
	if a.Elem.Kind == 'c' {
		part /= 2
	}
	for i := 0; i+part <= len(b); i += part {
		slices.Reverse(b[i : i+part])
	}
}

// transpose reads an array in Fortran order into C order.
func (a *File) transpose() error {
	if a.whole != nil {
		return nil
	}
	raw := make([]byte, a.Elems()*a.Elem.Size)
	if _, err := a.at.ReadAt(raw, a.start); err != nil && !errors.Is(err, io.EOF) {
		return &fault.Error{File: a.name, Op: "read", Err: err}
	}
	a.order(raw)
	stride := make([]int, len(a.Shape)) // of each axis in raw, in elements
	n := 1
	for i, d := range a.Shape {
		stride[i] = n
		n *= d
	}
	a.whole = make([]byte, len(raw))
	index, from, size := make([]int, len(a.Shape)), 0, a.Elem.Size
	for to := 0; to < len(raw); to += size {
		copy(a.whole[to:to+size], raw[from*size:])
		for k := len(index) - 1; k >= 0; k-- {
			index[k]++
			from += stride[k]
			if index[k] < a.Shape[k] {
				break
			}
			from -= index[k] * stride[k]
			index[k] = 0
		}
	}
	return nil
}

// Close closes the file.
func (a *File) Close() error {
	if a.closer == nil {
		return nil
	}
	return a.closer.Close()
}
