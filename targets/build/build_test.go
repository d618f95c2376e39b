package build

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

const books = "../../testdata/books-llama"

func TestSmoke(t *testing.T) {
	r := &recipe.Recipe{
		Source:  recipe.Source{Model: filepath.Join(books, "model")},
		Targets: []recipe.Target{{Use: "x86-64-v3", Quantize: "q8_0"}},
		Verify:  recipe.Verify{Text: []string{filepath.Join(books, "text", "test.txt")}, Chunks: 2, MaxChunks: 4, Context: 128},
	}
	rep, err := Run(context.Background(), r, Options{Out: t.TempDir(), OnStage: func(s report.Stage) { t.Logf("%+v", s) }})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := rep.JSON()
	os.WriteFile("/tmp/rep.json", b, 0o644)
	t.Logf("%s", b[:3000])
}
