package build

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// Text is cut as llama.cpp's perplexity and imatrix tools cut it: tokenized with the start token in
// front, cut into chunks, and the first token of every chunk overwritten by the start token.
func TestChunksAreThoseOfLlamaCpp(t *testing.T) {
	ctx := context.Background()
	m, err := formats.Open(ctx, filepath.Join(books, "model"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	const text = "It was in the year '95 that a combination of events sent Mr. Sherlock Holmes and myself to one of our great university towns."
	given := &Text{Name: "text", Text: []byte(text)}
	for _, adds := range []bool{true, false} {
		spec := *m.Tokenizer
		spec.AddBOS, spec.BOS = adds, 7
		tok, err := tokenizer.New(&spec)
		if err != nil {
			t.Fatal(err)
		}
		e := &engine{r: &recipe.Recipe{}, src: &ir.Model{Tokenizer: &spec}, tok: tok}
		got, err := e.encode(ctx, nil, given, 0)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := tok.Encode(text, tokenizer.EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := [][]int32{plain[:8], plain[8:16]}
		if adds {
			want = [][]int32{append([]int32{7}, plain[:7]...), append([]int32{7}, plain[8:15]...)}
		}
		if chunks := got.read.Sequences(8, bos(&spec), false); !slices.Equal(chunks[0], want[0]) || !slices.Equal(chunks[1], want[1]) {
			t.Errorf("start token %v: chunks %v, want %v", adds, chunks[:2], want)
		}
		if got, err := e.encode(ctx, nil, given, 5); err != nil || !slices.Equal(got.ids, want[0][:5]) {
			t.Errorf("start token %v: five tokens are %v, %v", adds, got.ids, err)
		}
	}
}

// A gate on speed is judged on twenty rounds unless the recipe says otherwise.
func TestSpeedGates(t *testing.T) {
	for _, c := range []struct {
		gate          recipe.Gate
		repeat, want  int
		verdict, note string
	}{
		{recipe.Gate{"decode_speedup": 1e-6}, 0, 20, "pass", ""},
		{recipe.Gate{"prefill_speedup": 1e6}, 0, 20, "fail", ""},
		{recipe.Gate{"decode_speedup": 1e-6}, 3, 3, "inconclusive", "too few"},
		{recipe.Gate{"size_ratio": 2}, 0, 5, "pass", ""},
	} {
		r := tinyRecipe()
		r.Calibration, r.Verify.Off = recipe.Calibration{}, true
		r.Targets = []recipe.Target{{Use: "x86-64-v3", Quantize: "q8_0", Name: "x"}}
		r.Bench, r.Gate = recipe.Bench{Prompt: 8, Generate: 2, Repeat: c.repeat}, c.gate
		rep, err := Run(context.Background(), r, Options{Out: filepath.Join(t.TempDir(), "out")})
		if err != nil {
			t.Fatal(err)
		}
		x := &rep.Targets[0]
		if x.Bench.Rounds != c.want || x.Verdict != report.Verdict(c.verdict) || !strings.Contains(x.Gate.Checks[0].Note, c.note) {
			t.Errorf("%v: %d rounds, %s (%+v), want %d, %s", c.gate, x.Bench.Rounds, x.Verdict, x.Gate.Checks, c.want, c.verdict)
		}
	}
}
