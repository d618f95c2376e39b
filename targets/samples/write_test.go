package samples

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/internal/npy"
	"github.com/pare-dev/pare/ir/graph"
)

// write makes an array whose element i is i.
func write(t *testing.T, shape []int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.npy")
	w, err := npy.Create(path, npy.Elem{Kind: 'f', Size: 4}, shape...)
	if err != nil {
		t.Fatal(err)
	}
	x := make([]float32, graph.Elems(shape))
	for i := range x {
		x[i] = float32(i)
	}
	if err := errors.Join(w.Floats(x), w.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
