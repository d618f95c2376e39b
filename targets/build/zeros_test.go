package build

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/targets/recipe"
)

// Zeros are counted in the package as it reads back, here once more by hand: GPTQ keeps a 2:4 mask in
// a type that has a zero, and where the type has none the plan and the report say that it is lost.
func TestPrunedZerosAreCounted(t *testing.T) {
	r := &recipe.Recipe{
		Source:      recipe.Source{Model: filepath.Join(books, "model")},
		Calibration: recipe.Calibration{Text: []string{filepath.Join(books, "text", "calibration.txt")}, Tokens: 2048},
		Passes:      []recipe.Pass{{Use: "prune.magnitude", Pattern: "2:4", Only: []string{"*.mlp.*"}}},
		Targets:     []recipe.Target{{Use: "arm64", Quantize: "q4_0", Method: "gptq"}, {Use: "x86-64-v4", Quantize: "q4_k_m", Method: "rtn"}},
		Verify:      recipe.Verify{Off: true},
		Bench:       recipe.Bench{Off: true},
	}
	const matrices = 18 // three in each of six blocks
	plan, err := Plan(context.Background(), r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, lost := range []bool{false, true} {
		if got := strings.Contains(strings.Join(plan.Targets[i].Notes, "\n"), "the pruning is lost"); got != lost {
			t.Errorf("%s: the plan warns: %v, notes %q", plan.Targets[i].Name, got, plan.Targets[i].Notes)
		}
	}
	rep, err := Run(context.Background(), r, Options{Out: filepath.Join(t.TempDir(), "out")})
	if err != nil {
		t.Fatal(err)
	}
	for i, kept := range []bool{true, false} {
		x := &rep.Targets[i]
		if x.Zeros == nil || x.Zeros.Matrices != matrices {
			t.Fatalf("%s: %+v", x.Name, x.Zeros)
		}
		m, err := formats.Open(context.Background(), filepath.Join(x.Package, "model.gguf"))
		if err != nil {
			t.Fatal(err)
		}
		var zeros, elems, crowded int64
		for _, w := range m.Tensors() {
			if !strings.Contains(w.Name, ".ffn_") || w.Cols() == int(w.Elems()) {
				continue
			}
			rows := make([]float32, w.Elems())
			if err := w.Data.ReadRows(context.Background(), rows, 0, int(w.Elems())/w.Cols()); err != nil {
				t.Fatal(err)
			}
			for at := 0; at < len(rows); at += 4 {
				left := 4
				for _, v := range rows[at : at+4] {
					if v == 0 {
						left--
						zeros++
					}
				}
				if left > 2 {
					crowded++
				}
			}
			elems += w.Elems()
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if x.Zeros.Zeros != zeros || x.Zeros.Elements != elems {
			t.Errorf("%s: the report has %d of %d zeros, the file %d of %d", x.Name, x.Zeros.Zeros, x.Zeros.Elements, zeros, elems)
		}
		if (crowded == 0) != kept || (len(x.Zeros.Broken) == 0) != kept {
			t.Errorf("%s: %d groups with more than two weights, %d matrices reported", x.Name, crowded, len(x.Zeros.Broken))
		}
	}
}
