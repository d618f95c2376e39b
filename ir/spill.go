package ir

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
)

// Spill keeps tensors whose rows are expensive to compute as files of a folder, one each, so that a
// run that was interrupted finds those that were finished.
type Spill struct {
	Dir    string // exists
	Prefix string // of the names: what made them
}

func (s Spill) path(t *Tensor) string {
	return filepath.Join(s.Dir, fmt.Sprintf("%s-%x.bin", s.Prefix, sha256.Sum256([]byte(t.Name)))) // names may hold any character
}

// Open finds a tensor of t's name, type and shape that an earlier run finished; its file appears by
// rename, so it is whole. figures, a pointer to fixed-size values, takes what Finish was given. The
// tensor is nil when there is none.
func (s Spill) Open(t *Tensor, figures any) (*Tensor, error) {
	rows, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(t))
	if err != nil {
		return nil, nil //nolint:nilerr // not there: it will be made
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() != rows+int64(binary.Size(figures)) {
		return nil, nil //nolint:nilerr // of another shape or cut short: it will be made again
	}
	if err := binary.Read(io.NewSectionReader(f, rows, st.Size()-rows), binary.LittleEndian, figures); err != nil {
		return nil, &fault.Error{File: s.path(t), Op: "read", Err: err}
	}
	return s.handle(t)
}

// Create begins the file of a tensor, whose rows follow by Write in t's type, in order. It must be
// closed.
func (s Spill) Create(t *Tensor) (*SpillFile, error) {
	f, err := os.Create(s.path(t) + ".part")
	if err != nil {
		return nil, err
	}
	return &SpillFile{s, t, f}, nil
}

func (s Spill) handle(t *Tensor) (*Tensor, error) {
	rowBytes, err := t.Type.RowBytes(t.Cols())
	if err != nil {
		return nil, err
	}
	return t.With(t.Type, nil, &spilled{path: s.path(t), info: storage.MustLookup(t.Type), rows: t.Rows(), rowBytes: rowBytes}), nil
}

// SpillFile is the file of one tensor in the making.
type SpillFile struct {
	s Spill
	t *Tensor
	f *os.File
}

// Write adds encoded rows.
func (w *SpillFile) Write(rows []byte) error {
	if _, err := w.f.Write(rows); err != nil {
		return &fault.Error{File: w.s.path(w.t), Op: "write", Err: err}
	}
	return nil
}

// Finish makes the tensor; figures stand behind the rows, so that a report tells the same after an
// interruption.
func (w *SpillFile) Finish(figures any) (*Tensor, error) {
	path := w.s.path(w.t)
	if err := errors.Join(binary.Write(w.f, binary.LittleEndian, figures), w.f.Sync(), w.f.Close()); err != nil {
		return nil, &fault.Error{File: path, Op: "write", Err: err}
	}
	if err := os.Rename(path+".part", path); err != nil {
		return nil, err
	}
	return w.s.handle(w.t)
}

// Close gives up a file that was not finished.
func (w *SpillFile) Close() { _ = w.f.Close() }

// spilled is a Source over a file of encoded rows. It opens the file for each read, so that a model
// of many tensors does not hold many descriptors.
type spilled struct {
	path     string
	info     *storage.Info
	rows     int
	rowBytes int64
}

// ReadRaw implements Source.
func (s *spilled) ReadRaw(_ context.Context, part Part, dst []byte, lo, hi int) error {
	if err := CheckRange(s.rows, lo, hi); err != nil {
		return err
	}
	if part != PartData || int64(len(dst)) != int64(hi-lo)*s.rowBytes {
		return fmt.Errorf("part %q of %d bytes asked of %d rows of %d bytes", part, len(dst), hi-lo, s.rowBytes)
	}
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(dst, int64(lo)*s.rowBytes)
	return err
}

// ReadRows implements Source.
func (s *spilled) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	raw := make([]byte, int64(hi-lo)*s.rowBytes)
	if err := s.ReadRaw(ctx, PartData, raw, lo, hi); err != nil {
		return err
	}
	s.info.Decode(dst, raw)
	return nil
}
