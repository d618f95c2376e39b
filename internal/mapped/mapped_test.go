package mapped

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestFile(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(len(want))
	for _, r := range [][2]int64{{0, 0}, {0, size}, {5, 7}, {size - 1, 1}, {size, 0}} {
		got := make([]byte, r[1])
		if n, err := f.ReadAt(got, r[0]); err != nil || n != len(got) || !bytes.Equal(got, want[r[0]:r[0]+r[1]]) {
			t.Errorf("ReadAt %v: %d bytes, %v", r, n, err)
		}
		if view, ok := f.Bytes(r[0], r[1]); ok && !bytes.Equal(view, got) {
			t.Errorf("Bytes %v differ from ReadAt", r)
		}
	}
	for _, r := range [][2]int64{{-1, 1}, {0, size + 1}, {size, 1}, {1 << 62, 8}} {
		if _, err := f.ReadAt(make([]byte, min(r[1], size+1)), r[0]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("ReadAt %v: %v, want ErrUnexpectedEOF", r, err)
		}
		if _, ok := f.Bytes(r[0], r[1]); ok {
			t.Errorf("Bytes %v outside the file", r)
		}
	}
	if _, ok := f.Bytes(1<<63-1, 1<<63-1); ok {
		t.Error("a range whose end overflows was mapped")
	}
}

func TestOpenRefusesFolder(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNotFile) {
		t.Errorf("folder: %v, want ErrNotFile", err)
	}
}

func TestEmptyAndShrunk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := f.Bytes(0, 0); ok {
		t.Error("an empty file has no mapping")
	}
	f.Close()
	os.WriteFile(path, make([]byte, 100), 0o600)
	f, err = Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	os.Truncate(path, 10)
	if _, err := f.ReadAt(make([]byte, 50), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("shrunk file: %v", err)
	}
}
