package pack

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
)

// A folder is replaced when every file of it is a package's own, and kept otherwise.
func TestReplaceable(t *testing.T) {
	write := func(dir, name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sealed := func() string {
		dir := filepath.Join(t.TempDir(), "arm64")
		write(dir, "model.gguf")
		write(dir, "assets/tokenizer.json")
		if err := Seal(t.Context(), dir, &Manifest{Tool: "pare test", Name: "arm64", Target: "arm64", Container: "gguf", Model: "model.gguf"}, nil); err != nil {
			t.Fatal(err)
		}
		write(dir, "report.md")
		return dir
	}
	dir := sealed()
	if err := Replaceable(dir, true); err != nil {
		t.Errorf("a package: %v", err)
	}
	if err := Replaceable(dir, false); !errors.Is(err, ErrExists) {
		t.Errorf("without force: %v", err)
	}
	if err := Replaceable(filepath.Join(dir, "nothing"), false); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	for _, name := range []string{"thesis.txt", "assets/photo.jpg"} {
		dir := sealed()
		write(dir, name)
		if err := Replaceable(dir, true); !errors.Is(err, ErrForeign) || !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("with %s in it: %v", name, err)
		}
	}
	mine := t.TempDir()
	write(mine, "report.md")
	if err := Replaceable(mine, true); !errors.Is(err, ErrForeign) {
		t.Errorf("a folder that is no package: %v", err)
	}
}
