//go:build linux

package formats

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pare-dev/pare/internal/fault"
)

// A full disk, which /dev/full is for whoever writes to it: the error names the file that was asked for,
// what was there stays, and nothing else is left.
func TestFullDisk(t *testing.T) {
	const full = "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Skip("NOT TESTED: no " + full)
	}
	m := open(t, filepath.Join(architectures, "mistral"))
	for _, name := range []string{"gguf", "safetensors"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "out")
		if err := os.WriteFile(path, []byte("older"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := tree(t, dir)
		if err := os.Symlink(full, path+partial); err != nil {
			t.Fatal(err)
		}
		err := Write(context.Background(), name, m, path, WriteOptions{Force: true})
		var fe *fault.Error
		if !errors.Is(err, unix.ENOSPC) || !errors.As(err, &fe) || fe.File != path {
			t.Errorf("%s: %v", name, err)
		}
		if after := tree(t, dir); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: %d files before, %d after, or other content", name, len(before), len(after))
		}
	}
}
