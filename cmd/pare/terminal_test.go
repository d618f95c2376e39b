package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/fault"
)

// Errors that differ in names and numbers only are told once, with their number; the hint stands for
// all of them. Errors of another kind, and errors without a tensor, stay.
func TestKinds(t *testing.T) {
	var errs []error
	for i := range 42 {
		name := fmt.Sprintf("blk.%d.ffn_up.weight", i)
		errs = append(errs, &fault.Error{File: "m", Tensor: name, Err: fmt.Errorf("%d columns do not fit", 32*i), Hint: `--keep "` + name + `=f32"`})
	}
	errs = append(errs, &fault.Error{File: "m", Tensor: "out", Err: errors.New("too wide")}, errors.New("a"), errors.New("a"))
	var b strings.Builder
	a := newApp(nil, nil, &b, os.Getenv)
	a.printError(errors.Join(errs...))
	want := "pare: m: tensor \"blk.0.ffn_up.weight\": 0 columns do not fit\n  and 41 more like it\n  --keep \"NAME=f32\"\n" +
		"pare: m: tensor \"out\": too wide\npare: a\npare: a\n"
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
}

// screen is a terminal that several goroutines may write to.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.b.Reset()
	return s.b.String()
}

// The spinner of a stage turns while the stage runs and not after it.
func TestSpinnerStops(t *testing.T) {
	var s screen
	a := newApp(nil, &s, &s, func(string) string { return "" })
	a.errTerminal = true
	sink := a.progressSink()
	sink.Stage("think", 0, "")
	time.Sleep(700 * time.Millisecond)
	if drawn := s.take(); strings.Count(drawn, "think") < 3 {
		t.Errorf("the spinner does not turn: %q", drawn)
	}
	sink.Stage("write", 100, "bytes")
	s.take()
	time.Sleep(400 * time.Millisecond)
	if drawn := s.take(); strings.Contains(drawn, "think") {
		t.Errorf("drawn after the stage: %q", drawn)
	}
	a.stopProgress()
}

// A terminal that cannot go back on a line gets the lines of a log.
func TestDumbTerminal(t *testing.T) {
	var s screen
	a := newApp(nil, &s, &s, func(k string) string { return map[string]string{"TERM": "dumb"}[k] })
	a.errTerminal = true
	sink := a.progressSink()
	sink.Stage("write", 100, "bytes")
	sink.Add(100)
	a.stopProgress()
	if drawn := s.take(); strings.ContainsAny(drawn, "\r\x1b") || !strings.Contains(drawn, "write") {
		t.Errorf("%q", drawn)
	}
}

// full is a disk without space.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// A result that could not be written is a failure, in every form of output.
func TestFullOutput(t *testing.T) {
	for _, form := range []string{"table", "json", "csv"} {
		var b strings.Builder
		a := newApp(nil, full{}, &b, func(string) string { return "" })
		if code := a.run(context.Background(), []string{"version", "--output", form}); code != exitFailed || !strings.Contains(b.String(), "no space left") {
			t.Errorf("%s: code %d, %q", form, code, b.String())
		}
	}
}

// A step that is refused leaves nothing behind, and a path that is no place for a model is refused
// before the work starts.
func TestStepLeavesNothing(t *testing.T) {
	dir := sample(t)
	if err := os.CopyFS(filepath.Join(dir, "other"), os.DirFS(filepath.Join(home, "..", "..", "testdata", "architectures", "llama"))); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "other", "config.json")
	b, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, bytes.Replace(b, []byte(`"model_type": "llama"`), []byte(`"model_type": "frobnicate"`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "photos"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "photos", "a.jpg"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	before := entries(t, dir)
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{4, "frobnicate", []string{"convert", "other", "-o", "x.gguf"}},
		{4, "no dtype for q4_0", []string{"quantize", "books-llama/model", "--type", "q4_0", "-o", "x"}},
		{2, "suffix .tflite", []string{"convert", "books-llama/model", "-o", "x.tflite"}},
		{4, "no graph", []string{"convert", "books-llama/model", "-o", "x.onnx"}},
		{2, "--to says gguf", []string{"convert", "books-llama/model", "--to", "gguf", "-o", "x.safetensors"}},
		{2, "stdout", []string{"convert", "books-llama/model", "-o", "-"}},
		{2, "in use", []string{"convert", "books-llama/model", "-o", ".", "--force"}},
		{2, "a.jpg", []string{"convert", "books-llama/model", "-o", "photos", "--force"}},
	} {
		d := pare(t, dir, c.args...)
		if d.code != c.code || !strings.Contains(d.err, c.says) || strings.Contains(d.err, "digest") || strings.Count(d.err, "\n") > 6 {
			t.Errorf("%v: code %d, want %d and %q\n%s", c.args, d.code, c.code, c.says, d.err)
		}
	}
	if after := entries(t, dir); after != before {
		t.Errorf("left behind: %s, before: %s", after, before)
	}
}

func entries(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return strings.Join(names, " ")
}
