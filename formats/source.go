package formats

import (
	"context"
	"sync"

	"github.com/pare-dev/pare/internal/mapped"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// fileSource is the data of a tensor that lies contiguously in a file, row after row.
type fileSource struct {
	f        *mapped.File
	off      int64
	info     *storage.Info
	rows     int
	cols     int
	rowBytes int64
}

// newFileSource makes the source of a tensor whose range [off, off+size) has been checked.
func newFileSource(f *mapped.File, off int64, t *ir.Tensor) (*fileSource, error) {
	row, err := t.Type.RowBytes(t.Cols())
	if err != nil {
		return nil, err
	}
	return &fileSource{f: f, off: off, info: storage.MustLookup(t.Type), rows: t.Rows(), cols: t.Cols(), rowBytes: row}, nil
}

// readChunk bounds the raw bytes that ReadRows holds beside its result.
const readChunk = 256 << 10

var chunks = sync.Pool{New: func() any { b := make([]byte, readChunk); return &b }}

// ReadRows implements ir.Source. Rows lie end to end, so the range is decoded in pieces of whole
// blocks whatever the length of a row.
func (s *fileSource) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if err := ir.CheckRange(s.rows, lo, hi); err != nil {
		return err
	}
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	blocks := (hi - lo) * (s.cols / s.info.BlockElems)
	step := readChunk / s.info.BlockBytes
	off := s.off + int64(lo)*s.rowBytes
	for b := 0; b < blocks; b += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(step, blocks-b)
		raw := (*buf)[:n*s.info.BlockBytes]
		if _, err := s.f.ReadAt(raw, off+int64(b)*int64(s.info.BlockBytes)); err != nil {
			return err
		}
		s.info.Read(dst[b*s.info.BlockElems:(b+n)*s.info.BlockElems], raw)
	}
	return nil
}

// ReadRaw implements ir.Source.
func (s *fileSource) ReadRaw(ctx context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	if err := ir.CheckRange(s.rows, lo, hi); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := s.f.ReadAt(dst, s.off+int64(lo)*s.rowBytes)
	return err
}

// MapRaw implements ir.Mapped.
func (s *fileSource) MapRaw(_ ir.Part, lo, hi int) ([]byte, bool) {
	if ir.CheckRange(s.rows, lo, hi) != nil {
		return nil, false
	}
	return s.f.Bytes(s.off+int64(lo)*s.rowBytes, int64(hi-lo)*s.rowBytes)
}

// DropRaw implements ir.Mapped.
func (s *fileSource) DropRaw(_ ir.Part, lo, hi int) {
	if ir.CheckRange(s.rows, lo, hi) == nil {
		s.f.Drop(s.off+int64(lo)*s.rowBytes, int64(hi-lo)*s.rowBytes)
	}
}
