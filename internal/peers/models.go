package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/internal/peers/synth"
	"github.com/pare-dev/pare/internal/storage"
)

// books is the trained model of the repository, 6.8 million weights.
const (
	books     = "testdata/books-llama/model"
	booksText = "testdata/books-llama/text/test.txt"
)

// fileTypes are llama.cpp's numbers of the files that llama-quantize writes.
var fileTypes = map[string]int{"q4_0": 2, "q8_0": 7, "q2_k": 10, "q3_k_m": 12, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}

// quarter is the large model with fewer layers, so that the peer's slowest types fit into minutes.
func quarter() synth.Shape {
	s := synth.Llama1B
	s.Layers = 4
	return s
}

// made is the path of a model in the cache; what is not there is made and named when it is whole.
func (b *bench) made(name string, write func(path string) error) (string, error) {
	path := filepath.Join(b.cache, "models", name+".gguf")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	b.log("making %s", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a cache like any other
		return "", err
	}
	part := strings.TrimSuffix(path, ".gguf") + ".part.gguf"
	if err := write(part); err != nil {
		return "", errors.Join(err, os.Remove(part))
	}
	return path, os.Rename(part, path)
}

// synthetic is a model with random weights as floats.
func (b *bench) synthetic(name string, s synth.Shape, typ storage.Type) (string, error) {
	return b.made(name+"-"+string(typ), func(path string) error { return synth.Write(b.ctx, path, s, typ, 1, b.threads) })
}

// large is the 1.1 B model in a type. Quantized ones are llama.cpp's own, so that both sides read its file.
func (b *bench) large(typ string) (string, error) {
	if t := storage.Type(typ); t == storage.F16 || t == storage.BF16 {
		return b.synthetic("llama-1b", synth.Llama1B, t)
	}
	source, err := b.large(string(storage.F16))
	if err != nil {
		return "", err
	}
	return b.made("llama-1b-"+typ, func(path string) error {
		cmd, err := b.llamaQuantize(source, path, typ)
		if err != nil {
			return err
		}
		return spoken(cmd)
	})
}

// small is the books model in a type, written by pare.
func (b *bench) small6M(typ string) (string, error) {
	return b.made("books-"+typ, func(path string) error {
		return spoken(exec.CommandContext(b.ctx, b.pare, "quantize", books, "--type", typ, "--method", "rtn", "-o", path, "--force", "-q"))
	})
}

// spoken runs a command whose failure is told in its own words.
func spoken(cmd *exec.Cmd) error {
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(said.String()))
	}
	return nil
}

// readPerToken is how many bytes of a GGUF file generating one token reads: everything but the embedding,
// of which it takes one row, unless the head is the embedding too.
func readPerToken(path string) (int64, error) {
	f, err := openGGUF(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n := int64(0)
	_, head := f.Tensor("output.weight")
	for _, t := range f.Tensors {
		if t.Name != "token_embd.weight" || !head {
			n += t.Size
		}
	}
	return n, nil
}

// ggufFile is an open file with its head.
type ggufFile struct {
	*gguf.File
	data *os.File
}

func (f *ggufFile) Close() error { return f.data.Close() }

func openGGUF(path string) (*ggufFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	head, err := gguf.Parse(f, st.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &ggufFile{File: head, data: f}, nil
}
