package build

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/targets/recipe"
)

// A step that writes every weight as it is needs the disk as much as one that quantizes: it is
// refused before it starts, and leaves nothing.
func TestStepDiskBudget(t *testing.T) {
	for _, to := range []string{"gguf", "hf", "safetensors"} {
		out := filepath.Join(t.TempDir(), "out")
		s := Step{Recipe: &recipe.Recipe{Source: recipe.Source{Model: tiny}}, Out: out, To: to}
		_, err := Transform(context.Background(), s, Options{Tool: "pare test", MaxDisk: 100 << 10}) // the weights take 2 MiB
		if !errors.Is(err, fault.ErrBudget) || exists(out) || exists(out+".work") {
			t.Errorf("%s: %v; left: %v", to, err, exists(out) || exists(out+".work"))
		}
		if _, err = Transform(context.Background(), s, Options{Tool: "pare test", MaxDisk: 64 << 20}); err != nil {
			t.Errorf("%s with room: %v", to, err)
		}
	}
}
