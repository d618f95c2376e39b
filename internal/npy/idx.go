package npy

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// idxTypes are the types of IDX files by the third byte (http://yann.lecun.com/exdb/mnist). Elements of
// more than one byte are big-endian.
var idxTypes = map[byte]Elem{
	0x08: {'u', 1}, 0x09: {'i', 1}, 0x0B: {'i', 2}, 0x0C: {'i', 4}, 0x0D: {'f', 4}, 0x0E: {'f', 8},
}

// readIDX reads the header of an IDX file: two zeros, the type, the number of dimensions, and the dimensions as
// big-endian words.
func readIDX(r io.ReaderAt, size int64) (*File, error) {
	head := make([]byte, min(size, 4+4*255))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	elem, ok := idxTypes[head[2]]
	if !ok {
		return nil, fmt.Errorf("%w: IDX type %#02x", ErrType, head[2])
	}
	rank := int(head[3])
	if len(head) < 4+4*rank {
		return nil, fmt.Errorf("%w: %d dimensions", ErrShort, rank)
	}
	a := &File{Elem: elem, Shape: make([]int, rank), at: r, start: int64(4 + 4*rank), swap: elem.Size > 1}
	for i := range a.Shape {
		a.Shape[i] = int(binary.BigEndian.Uint32(head[4+4*i:]))
	}
	return a, a.fits(size)
}

// maxUnzipped bounds a compressed array. gzip makes at most 1032 bytes of one, so a small file stays small.
const maxUnzipped = 1 << 30

// readZipped reads a compressed array into memory.
func readZipped(r io.ReaderAt, size int64) (*File, error) {
	z, err := gzip.NewReader(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(z, maxUnzipped+1))
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	if len(b) > maxUnzipped {
		return nil, fmt.Errorf("%w: more than %d bytes when unzipped", ErrHeader, maxUnzipped)
	}
	if len(b) >= 2 && b[0] == 0x1f && b[1] == 0x8b {
		return nil, fmt.Errorf("%w: gzip in gzip", ErrHeader)
	}
	return Read(bytes.NewReader(b), int64(len(b)))
}
