package quantize

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"

	"github.com/pare-dev/pare/internal/fault"
)

// parseLegacy reads the form of importance matrix that llama.cpp wrote before GGUF ("imatrix.dat"):
// i32 entries; for each i32 length and name, i32 calls, i32 n, n float32 mean squares times calls;
// then, optionally, i32 chunks and i32 length and name of the text. Little endian, no magic number,
// so every count is held against what is left of the file before it is believed.
func parseLegacy(r io.ReaderAt, size int64) (*Statistics, error) {
	d := &legacy{r: r, left: size}
	s := &Statistics{Layers: map[string]*InputStats{}}
	n := d.count(12)
	for range n {
		name := string(d.take(d.count(1)))
		calls := d.int32()
		b := d.take(4 * d.count(4))
		if d.err != nil {
			return nil, fmt.Errorf("%w: %w", errNotImatrix, d.err)
		}
		if name == "" || !utf8.ValidString(name) || calls <= 0 || len(b) == 0 || s.Layers[name] != nil {
			return nil, fmt.Errorf("%w: entry %q of %d values and %d calls", errNotImatrix, name, len(b)/4, calls)
		}
		l := &InputStats{Sums: make([]float32, len(b)/4), Counts: []float32{float32(calls)}}
		for i := range l.Sums {
			v := math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
			if v-v != 0 || v < 0 {
				return nil, fmt.Errorf("tensor %q: %v: %w", name, v, fault.ErrNotFinite)
			}
			l.Sums[i] = v
		}
		s.Layers[name] = l
	}
	if d.err != nil || n == 0 {
		return nil, fmt.Errorf("%w: %w", errNotImatrix, errors.Join(d.err, errEmpty(n)))
	}
	if d.left > 0 { // newer files end with these
		s.Chunks = d.int32()
		text := string(d.take(d.count(1)))
		if d.err != nil || s.Chunks < 0 || d.left > 0 {
			return nil, fmt.Errorf("%w: %d stray bytes at the end", errNotImatrix, d.left)
		}
		s.Datasets = []string{text}
	}
	return s, nil
}

func errEmpty(n int) error {
	if n == 0 {
		return errors.New("no entries")
	}
	return nil
}

// legacy reads forward and remembers the first error; after it everything is zero.
type legacy struct {
	r    io.ReaderAt
	at   int64
	left int64
	err  error
}

func (d *legacy) take(n int) []byte {
	if d.err == nil && int64(n) > d.left {
		d.err = io.ErrUnexpectedEOF
	}
	if d.err != nil {
		return nil
	}
	b := make([]byte, n)
	if _, err := d.r.ReadAt(b, d.at); err != nil {
		d.err = err
		return nil
	}
	d.at, d.left = d.at+int64(n), d.left-int64(n)
	return b
}

func (d *legacy) int32() int {
	b := d.take(4)
	if b == nil {
		return 0
	}
	return int(int32(binary.LittleEndian.Uint32(b)))
}

// count reads a number of things that take at least each bytes in the rest of the file.
func (d *legacy) count(each int64) int {
	n := d.int32()
	if d.err == nil && (n < 0 || int64(n) > d.left/each) {
		d.err = fmt.Errorf("%d of something, with %d bytes left", n, d.left)
	}
	if d.err != nil {
		return 0
	}
	return n
}
