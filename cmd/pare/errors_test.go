package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
)

// What a person reads when a line is wrong. Each case: the line, the exit code, the message.
func TestMistakes(t *testing.T) {
	dir := sample(t)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("bad.toml", "[source]\nmodel = \"books-llama/model\"\n\n[[target]]\nuse = \"arm64\"\nquantise = \"q4_0\"\n")
	write("short.gguf", "GGUF\x03\x00\x00\x00")
	write("taken", "")
	if err := os.MkdirAll(filepath.Join(dir, "packages", "arm64"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join("packages", "arm64", "manifest.json"), "{}")
	var b strings.Builder
	for _, c := range []struct {
		code int
		line string
	}{
		{2, "biuld x"},
		{2, "frobnicate"},
		{2, "build books-llama/model -t amr64 -o x"},
		{2, "build books-llama/model --tagret arm64 -o x"},
		{2, "build books-llama/model -t arm64"},
		{2, "build -t arm64 -o x"},
		{2, "build books-llama/model -o x --gate kl_maen=0.05"},
		{2, "build books-llama/model -o x --gate kl_mean"},
		{2, "build books-llama/model -o x --sparsity 50%"},
		{2, "build books-llama/model -o x --prune magnitud --sparsity 50%"},
		{2, "build -r bad.toml -o x"},
		{1, "inspect nowhere"},
		{1, "inspect short.gguf"},
		{2, "inspect"},
		{2, "inspect a b"},
		{2, "inspect books-llama/model -j many"},
		{2, "inspect books-llama/model -j -3"},
		{2, "inspect books-llama/model --max-memory lots"},
		{2, "inspect books-llama/model --output jsn"},
		{2, "quantize books-llama/model --type q4_9 -o x.gguf"},
		{2, "quantize books-llama/model -o x.gguf"},
		{2, "quantize books-llama/model --type q4_0 -o taken"},
		{2, "prune books-llama/model -o x"},
		{2, "prune books-llama/model --sparsity 150% -o x"},
		{2, "prune graphs/mnist/mnist-8.onnx --flops 50% -o x.onnx"},
		{2, "prune graphs/mnist/mnist-8.onnx --structure chanels --flops 50% -o x.onnx"},
		{2, "prune graphs/mnist/mnist-8.onnx --structure channels -o x.onnx"},
		{2, "prune graphs/mnist/mnist-8.onnx --structure channels --flops 50% --ratio 20% -o x.onnx"},
		{2, "prune graphs/mnist/mnist-8.onnx --structure channels --flops 50% --sparsity 20% -o x.onnx"},
		{2, "prune graphs/mnist/mnist-8.onnx --structure channels --flops 50% --score best -o x.onnx"},
		{2, "prune books-llama/model --structure channels --flops 50% -o x.onnx"},
		{2, "lora merge books-llama/model -o x"},
		{2, "lora mergee"},
		{2, "run books-llama/model"},
		{2, "run books-llama/model --tokens 1,x"},
		{2, "verify books-llama/model books-llama/model"},
		{2, "completion tcsh"},
		{2, "run books-llama/model -p hi -n -5"},
		{2, "run books-llama/model -p hi --repetition-penalty 0"},
		{2, "run books-llama/model --decode 999999"},
		{2, "run packages -p hi"},
		{2, "bench books-llama/model --prompt 0"},
		{2, "bench books-llama/model --repeat 0"},
		{2, "build books-llama/model -o x --tokens -3"},
		{2, "build books-llama/model -o x --chunks 0"},
		{2, "verify books-llama/model books-llama/model --text taken --chunks -1"},
		{2, "verify books-llama/model books-llama/model --text taken --context 100000"},
		{5, "inspect books-llama/model --max-memory 1MiB"},
		{5, "run books-llama/model -p hi -j 2 --max-memory 30MiB"},
	} {
		d := pare(t, dir, strings.Fields(c.line)...)
		if d.code != c.code {
			t.Errorf("pare %s: exit code %d, want %d\n%s", c.line, d.code, c.code, d.err)
		}
		if d.out != "" {
			t.Errorf("pare %s: a mistake wrote to stdout: %s", c.line, d.out)
		}
		fmt.Fprintf(&b, "$ pare %s\n%sexit code %d\n\n", c.line, d.err, d.code)
	}
	said := b.String()
	for _, leak := range []string{"*fault", "strconv", "main.", "panic", "goroutine", "invalid argument", "%!", dir} {
		if strings.Contains(said, leak) {
			t.Errorf("a message holds %q", leak)
		}
	}
	golden(t, "mistakes.txt", said)
}

// An error with two reasons is two messages; a class is not a message.
func TestPrintError(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
		code int
	}{
		{&fault.Error{File: "a.gguf", Tensor: "x", Op: "gguf", Err: errors.New("too long"), Hint: "copy it again"}, "pare: a.gguf: tensor \"x\": gguf: too long\n  Copy it again.\n", 1},
		{&fault.Error{File: "recipe.toml:14", Err: errors.New("unknown key")}, "recipe.toml:14: unknown key\n", 1},
		{errors.Join(misuse("try b", "a"), misusef("c")), "pare: a\n  Try b.\npare: c\n", 2},
		{fault.As(fault.ErrBudget, errors.New("needs 4 GiB")), "pare: needs 4 GiB\n", 5},
		{fmt.Errorf("while merging: %w", &fault.Error{File: "f", Err: fs.ErrNotExist, Hint: "pare demo"}), "pare: while merging: f: no such file or folder\n  pare demo\n", 1},
		{fault.As(fault.ErrRefused, &fault.Error{Tensor: "t", Err: errors.New("no")}), "pare: tensor \"t\": no\n", 4},
		{&fs.PathError{Op: "open", Path: "p", Err: fs.ErrPermission}, "pare: p: permission denied\n  Choose a place that you may read and write.\n", 1},
		{&fault.Error{File: "x.gguf", Op: "gguf", Err: &fs.PathError{Op: "write", Path: "x.tmp", Err: syscall.ENOSPC}}, "pare: x.gguf: gguf: x.tmp: the disk is full\n  Free some space, or choose another -o or --work.\n", 1},
		{&fault.Error{File: "x.gguf", Op: "gguf", Err: syscall.EFBIG}, "pare: x.gguf: gguf: the system limits the size of files\n  The limit is what ulimit -f shows; a Hugging Face folder can be written in smaller files.\n", 1},
		{fault.As(fault.ErrGate, errors.New("no")), "pare: no\n", 3},
		{fmt.Errorf("stopped: %w", context.Canceled), "pare: stopped: context canceled\n", 130},
	} {
		var b strings.Builder
		a := newApp(nil, nil, &b, os.Getenv)
		a.printError(c.err)
		if b.String() != c.want || exitCode(c.err) != c.code {
			t.Errorf("%v: %q, code %d; want %q, %d", c.err, b.String(), exitCode(c.err), c.want, c.code)
		}
	}
}
