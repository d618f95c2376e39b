package gguf

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"unicode/utf8"
)

var le = binary.LittleEndian

// Value type ids of the format.
const (
	typeUint8 = iota
	typeInt8
	typeUint16
	typeInt16
	typeUint32
	typeInt32
	typeFloat32
	typeBool
	typeString
	typeArray
	typeUint64
	typeInt64
	typeFloat64
)

// valueSize is the fewest bytes that a value of a type takes in a file.
var valueSize = [...]int64{1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8}

const (
	maxKey    = 1 << 16 // bytes of a key, by the specification
	maxNested = 4       // arrays in arrays; ggml itself writes none
	maxDims   = 4
)

// Parse reads everything but the data of a file of the given size. What it allocates is bounded by
// a small multiple of the bytes that are really there.
func Parse(r io.ReaderAt, fileSize int64) (*File, error) {
	d := &decoder{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, fileSize), 1<<16), size: fileSize}
	f := &File{keys: map[string]int{}, names: map[string]int{}}
	var magic [4]byte
	if d.bytes(magic[:]); d.err != nil || string(magic[:]) != "GGUF" {
		return nil, ErrMagic
	}
	f.Version = d.u32()
	switch {
	case d.err != nil:
		return nil, d.err
	case f.Version&0xffff == 0:
		return nil, ErrBigEndian
	case f.Version != 2 && f.Version != 3:
		return nil, fmt.Errorf("%w: %d; versions 2 and 3 are read", ErrVersion, f.Version)
	}
	tensors := d.count("tensors", 24)
	kvs := d.count("metadata entries", 13)
	for range kvs {
		if d.kv(f); d.err != nil {
			return nil, d.err
		}
	}
	if d.err == nil {
		d.err = f.alignment()
	}
	for range tensors {
		if d.err != nil {
			break
		}
		d.tensor(f)
	}
	if d.err != nil {
		return nil, d.err
	}
	if len(f.Tensors) == 0 {
		return f, nil // a vocabulary: the file may end without padding
	}
	return f, f.place(d.pos+pad(d.pos, f.Alignment), fileSize)
}

func (f *File) alignment() error {
	f.Alignment = DefaultAlignment
	v, ok := f.Value("general.alignment")
	if !ok {
		return nil
	}
	n, ok := v.(uint32)
	if !ok || n == 0 || n&(n-1) != 0 || n > 1<<20 {
		return fmt.Errorf("%w: general.alignment is %v", ErrAlignment, v)
	}
	f.Alignment = int64(n)
	return nil
}

// place turns offsets into file offsets and checks ranges.
func (f *File) place(data, fileSize int64) error {
	byOffset := make([]*Tensor, len(f.Tensors))
	for i := range f.Tensors {
		t := &f.Tensors[i]
		byOffset[i] = t
		switch {
		case t.Offset%f.Alignment != 0:
			return fmt.Errorf("%w: tensor %q starts at %d, not at a multiple of %d", ErrAlignment, t.Name, t.Offset, f.Alignment)
		case t.Size > fileSize-data || t.Offset > fileSize-data-t.Size:
			return fmt.Errorf("%w: tensor %d of %d, %q, needs %d bytes from %d, but the file ends at %d", ErrTruncated, i+1, len(f.Tensors), t.Name, t.Size, data+t.Offset, fileSize)
		}
		t.Offset += data
	}
	slices.SortStableFunc(byOffset, func(a, b *Tensor) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size))
	})
	for i := 1; i < len(byOffset); i++ {
		if a, b := byOffset[i-1], byOffset[i]; b.Offset < a.Offset+a.Size {
			return fmt.Errorf("%w: tensors %q and %q overlap", ErrRange, a.Name, b.Name)
		}
	}
	return nil
}

// decoder reads the head of a file and remembers the first error; after that it returns zeros.
type decoder struct {
	r    *bufio.Reader
	pos  int64
	size int64
	err  error
	buf  [8]byte
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *decoder) bytes(p []byte) {
	if d.err != nil {
		return
	}
	if int64(len(p)) > d.size-d.pos {
		d.fail(fmt.Errorf("%w: %d bytes needed at %d, the file ends at %d", ErrTruncated, len(p), d.pos, d.size))
		return
	}
	n, err := io.ReadFull(d.r, p)
	d.pos += int64(n)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: at byte %d", ErrTruncated, d.pos)
		}
		d.fail(err)
	}
}

func (d *decoder) fixed(n int) []byte {
	clear(d.buf[:])
	d.bytes(d.buf[:n])
	return d.buf[:n]
}

func (d *decoder) u32() uint32 { return le.Uint32(d.fixed(4)) }
func (d *decoder) u64() uint64 { return le.Uint64(d.fixed(8)) }

// count reads a number of things that take at least each bytes in the rest of the file.
func (d *decoder) count(what string, each int64) int {
	n := d.u64()
	if d.err == nil && n > uint64((d.size-d.pos)/each) { //nolint:gosec // pos never passes size
		d.fail(fmt.Errorf("%w: %d %s in the remaining %d bytes", ErrCount, n, what, d.size-d.pos))
	}
	if d.err != nil {
		return 0
	}
	return int(n) //nolint:gosec // at most the size of the file
}

func (d *decoder) str(what string, most int64) string {
	n := d.count("bytes of a "+what, 1)
	if d.err == nil && int64(n) > most {
		d.fail(fmt.Errorf("%w: a %s of %d bytes, at most %d are allowed", ErrName, what, n, most))
	}
	if d.err != nil {
		return ""
	}
	b := make([]byte, n)
	d.bytes(b)
	return string(b)
}

func (d *decoder) kv(f *File) {
	key := d.str("metadata key", maxKey)
	if d.err == nil && (!utf8.ValidString(key) || key == "") {
		d.fail(fmt.Errorf("%w: metadata key %q", ErrName, key))
	}
	if _, dup := f.keys[key]; dup {
		d.fail(fmt.Errorf("%w: metadata key %q", ErrDuplicate, key))
	}
	v := d.value(d.u32(), 0)
	if d.err != nil {
		d.err = fmt.Errorf("metadata %q: %w", key, d.err)
		return
	}
	f.keys[key] = len(f.KV)
	f.KV = append(f.KV, KV{key, v})
}

func (d *decoder) value(typ uint32, depth int) any {
	switch typ {
	case typeUint8:
		return d.fixed(1)[0]
	case typeInt8:
		return int8(d.fixed(1)[0]) //nolint:gosec // the same bits
	case typeUint16:
		return le.Uint16(d.fixed(2))
	case typeInt16:
		return int16(le.Uint16(d.fixed(2))) //nolint:gosec // the same bits
	case typeUint32:
		return d.u32()
	case typeInt32:
		return int32(d.u32()) //nolint:gosec // the same bits
	case typeFloat32:
		return math.Float32frombits(d.u32())
	case typeBool:
		b := d.fixed(1)[0]
		if b > 1 {
			d.fail(fmt.Errorf("%w: %d is not a bool", ErrValue, b))
		}
		return b == 1
	case typeString:
		return d.str("string", math.MaxInt64)
	case typeUint64:
		return d.u64()
	case typeInt64:
		return int64(d.u64()) //nolint:gosec // the same bits
	case typeFloat64:
		return math.Float64frombits(d.u64())
	case typeArray:
		return d.array(depth)
	}
	d.fail(fmt.Errorf("%w: type %d", ErrValue, typ))
	return nil
}

func (d *decoder) array(depth int) any {
	typ := d.u32()
	if d.err == nil && typ >= uint32(len(valueSize)) {
		d.fail(fmt.Errorf("%w: array of type %d", ErrValue, typ))
	}
	if depth >= maxNested {
		d.fail(fmt.Errorf("%w: arrays nested %d deep", ErrValue, depth+1))
	}
	if d.err != nil {
		return nil
	}
	n := d.count("array entries", valueSize[typ])
	switch typ {
	case typeUint8:
		return list[uint8](d, typ, n, depth)
	case typeInt8:
		return list[int8](d, typ, n, depth)
	case typeUint16:
		return list[uint16](d, typ, n, depth)
	case typeInt16:
		return list[int16](d, typ, n, depth)
	case typeUint32:
		return list[uint32](d, typ, n, depth)
	case typeInt32:
		return list[int32](d, typ, n, depth)
	case typeFloat32:
		return list[float32](d, typ, n, depth)
	case typeBool:
		return list[bool](d, typ, n, depth)
	case typeString:
		return list[string](d, typ, n, depth)
	case typeUint64:
		return list[uint64](d, typ, n, depth)
	case typeInt64:
		return list[int64](d, typ, n, depth)
	case typeFloat64:
		return list[float64](d, typ, n, depth)
	}
	return list[any](d, typ, n, depth)
}

func list[T any](d *decoder, typ uint32, n, depth int) []T {
	out := make([]T, 0, n)
	for range n {
		v := d.value(typ, depth+1)
		if d.err != nil {
			return nil
		}
		out = append(out, v.(T))
	}
	return out
}

func (d *decoder) tensor(f *File) {
	t := Tensor{Name: d.str("tensor name", MaxName)}
	if d.err != nil {
		return
	}
	switch _, dup := f.names[t.Name]; {
	case dup:
		d.fail(fmt.Errorf("%w: tensor %q", ErrDuplicate, t.Name))
	case t.Name == "" || !utf8.ValidString(t.Name):
		d.fail(fmt.Errorf("%w: tensor %q", ErrName, t.Name))
	}
	dims := d.u32()
	if d.err == nil && dims > maxDims {
		d.fail(fmt.Errorf("%w: tensor %q has %d dimensions", ErrShape, t.Name, dims))
	}
	if d.err != nil {
		return
	}
	t.Shape = make([]int, dims)
	for i := range t.Shape {
		n := d.u64()
		if n > math.MaxInt || n > math.MaxInt64 {
			d.fail(fmt.Errorf("%w: tensor %q has a dimension of %d", ErrShape, t.Name, n))
			return
		}
		t.Shape[len(t.Shape)-1-i] = int(n) //nolint:gosec // checked above
	}
	t.Type = d.u32()
	off := d.u64()
	if off > math.MaxInt64 {
		d.fail(fmt.Errorf("%w: tensor %q starts at %d", ErrTruncated, t.Name, off))
		return
	}
	t.Offset = int64(off)
	var err error
	if t.Size, err = size(t.Type, t.Shape); err != nil {
		d.fail(fmt.Errorf("tensor %q: %w", t.Name, err))
		return
	}
	f.names[t.Name] = len(f.Tensors)
	f.Tensors = append(f.Tensors, t)
}
