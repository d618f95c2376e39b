package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/npy"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// embeddings is the object of `pare run --output json` for a text encoder.
type embeddings struct {
	Schema     int         `json:"schema"`
	Model      string      `json:"model"`
	Dimensions int         `json:"dimensions"`
	Pooling    string      `json:"pooling"`    // mean, cls or max
	Normalized bool        `json:"normalized"` // of length 1
	Texts      []embedding `json:"texts"`
	Seconds    float64     `json:"seconds"`
}

// embedding is one text with its vector.
type embedding struct {
	Text      string    `json:"text,omitempty"`
	Tokens    []int32   `json:"tokens"`
	Embedding []float32 `json:"embedding"`
}

// generationFlags are those that encoders do not have.
var generationFlags = []string{
	"generate", "context", "kv", "temperature", "top-k", "top-p", "min-p", "repetition-penalty", "logits",
}

// embed makes embeddings of the lines of a text, or of token ids.
func (a *app) embed(ctx context.Context, path string, m *ir.Model, text string, fl *runFlags) (err error) {
	defer func() { err = errors.Join(err, m.Close()) }()
	for _, name := range generationFlags {
		if fl.changed(name) {
			return flagFault(name, misusef("a text encoder writes no text: it makes embeddings"))
		}
	}
	a.budget.shares = 1
	opt := a.encoderOptions(runner.Activations(fl.activations.value))
	x, err := runner.LoadEncoder(ctx, m, opt)
	if err != nil {
		return inFile(path, err)
	}
	defer x.Close()
	a.warn(path, m)
	object := embeddings{Schema: 1, Model: path, Dimensions: m.Encoder.Hidden, Pooling: string(m.Encoder.Pooling), Normalized: m.Encoder.Normalize}
	if object.Pooling == "" {
		object.Pooling = string(ir.PoolMean)
		a.progressSink().Note("", "nothing says how the model makes one vector of a text: it is the mean over all tokens")
		a.stopProgress()
	}
	if len(fl.tokens) > 0 {
		object.Texts = []embedding{{Tokens: fl.tokens}}
	} else if object.Texts, err = textsOf(m, path, lines(text), fl.special); err != nil {
		return err
	}
	start := time.Now()
	err = x.Embed(ctx, inputsOf(object.Texts), func(i int, v []float32) error {
		object.Texts[i].Embedding = append([]float32(nil), v...)
		return nil
	})
	if err != nil {
		return inFile(path, err)
	}
	object.Seconds = time.Since(start).Seconds()
	if fl.save != "" {
		if err := saveEmbeddings(fl.save, object, fl.force); err != nil {
			return err
		}
	}
	return a.showEmbeddings(object, fl.save)
}

// encoderOptions are those that every verb has.
func (a *app) encoderOptions(act runner.Activations) runner.Options {
	return runner.Options{Threads: a.threads, ISA: a.level, Memory: a.share(), Activations: act}
}

// lines are the texts of a prompt: one a line, empty ones left out.
func lines(text string) (out []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\r\n"); strings.TrimSpace(line) != "" {
			out = append(out, line)
		}
	}
	return out
}

// textsOf makes tokens of texts, cut to what the model reads.
func textsOf(m *ir.Model, path string, texts []string, special bool) ([]embedding, error) {
	if len(texts) == 0 {
		return nil, misuse("give a text with --prompt, one a line", "there is no text")
	}
	tok, err := tokenizerOf(m, path)
	if err != nil {
		return nil, err
	}
	out := make([]embedding, len(texts))
	for i, text := range texts {
		ids, err := tok.Encode(text, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: special, Max: m.Encoder.Longest()})
		if err != nil {
			return nil, inFile(path, err)
		}
		if len(ids) == 0 {
			return nil, &fault.Error{File: path, Err: misusef("line %d has no tokens", i+1)}
		}
		out[i] = embedding{Text: text, Tokens: ids}
	}
	return out, nil
}

func inputsOf(list []embedding) []runner.Text {
	texts := make([]runner.Text, len(list))
	for i := range list {
		texts[i].IDs = list[i].Tokens
	}
	return texts
}

// saveEmbeddings writes one matrix, float32 [texts, dimensions].
func saveEmbeddings(dir string, object embeddings, force bool) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as mkdir does; the umask narrows it
		return fault.As(fault.ErrMisuse, err)
	}
	path := filepath.Join(dir, "embeddings.npy")
	if err := free(path, force); err != nil {
		return err
	}
	w, err := npy.Create(path, npy.Elem{Kind: 'f', Size: 4}, len(object.Texts), object.Dimensions)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for _, t := range object.Texts {
		if err := w.Floats(t.Embedding); err != nil {
			return err
		}
	}
	return nil
}

// showEmbeddings prints vectors, and how near texts are to the first.
func (a *app) showEmbeddings(object embeddings, saved string) error {
	t := &table{head: []string{">text", ">tokens", ">cosine to the first", "begins"}}
	var each []any
	for i, e := range object.Texts {
		first := make([]string, 0, 6)
		for _, v := range e.Embedding[:min(6, len(e.Embedding))] {
			first = append(first, fmt.Sprintf("%.4f", v))
		}
		t.add(fmt.Sprint(i+1), fmt.Sprint(len(e.Tokens)), fmt.Sprintf("%.4f", runner.Cosine(object.Texts[0].Embedding, e.Embedding)), strings.Join(first, " ")+" …")
		each = append(each, e)
	}
	length := ""
	if object.Normalized {
		length = ", of length 1"
	}
	return a.show(result{object: object, lines: each, table: t, text: func(w io.Writer) {
		_ = t.text(w) // a closed stdout is found by the next write
		fmt.Fprintf(w, "%s numbers a text: %s over its tokens%s\n", human.Thousands(int64(object.Dimensions)), object.Pooling, length)
		if saved != "" {
			fmt.Fprintf(w, "written to %s\n", filepath.Join(saved, "embeddings.npy"))
		}
	}})
}
