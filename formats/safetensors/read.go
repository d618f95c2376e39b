package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Parse reads the header of a file of the given size. The data is not touched.
func Parse(r io.ReaderAt, fileSize int64) (*File, error) {
	if fileSize < 8 {
		return nil, fmt.Errorf("%w: %d bytes, the header length alone takes 8", ErrTooShort, fileSize)
	}
	var lead [8]byte
	if _, err := r.ReadAt(lead[:], 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(lead[:])
	if n > MaxHeader {
		return nil, fmt.Errorf("%w: the file claims %d bytes, at most %d are allowed", ErrHeaderSize, n, MaxHeader)
	}
	if int64(n) > fileSize-8 {
		return nil, fmt.Errorf("%w: the header reaches to byte %d, the file ends at %d", ErrTooShort, n+8, fileSize)
	}
	head := make([]byte, n)
	if _, err := r.ReadAt(head, 8); err != nil {
		return nil, err
	}
	f, err := parseHeader(head)
	if err != nil {
		return nil, err
	}
	return f, f.place(8+int64(n), fileSize)
}

// place sorts the tensors by their data, turns offsets into file offsets, and checks that the
// ranges fill the rest of the file without gap or overlap.
func (f *File) place(data, fileSize int64) error {
	slices.SortStableFunc(f.Tensors, func(a, b Tensor) int {
		if a.Offset != b.Offset {
			if a.Offset < b.Offset {
				return -1
			}
			return 1
		}
		return int(min(max(a.Size-b.Size, -1), 1)) // an empty tensor comes before the one that starts there
	})
	at, before := int64(0), "the header"
	for i := range f.Tensors {
		t := &f.Tensors[i]
		switch {
		case t.Offset < at:
			return fmt.Errorf("%w: tensor %q at %d overlaps %s, which ends at %d", ErrRange, t.Name, t.Offset, before, at)
		case t.Offset > at:
			return fmt.Errorf("%w: %d bytes between %s and tensor %q belong to nothing", ErrRange, t.Offset-at, before, t.Name)
		case t.Size > fileSize-data-at:
			return fmt.Errorf("%w: tensor %q needs bytes [%d,%d), but the data ends at %d", ErrTooShort, t.Name, t.Offset, t.Offset+t.Size, fileSize-data)
		}
		at += t.Size
		t.Offset += data
		before = strconv.Quote(t.Name)
	}
	if rest := fileSize - data - at; rest != 0 {
		return fmt.Errorf("%w: the last %d bytes of the file belong to nothing", ErrRange, rest)
	}
	return nil
}

// parseHeader walks the JSON token by token, because a decoder into maps would drop duplicates.
func parseHeader(head []byte) (*File, error) {
	if !utf8.Valid(head) {
		return nil, fmt.Errorf("%w: invalid UTF-8", ErrHeader)
	}
	if len(head) == 0 || head[0] != '{' {
		return nil, fmt.Errorf("%w: it does not start with {", ErrHeader)
	}
	dec := json.NewDecoder(bytes.NewReader(head))
	dec.UseNumber()
	f := &File{}
	seen := map[string]bool{}
	err := object(dec, func(name string) error {
		if seen[name] {
			return fmt.Errorf("%w: %q", ErrDuplicate, name)
		}
		seen[name] = true
		if name == "__metadata__" {
			return f.parseMetadata(dec)
		}
		t, err := parseTensor(dec, name)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		f.Tensors = append(f.Tensors, t)
		return nil
	})
	if err != nil {
		return nil, header(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) { // padding is spaces
		return nil, fmt.Errorf("%w: something follows the object", ErrHeader)
	}
	return f, nil
}

// header gives errors of the JSON decoder the reason ErrHeader and leaves ours alone.
func header(err error) error {
	for _, own := range []error{ErrHeader, ErrDuplicate, ErrDType, ErrShape, ErrRange, ErrMetadata} {
		if errors.Is(err, own) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrHeader, err)
}

// object reads { key value ... } and calls fn at each value.
func object(dec *json.Decoder, fn func(key string) error) error {
	if err := delim(dec, '{'); err != nil {
		return err
	}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		if err := fn(tok.(string)); err != nil { // the decoder lets only strings be keys
			return err
		}
	}
	return delim(dec, '}')
}

func delim(dec *json.Decoder, want json.Delim) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	if tok != want {
		return fmt.Errorf("%w: %v where %v belongs", ErrHeader, tok, want)
	}
	return nil
}

func (f *File) parseMetadata(dec *json.Decoder) error {
	f.Metadata = map[string]string{}
	return object(dec, func(key string) error {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		s, ok := tok.(string)
		if !ok {
			return fmt.Errorf("%w: %q is %v", ErrMetadata, key, tok)
		}
		if _, dup := f.Metadata[key]; dup {
			return fmt.Errorf("%w: metadata %q", ErrDuplicate, key)
		}
		f.Metadata[key] = s
		return nil
	})
}

func parseTensor(dec *json.Decoder, name string) (Tensor, error) {
	t := Tensor{Name: name, Shape: []int{}}
	var lo, hi int64
	seen := map[string]bool{}
	err := object(dec, func(key string) error {
		if seen[key] {
			return fmt.Errorf("%w: field %q", ErrDuplicate, key)
		}
		seen[key] = true
		switch key {
		case "dtype":
			tok, err := dec.Token()
			if err != nil {
				return err
			}
			s, ok := tok.(string)
			if !ok {
				return fmt.Errorf("%w: %v", ErrDType, tok)
			}
			t.DType = s
		case "shape":
			return array(dec, ErrShape, func(v int64) error {
				if int64(int(v)) != v {
					return fmt.Errorf("%w: dimension %d", ErrShape, v)
				}
				t.Shape = append(t.Shape, int(v))
				return nil
			})
		case "data_offsets":
			n := 0
			err := array(dec, ErrRange, func(v int64) error {
				if n++; n == 1 {
					lo = v
				}
				hi = v
				return nil
			})
			if err == nil && n != 2 {
				err = fmt.Errorf("%w: data_offsets holds %d numbers, not 2", ErrRange, n)
			}
			return err
		default:
			return fmt.Errorf("%w: unknown field %q", ErrHeader, key)
		}
		return nil
	})
	if err != nil {
		return t, err
	}
	for _, field := range []string{"dtype", "shape", "data_offsets"} {
		if !seen[field] {
			return t, fmt.Errorf("%w: field %q is missing", ErrHeader, field)
		}
	}
	need, err := Size(t.DType, t.Shape)
	switch {
	case err != nil:
		return t, err
	case hi < lo:
		return t, fmt.Errorf("%w: [%d,%d) ends before it starts", ErrRange, lo, hi)
	case hi-lo != need:
		return t, fmt.Errorf("%w: %s %v needs %d bytes, data_offsets give %d", ErrRange, t.DType, t.Shape, need, hi-lo)
	}
	t.Offset, t.Size = lo, need
	return t, nil
}

// array reads a list of counts; reason classes what is not one.
func array(dec *json.Decoder, reason error, fn func(v int64) error) error {
	if err := delim(dec, '['); err != nil {
		return err
	}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		num, ok := tok.(json.Number)
		if !ok {
			return fmt.Errorf("%w: %v is not a count", reason, tok)
		}
		v, err := strconv.ParseInt(num.String(), 10, 64)
		if err != nil || v < 0 {
			return fmt.Errorf("%w: %s is not a count", reason, num)
		}
		if err := fn(v); err != nil {
			return err
		}
	}
	return delim(dec, ']')
}
