package mapped

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
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
	for _, r := range [][2]int64{{0, size}, {4097, 3}, {-1, 5}, {size, 1}, {0, 1 << 62}} {
		f.Drop(r[0], r[1]) // also of ranges that are none
	}
	if view, ok := f.Bytes(0, size); ok && !bytes.Equal(view, want) {
		t.Error("a view differs after its pages were given back")
	}
	if _, ok := f.Bytes(1<<63-1, 1<<63-1); ok {
		t.Error("a range whose end overflows was mapped")
	}
}

// A model may be closed before the runner that drops its pages: dropping then finds nothing to do.
func TestDropAfterClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, make([]byte, 10000), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := f.Bytes(0, 10000); !ok {
		t.Skip("this system maps no files")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.Drop(0, 10000) // a panic, were the mapping taken to be there still
	if _, ok := f.Bytes(0, 10000); ok {
		t.Error("a view of a closed file")
	}
}

func TestOpenRefusesFolder(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNotFile) {
		t.Errorf("folder: %v, want ErrNotFile", err)
	}
}

// A folder of a model may hold a pipe in place of its weights: nobody writes into it, so whoever
// opens it waits for ever.
func TestOpenRefusesPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := exec.Command("mkfifo", path).Run(); err != nil {
		t.Skipf("no pipes in folders here: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := Open(path)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, ErrNotFile) {
			t.Errorf("pipe: %v, want ErrNotFile", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("opening a pipe waits for somebody to write")
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
