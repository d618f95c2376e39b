// Package pickle reads the tensors of PyTorch checkpoints (.bin, .pt, .pth: a zip archive with a
// pickle and the storages) and executes nothing. A pickle is a program; this reader interprets the
// subset that torch.save writes for dictionaries of tensors and refuses every other instruction,
// every global but a short list, and the old formats that are not zip archives.
//
// Globals understood: torch._utils._rebuild_tensor_v2, the torch.*Storage types and
// collections.OrderedDict. Nothing is imported or called: the three are names for "a tensor", "a
// storage" and "a dictionary".
//
// Sources: Python's pickletools (the meaning of each opcode); torch/serialization.py (archive layout).
package pickle

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"
	"unicode/utf8"

	"github.com/pare-dev/pare/internal/storage"
)

// Reasons for refusing a file.
var (
	ErrArchive   = errors.New("not a PyTorch zip archive")
	ErrLegacy    = errors.New("PyTorch file from before version 1.6, which is not a zip archive")
	ErrForbidden = errors.New("the pickle asks for something other than tensors")
	ErrPickle    = errors.New("broken pickle")
	ErrRange     = errors.New("tensor outside its storage")
)

// Limits. A real checkpoint stays far below them.
const (
	maxPickle  = 64 << 20 // bytes of data.pkl
	maxEntries = 1 << 20  // files in the archive
	maxDims    = 16
)

// Tensor is one tensor of the checkpoint.
type Tensor struct {
	Name   string // keys of nested dictionaries joined by dots; "" for a file that is one tensor
	Type   storage.Type
	Shape  []int // outermost first; empty for a scalar
	Offset int64 // of element zero, from the start of the file
	Size   int64 // bytes of the elements, without the gaps of a strided view

	strides []int // in elements; nil when the elements lie in row-major order
}

// File is a parsed checkpoint.
type File struct {
	Tensors []Tensor // in the order of the dictionary
	Other   []string // keys whose values are not tensors (an epoch, a name)
}

// Parse reads the archive's directory and the pickle. The data of the tensors is not touched.
func Parse(r io.ReaderAt, size int64) (*File, error) {
	if err := sniff(r, size); err != nil {
		return nil, err
	}
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrArchive, err)
	}
	a, program, err := openArchive(z, r, size)
	if err != nil {
		return nil, err
	}
	m := machine{in: program, storage: a.storage}
	root, err := m.run()
	if err != nil {
		return nil, fmt.Errorf("byte %d: %w", m.at, err)
	}
	f := &File{}
	c := collector{f: f, names: map[string]bool{}, budget: 16*len(program) + 1<<12}
	if err := c.add("", root, 0); err != nil {
		return nil, err
	}
	if len(f.Tensors) == 0 {
		return nil, fmt.Errorf("%w: it holds no tensor", ErrPickle)
	}
	return f, nil
}

// sniff tells archives from the formats before them.
func sniff(r io.ReaderAt, size int64) error {
	var head [4]byte
	if size < int64(len(head)) {
		return fmt.Errorf("%w: %d bytes", ErrArchive, size)
	}
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return err
	}
	switch {
	case bytes.HasPrefix(head[:], []byte("PK")):
		return nil
	case head[0] == 0x80 && head[1] <= 5:
		return fmt.Errorf("%w; load it with PyTorch and save it again, best as safetensors", ErrLegacy)
	}
	return ErrArchive
}

// archive is the directory of the zip: where each storage lies.
type archive struct {
	data map[string]extent
}

type extent struct{ off, size int64 }

func openArchive(z *zip.Reader, r io.ReaderAt, size int64) (*archive, []byte, error) {
	if len(z.File) > maxEntries {
		return nil, nil, fmt.Errorf("%w: %d entries", ErrArchive, len(z.File))
	}
	all := map[string]extent{}
	root, found := "", false
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		if _, dup := all[f.Name]; dup {
			return nil, nil, fmt.Errorf("%w: entry %q twice", ErrArchive, f.Name)
		}
		off, err := f.DataOffset()
		if err != nil {
			return nil, nil, fmt.Errorf("%w: entry %q: %w", ErrArchive, f.Name, err)
		}
		n := f.UncompressedSize64
		switch {
		case f.Method != zip.Store || f.CompressedSize64 != n:
			return nil, nil, fmt.Errorf("%w: entry %q is compressed; PyTorch stores", ErrArchive, f.Name)
		case f.Flags&1 != 0:
			return nil, nil, fmt.Errorf("%w: entry %q is encrypted", ErrArchive, f.Name)
		case off < 0 || off > size || n > uint64(size-off):
			return nil, nil, fmt.Errorf("%w: entry %q reaches past the end of the file", ErrArchive, f.Name)
		}
		all[f.Name] = extent{off, int64(n)}
		if dir, ok := strings.CutSuffix(f.Name, "data.pkl"); ok && strings.Count(dir, "/") == 1 && strings.HasSuffix(dir, "/") {
			if found {
				return nil, nil, fmt.Errorf("%w: two pickles", ErrArchive)
			}
			root, found = dir, true
		}
	}
	if !found {
		return nil, nil, fmt.Errorf("%w: it has no data.pkl", ErrArchive)
	}
	read := func(e extent, most int64) ([]byte, error) {
		if e.size > most {
			return nil, fmt.Errorf("%w: an entry of %d bytes where at most %d belong", ErrArchive, e.size, most)
		}
		b := make([]byte, e.size)
		_, err := r.ReadAt(b, e.off)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return b, err
	}
	if e, ok := all[root+"byteorder"]; ok {
		b, err := read(e, 16)
		if err != nil {
			return nil, nil, err
		}
		if string(b) != "little" {
			return nil, nil, fmt.Errorf("%w: byte order %q", ErrArchive, b)
		}
	}
	program, err := read(all[root+"data.pkl"], maxPickle)
	if err != nil {
		return nil, nil, err
	}
	a := &archive{data: map[string]extent{}}
	for name, e := range all {
		if key, ok := strings.CutPrefix(name, root+"data/"); ok {
			a.data[key] = e
		}
	}
	return a, program, nil
}

// storageTypes maps the classes of torch to stored types.
var storageTypes = map[string]storage.Type{
	"DoubleStorage": storage.F64, "FloatStorage": storage.F32, "HalfStorage": storage.F16, "BFloat16Storage": storage.BF16,
	"LongStorage": storage.I64, "IntStorage": storage.I32, "ShortStorage": storage.I16, "CharStorage": storage.I8,
	"ByteStorage": storage.U8, "BoolStorage": storage.Bool,
}

// storage resolves a persistent id ("storage", class, key, location, count).
func (a *archive) storage(id tuple) (*store, error) {
	if len(id) != 5 {
		return nil, fmt.Errorf("%w: a persistent id of %d parts", ErrPickle, len(id))
	}
	kind, _ := id[0].(string)
	class, _ := id[1].(global)
	key, okKey := id[2].(string)
	count, okCount := id[4].(int64)
	typ, okType := storageTypes[strings.TrimPrefix(string(class), "torch ")]
	if kind != "storage" || !okKey || !okCount || !okType || !strings.HasPrefix(string(class), "torch ") {
		return nil, fmt.Errorf("%w: a persistent id that is no storage", ErrForbidden)
	}
	e, ok := a.data[key]
	if !ok {
		return nil, fmt.Errorf("%w: storage %q is not in the archive", ErrRange, key)
	}
	width := int64(storage.MustLookup(typ).BlockBytes)
	if count < 0 || count > e.size/width {
		return nil, fmt.Errorf("%w: storage %q claims %d elements of %d bytes, the archive holds %d bytes", ErrRange, key, count, width, e.size)
	}
	return &store{typ: typ, off: e.off, elems: count}, nil
}

// rebuild makes a tensor of the arguments of _rebuild_tensor_v2: storage, offset, size, stride,
// requires_grad, hooks.
func rebuild(args tuple) (*Tensor, error) {
	if len(args) < 6 || len(args) > 7 {
		return nil, fmt.Errorf("%w: a tensor of %d arguments", ErrPickle, len(args))
	}
	s, okStore := args[0].(*store)
	at, okAt := args[1].(int64)
	shape, okShape := counts(args[2])
	strides, okStrides := counts(args[3])
	if !okStore || !okAt || !okShape || !okStrides || len(shape) != len(strides) || len(shape) > maxDims || at < 0 {
		return nil, fmt.Errorf("%w: malformed tensor", ErrPickle)
	}
	elems, last, contiguous := uint64(1), uint64(at), true
	for d := len(shape) - 1; d >= 0; d-- {
		if shape[d] == 0 {
			return nil, fmt.Errorf("%w: a tensor without elements", ErrRange)
		}
		contiguous = contiguous && (shape[d] == 1 || uint64(strides[d]) == elems)
		over1, n := bits.Mul64(elems, uint64(shape[d]))
		over2, reach := bits.Mul64(uint64(shape[d]-1), uint64(strides[d]))
		if over1 != 0 || over2 != 0 || n > math.MaxInt64/16 || reach > math.MaxInt64/16 {
			return nil, fmt.Errorf("%w: shape %v", ErrRange, shape)
		}
		elems, last = n, last+reach
		if last >= uint64(s.elems) {
			return nil, fmt.Errorf("%w: shape %v, strides %v from element %d, the storage holds %d", ErrRange, shape, strides, at, s.elems)
		}
	}
	if last >= uint64(s.elems) || elems > uint64(s.elems) { // an expanded view repeats elements: refused
		return nil, fmt.Errorf("%w: %d elements in a storage of %d", ErrRange, elems, s.elems)
	}
	width := int64(storage.MustLookup(s.typ).BlockBytes)
	t := &Tensor{Type: s.typ, Shape: shape, Offset: s.off + at*width, Size: int64(elems) * width}
	if !contiguous {
		t.strides = strides
	}
	return t, nil
}

// counts reads a tuple of non-negative integers.
func counts(v any) ([]int, bool) {
	list, ok := v.(tuple)
	if !ok {
		return nil, false
	}
	out := make([]int, len(list))
	for i, x := range list {
		n, ok := x.(int64)
		if !ok || n < 0 || int64(int(n)) != n {
			return nil, false
		}
		out[i] = int(n)
	}
	return out, true
}

// ReadAt reads bytes [off, off+len(p)) of the tensor's elements in row-major order, whole elements
// only, from the file that was parsed.
func (t *Tensor) ReadAt(r io.ReaderAt, p []byte, off int64) error {
	width := int64(storage.MustLookup(t.Type).BlockBytes)
	if off < 0 || off > t.Size-int64(len(p)) || off%width != 0 || int64(len(p))%width != 0 {
		return fmt.Errorf("%w: bytes [%d,+%d) of %d", ErrRange, off, len(p), t.Size)
	}
	if len(p) == 0 {
		return nil
	}
	if t.strides == nil {
		return readFull(r, p, t.Offset+off)
	}
	// A strided view: elements are picked one by one through a window of the file.
	win := window{r: r, end: t.reach(width)}
	for i := off / width; len(p) > 0; i++ {
		at, rest := int64(0), i
		for d := len(t.Shape) - 1; d >= 0; d-- {
			at += rest % int64(t.Shape[d]) * int64(t.strides[d])
			rest /= int64(t.Shape[d])
		}
		b, err := win.bytes(t.Offset+at*width, width)
		if err != nil {
			return err
		}
		p = p[copy(p, b):]
	}
	return nil
}

// reach is the file offset after the last element.
func (t *Tensor) reach(width int64) int64 {
	at := int64(1)
	for d, n := range t.Shape {
		at += int64(n-1) * int64(t.strides[d])
	}
	return t.Offset + at*width
}

// window holds one piece of a file.
type window struct {
	r   io.ReaderAt
	end int64
	off int64
	buf []byte
}

func (w *window) bytes(off, n int64) ([]byte, error) {
	if off < w.off || off+n > w.off+int64(len(w.buf)) {
		w.off = off
		w.buf = make([]byte, min(64<<10, w.end-off))
		if err := readFull(w.r, w.buf, off); err != nil {
			return nil, err
		}
	}
	return w.buf[off-w.off:][:n], nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// collector turns the unpickled value into a list of tensors. Dictionaries can be shared or contain
// themselves, so what is listed is bounded by the size of the pickle and not by its structure.
type collector struct {
	f      *File
	names  map[string]bool
	budget int // values and bytes of names that may still be listed
}

func (c *collector) add(name string, v any, depth int) error {
	switch v := v.(type) {
	case *Tensor:
		if c.names[name] {
			return fmt.Errorf("%w: tensor %q twice", ErrPickle, name)
		}
		c.names[name] = true
		t := *v
		t.Name = name
		c.f.Tensors = append(c.f.Tensors, t)
		return nil
	case *dict:
		if depth == 8 {
			return fmt.Errorf("%w: dictionaries nested deeper than 8", ErrPickle)
		}
		for _, key := range v.keys {
			s, ok := key.(string)
			if !ok {
				s = fmt.Sprint(key)
			}
			if !utf8.ValidString(s) {
				return fmt.Errorf("%w: a key is not UTF-8", ErrPickle)
			}
			if name != "" {
				s = name + "." + s
			}
			if c.budget -= 1 + len(s); c.budget < 0 {
				return fmt.Errorf("%w: dictionaries shared over and over", ErrPickle)
			}
			if err := c.add(s, v.values[key], depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	c.f.Other = append(c.f.Other, name)
	return nil
}
