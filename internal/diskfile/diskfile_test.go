package diskfile

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// Files of every kind of length, written in pieces of every kind, hold what was written: past the cache
// where this file system can, and through it.
func TestWriter(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 3*Buffer+unit+5)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	for _, direct := range []bool{true, false} {
		if direct && !takesDirect(t) {
			t.Run("direct", func(t *testing.T) { t.Skip("NOT TESTED: this file system takes no writes past the cache") })
			continue
		}
		for _, size := range []int{0, 1, unit, first - 1, first, first + 1, Buffer - 1, Buffer, Buffer + 1, Buffer + unit, 3 * Buffer, len(data)} {
			t.Run(fmt.Sprintf("direct %v, %d bytes", direct, size), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "x")
				w, err := Create(path)
				if err != nil {
					t.Fatal(err)
				}
				w.asked = !direct // who does not ask stays with the cache
				for rest := data[:size]; len(rest) > 0; {
					n := min(len(rest), 1+rng.IntN(Buffer*5/4))
					if m, err := w.Write(rest[:n]); m != n || err != nil {
						t.Fatal(m, err)
					}
					rest = rest[n:]
				}
				if whole := size >= Buffer; w.direct != (direct && whole) {
					t.Errorf("past the cache: %v", w.direct)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, data[:size]) {
					t.Errorf("the file has %d bytes that are not the %d written", len(got), size)
				}
			})
		}
	}
}

// takesDirect says whether the file system of temporary files takes writes past the cache, by a write of
// its own.
func takesDirect(t *testing.T) bool {
	f, err := os.Create(filepath.Join(t.TempDir(), "probe"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if setDirect(f, true) != nil {
		return false
	}
	_, err = f.Write(aligned(unit))
	return err == nil
}

// A file system that takes the flag and refuses the writes gets them through the cache: so do writes
// from a place that is no multiple of the unit, which is how it is provoked here.
func TestRefusedWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if setDirect(w.f, true) != nil {
		t.Skip("no direct writes on this file system")
	}
	if err := w.through(); err != nil {
		t.Fatal(err)
	}
	w.buf = aligned(Buffer + 1)[1:]
	data := bytes.Repeat([]byte("0123456789abcdef"), Buffer/8)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if w.direct {
		t.Error("unaligned writes past the cache were taken: nothing is tested here")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestAbandon(t *testing.T) {
	w, err := Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := w.Abandon(); err != nil {
		t.Error(err)
	}
	if err := w.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closing an abandoned file: %v", err)
	}
}
