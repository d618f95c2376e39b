package corpus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
)

// maxBytes bounds a file that is tokenized in memory; the tokens that are used are far fewer.
const maxBytes = 64 << 20

// kind says how a source is read.
type kind int

const (
	plain kind = iota
	lines
	array
)

// Source is a file, and the field of its JSON lines that is read.
type Source struct {
	Path, Field string
	kind        kind
}

// lineSuffixes are those of files with an object on each line.
var lineSuffixes = []string{".jsonl", ".ndjson"}

// Parse reads how people name a source: FILE, or FILE:FIELD for JSON lines. A colon elsewhere belongs
// to the path.
func Parse(s string) Source {
	for _, suffix := range lineSuffixes {
		if i := strings.LastIndex(s, suffix+":"); i >= 0 {
			return Source{Path: s[:i+len(suffix)], Field: s[i+len(suffix)+1:], kind: lines}
		}
	}
	src := Source{Path: s}
	lower := strings.ToLower(s)
	for _, suffix := range lineSuffixes {
		if strings.HasSuffix(lower, suffix) {
			src.kind = lines
		}
	}
	if strings.HasSuffix(lower, ".npy") {
		src.kind = array
	}
	return src
}

// IsLines says that the file holds JSON lines.
func (s Source) IsLines() bool { return s.kind == lines }

// Paths are the files of sources.
func Paths(sources []string) []string {
	out := make([]string, len(sources))
	for i, s := range sources {
		out[i] = Parse(s).Path
	}
	return out
}

// Name is what a report calls sources.
func Name(sources []string) string {
	names := make([]string, len(sources))
	for i, s := range sources {
		names[i] = filepath.Base(s)
	}
	return strings.Join(names, ", ")
}

// ReadText reads a file of plain text.
func ReadText(path string) ([]byte, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	switch {
	case !human.IsText(b):
		return nil, refuse(path, "give a plain text file, JSON lines (.jsonl) or token ids (.npy)", "this is no text: it holds zero bytes, or is not UTF-8")
	case len(b) == 0:
		return nil, refuse(path, "", "the file is empty")
	}
	return b, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &fault.Error{File: path, Op: "text", Err: fault.As(fault.ErrMisuse, err)}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	switch {
	case err != nil:
		return nil, &fault.Error{File: path, Op: "text", Err: err}
	case len(b) > maxBytes:
		return nil, refuse(path, "a few megabytes of text are plenty: cut it", "larger than %s", human.Bytes(maxBytes))
	}
	return b, nil
}

func refuse(file, hint, format string, a ...any) error {
	return &fault.Error{File: file, Op: "text", Err: fault.As(fault.ErrMisuse, fmt.Errorf(format, a...)), Hint: hint}
}

// eachLine calls fn for every line that is not blank, with its number.
func eachLine(b []byte, fn func(n int, line []byte) error) error {
	for n := 1; len(b) > 0; n++ {
		line, rest, _ := bytes.Cut(b, []byte{'\n'})
		b = rest
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := fn(n, line); err != nil {
			return err
		}
	}
	return nil
}

var errNoTokenizer = errors.New("the model's tokenizer cannot be used")
