package bench

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

func TestFilesOf(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, n), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := filesOf(dir); !slices.Equal(got, []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}) {
		t.Errorf("folder: %v", got)
	}
	if got := filesOf(filepath.Join(dir, "b")); !slices.Equal(got, []string{filepath.Join(dir, "b")}) {
		t.Errorf("file: %v", got)
	}
	if got := filesOf("x86-64-v4"); got != nil {
		t.Errorf("a name that is no path: %v", got)
	}
}

// evict may fail, as on file systems in memory, but then says so; what it says is gone is gone.
func TestEvict(t *testing.T) {
	if evict(nil) || evict([]string{filepath.Join(t.TempDir(), "nothing")}) {
		t.Error("nothing was evicted, but that was not said")
	}
	name := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(name, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if gone := evict([]string{name}); gone && runtime.GOOS != "linux" {
		t.Error("a system without a call for it evicted a file")
	}
	if b, err := os.ReadFile(name); err != nil || len(b) != 8<<20 {
		t.Errorf("the file has %d bytes afterwards, %v", len(b), err)
	}
}
