package runner

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
)

// states is a matrix [rows, cols] of float32 numbers, one row a token, in memory or, when that is
// short, in a temporary file.
type states struct {
	cols int
	mem  []float32
	file *os.File
	buf  []byte
}

// newStates makes room for a matrix; with spill it lies in a new file in folder (empty: the system's
// folder for temporary files).
func newStates(rows, cols int, spill bool, folder string) (*states, error) {
	s := &states{cols: cols}
	if !spill {
		s.mem = make([]float32, rows*cols)
		return s, nil
	}
	f, err := os.CreateTemp(folder, "pare-states-*.f32")
	if err != nil {
		return nil, fmt.Errorf("hidden states: %w", err)
	}
	s.file = f
	return s, nil
}

// read gives rows [lo,hi): a view of the memory, or a copy in scratch, which is then long enough.
func (s *states) read(scratch *[]float32, lo, hi int) ([]float32, error) {
	n := (hi - lo) * s.cols
	if s.file == nil {
		return s.mem[lo*s.cols:][:n], nil
	}
	b := s.bytes(n)
	if _, err := s.file.ReadAt(b, int64(lo)*int64(s.cols)*4); err != nil {
		return nil, fmt.Errorf("hidden states: %w", err)
	}
	x := need(scratch, n)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return x, nil
}

// write stores rows from lo on.
func (s *states) write(lo int, x []float32) error {
	if s.file == nil {
		copy(s.mem[lo*s.cols:], x)
		return nil
	}
	b := s.bytes(len(x))
	for i, v := range x {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v))
	}
	if _, err := s.file.WriteAt(b, int64(lo)*int64(s.cols)*4); err != nil {
		return fmt.Errorf("hidden states: %w", err)
	}
	return nil
}

func (s *states) bytes(n int) []byte {
	if cap(s.buf) < 4*n {
		s.buf = make([]byte, 4*n)
	}
	return s.buf[:4*n]
}

// close removes the file.
func (s *states) close() error {
	if s == nil || s.file == nil {
		return nil
	}
	err := s.file.Close()
	if e := os.Remove(s.file.Name()); err == nil {
		err = e
	}
	s.file = nil
	return err
}
