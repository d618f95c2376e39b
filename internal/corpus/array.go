package corpus

import (
	"encoding/binary"
	"errors"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/npy"
)

// readArray reads token ids: a document of one dimension, or one in each row of two.
func (r *reader) readArray(s Source) (err error) {
	f, err := npy.Open(s.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size := int64(f.Elem.Size)
	switch {
	case f.Elem.Kind != 'i' && f.Elem.Kind != 'u':
		return refuse(s.Path, "write integers", "elements are %s, token ids are integers", f.Elem)
	case len(f.Shape) != 1 && len(f.Shape) != 2:
		return refuse(s.Path, "give [tokens] or [documents, tokens]", "the array has %d dimensions", len(f.Shape))
	case f.Elems() == 0:
		return refuse(s.Path, "", "the array is empty")
	case f.Elems() > maxBytes/4 || int64(f.Elems())*size > maxBytes: // tokens take 4 bytes in memory, whatever they take in the file
		return refuse(s.Path, "cut it", "more than %d bytes of tokens", maxBytes)
	}
	raw, err := f.All()
	if err != nil {
		return &fault.Error{File: s.Path, Op: "text", Err: err}
	}
	r.digest.Write(raw)
	cols := f.Shape[len(f.Shape)-1]
	row := make([]int64, cols)
	for at := 0; at < f.Elems() && !r.full(); at += cols {
		for i := range row {
			row[i] = element(raw[int64(at+i)*size:], f.Elem)
		}
		ids, err := known(s.Path, row, r.o.Vocab)
		if err != nil {
			return err
		}
		r.put(unit{ids: ids, own: true})
	}
	return nil
}

// element is one little-endian integer. Unsigned ones beyond 63 bits become negative, which no token is.
func element(b []byte, e npy.Elem) int64 {
	switch e.Size {
	case 1:
		if e.Kind == 'i' {
			return int64(int8(b[0]))
		}
		return int64(b[0])
	case 2:
		v := binary.LittleEndian.Uint16(b)
		if e.Kind == 'i' {
			return int64(int16(v)) //nolint:gosec // two's complement
		}
		return int64(v)
	case 4:
		v := binary.LittleEndian.Uint32(b)
		if e.Kind == 'i' {
			return int64(int32(v)) //nolint:gosec // two's complement
		}
		return int64(v)
	}
	return int64(binary.LittleEndian.Uint64(b)) //nolint:gosec // two's complement
}
