package samples

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
)

// Labels of the MNIST test set begin with 7, 2, 1, 0, 4 (its authors show these digits); text has a number a line.
func TestLabels(t *testing.T) {
	got, err := Labels("../../testdata/graphs/mnist/labels-idx1-ubyte.gz")
	if err != nil || len(got) != 1000 || !slices.Equal(got[:5], []int{7, 2, 1, 0, 4}) {
		t.Errorf("%v, %v", got[:min(5, len(got))], err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if got, err := Labels(write("a.txt", "3\r\n\n 1\n")); err != nil || !slices.Equal(got, []int{3, 1}) {
		t.Errorf("%v, %v", got, err)
	}
	for name, text := range map[string]string{"word.txt": "3\nx\n", "half.csv": "1.5\n", "bytes.txt": "1\x00\n", "no.npy": "1\n"} {
		var fe *fault.Error
		if got, err := Labels(write(name, text)); !errors.As(err, &fe) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := Labels(filepath.Join(dir, "none.txt")); err == nil {
		t.Error("a file that is not there was read")
	}
	if _, err := Labels("../../testdata/graphs/mnist/images-idx3-ubyte.gz"); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("pictures as labels: %v", err)
	}
}
