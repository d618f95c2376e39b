package runner_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/runner"
)

// The converter of llama.cpp wrote these files; it writes no window for mistral, so that file
// describes the model without one.
func TestGGUFLogits(t *testing.T) {
	for _, tc := range []struct{ dir, file, logits string }{
		{"llama", "model-bf16.gguf", "logits"},
		{"mistral", "model-f16.gguf", "logits_no_window"},
		{"qwen2", "model-bf16.gguf", "logits"},
		{"qwen3", "model-bf16.gguf", "logits"},
	} {
		dir := filepath.Join(architectures, tc.dir)
		r := load(t, open(t, filepath.Join(dir, tc.file)), runner.Options{})
		ref := filepath.Join(dir, "reference.safetensors")
		ids, shape := tokensOf(t, ref, "input_ids")
		want, _ := reference(t, ref, tc.logits)
		n, size := shape[1], shape[1]*r.Vocab()
		for row := range shape[0] {
			if w := worst(logitsOf(t, r, ids[row*n:(row+1)*n]), want[row*size:(row+1)*size]); !(w <= 2e-4) {
				t.Errorf("%s, row %d: largest difference %g of the spread, at most 2e-4", tc.file, row, w)
			}
		}
	}
}

const books = "../testdata/books-llama"

// A trained model, against transformers in float32: logits, and 64 tokens after 16.
func TestBooksReference(t *testing.T) {
	ref := filepath.Join(books, "reference.safetensors")
	ids, shape := tokensOf(t, ref, "input_ids")
	want, _ := reference(t, ref, "logits")
	m := open(t, filepath.Join(books, "model"))
	for _, isa := range []cpu.Level{cpu.Portable, cpu.Best()} {
		r := load(t, m, runner.Options{ISA: isa})
		n, size := shape[1], shape[1]*r.Vocab()
		for row := range shape[0] {
			if w := worst(logitsOf(t, r, ids[row*n:(row+1)*n]), want[row*size:(row+1)*size]); !(w <= 2e-4) {
				t.Errorf("%s, row %d: largest difference %g of the spread, at most 2e-4", isa, row, w)
			}
		}
	}
	r := load(t, m, runner.Options{})
	tokens, _ := tokensOf(t, ref, "greedy_from_16") // the prompt of 16, then 64 more
	prompt, tokens := tokens[:16], tokens[16:]
	got := greedy(t, r, prompt, len(tokens))
	if !slices.Equal(got, tokens) {
		t.Errorf("greedy text\n%v, want\n%v", got, tokens)
	}

	// The same as text, through the tokenizer.
	var doc struct {
		Greedy string `json:"greedy_text"`
	}
	b, err := os.ReadFile(filepath.Join(books, "reference.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	tok, err := r.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	text.WriteString(decode(t, tok, prompt))
	finish, err := r.NewSession().GenerateText(context.Background(), text.String(), runner.Generation{MaxTokens: len(tokens)}, func(piece string) error {
		text.WriteString(piece)
		return nil
	})
	if err != nil || finish != runner.FinishLength || text.String() != doc.Greedy {
		t.Errorf("text %q (%s, %v), want %q", text.String(), finish, err, doc.Greedy)
	}
}

// The documented greedy story of llama2.c's stories260K, which starts from an empty prompt: the
// first token is BOS alone.
func TestStoriesText(t *testing.T) {
	const want = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball."
	r := load(t, open(t, "../testdata/stories260k/stories260K.bin"), runner.Options{})
	generate := func(g runner.Generation) (string, []string, runner.Finish) {
		t.Helper()
		var pieces []string
		finish, err := r.NewSession().GenerateText(context.Background(), "", g, func(piece string) error {
			pieces = append(pieces, piece)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(pieces, ""), pieces, finish
	}
	text, pieces, finish := generate(runner.Generation{MaxTokens: 256})
	if !strings.HasPrefix(strings.TrimPrefix(text, " "), want) {
		t.Errorf("the story begins %.200q, want %q", text, want)
	}
	if len(pieces) < 50 {
		t.Errorf("only %d pieces: is the text streamed?", len(pieces))
	}
	if finish != runner.FinishStop && finish != runner.FinishLength {
		t.Errorf("ended by %q", finish)
	}
	// A stop string ends the text where it begins, even when it spans tokens.
	text, _, finish = generate(runner.Generation{MaxTokens: 256, Stop: []string{"the moon", " named Li"}})
	if finish != runner.FinishStop || !strings.HasSuffix(text, "a little girl") {
		t.Errorf("with a stop string: %q (%s)", text, finish)
	}
	if _, _, finish = generate(runner.Generation{MaxTokens: 5}); finish != runner.FinishLength {
		t.Errorf("5 tokens ended by %q", finish)
	}
	if _, _, finish = generate(runner.Generation{IgnoreEOS: true}); finish != runner.FinishContext {
		t.Errorf("without an end the text ended by %q", finish)
	}
	// Sampling is repeatable, and the seed matters.
	warm := runner.Generation{MaxTokens: 40, Sampling: runner.Sampling{Temperature: 1, TopP: 0.9, Seed: 3}}
	a, _, _ := generate(warm)
	b, _, _ := generate(warm)
	warm.Seed = 4
	c, _, _ := generate(warm)
	if a != b || a == c {
		t.Errorf("seed 3 twice and seed 4 gave\n%q\n%q\n%q", a, b, c)
	}
}
