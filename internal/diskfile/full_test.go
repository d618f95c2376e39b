//go:build linux

package diskfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os/signal"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// limitFiles makes files end at n bytes for the rest of a test, as a full disk does, but for both ways of
// writing and without one.
func limitFiles(t *testing.T, n uint64) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(unix.SIGXFSZ) // the error is wanted, not the end of the process
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
			t.Error(err)
		}
		signal.Reset(unix.SIGXFSZ)
	})
	now := was
	now.Cur = n
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &now); err != nil {
		t.Fatal(err)
	}
}

// A write that finds no room fails, at once or when the file is closed, with an error that names the file;
// what came before it is not taken for a whole file by Close.
func TestNoRoom(t *testing.T) {
	const size = 3*Buffer + unit + 5
	can := takesDirect(t)
	for _, direct := range []bool{true, false} {
		// within the second write, at the edge of one, and within the end that is no multiple of the unit
		for _, room := range []uint64{Buffer + 3*unit, 2 * Buffer, 3*Buffer + unit, size - 1} {
			t.Run(fmt.Sprintf("direct %v, room for %d", direct, room), func(t *testing.T) {
				if direct && !can {
					t.Skip("NOT TESTED: this file system takes no writes past the cache")
				}
				path := filepath.Join(t.TempDir(), "x")
				w, err := Create(path)
				if err != nil {
					t.Fatal(err)
				}
				w.asked = !direct
				limitFiles(t, room)
				_, err = w.Write(make([]byte, size))
				if early := room < 3*Buffer; early != (err != nil) {
					t.Errorf("writing: %v", err)
				}
				if err == nil {
					err = w.Close()
				} else if e := w.Abandon(); e != nil {
					t.Error(e)
				}
				var at *fs.PathError
				if !errors.As(err, &at) || at.Path != path || !errors.Is(err, unix.EFBIG) {
					t.Errorf("the error is %v", err)
				}
			})
		}
	}
}
