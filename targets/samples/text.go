package samples

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir/graph"
)

// maxText bounds a text, or a tokenizer's file.
const maxText = 256 << 20

// text makes a sample of every line of a file.
func (in *input) text(path string) (item, error) {
	b, err := readFile(path, maxText)
	if err != nil {
		return item{}, err
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimRight(line, "\r\n"); strings.TrimSpace(line) != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return item{}, fault.As(fault.ErrMisuse, errors.New("there is no text in it"))
	}
	return in.lines(path, lines)
}

// lines makes a sample of every text: the text itself for an input of strings, token ids for one of integers.
func (in *input) lines(name string, texts []string) (item, error) {
	if in.v.Type == graph.String {
		shape, err := in.line(1)
		if in.shape != nil && len(in.shape) == 0 {
			shape, err = []int{}, nil
		}
		return item{name: name, n: len(texts), open: func() (loaded, error) {
			return loaded{read: func(k int) (*graph.Tensor, error) {
				return &graph.Tensor{Type: graph.String, Shape: shape, Strings: []string{texts[k]}}, nil
			}}, nil
		}}, err
	}
	if in.how.Tokenizer == "" {
		return item{}, &fault.Error{
			Op: "input " + in.v.Name, Err: fault.As(fault.ErrMisuse, fmt.Errorf("it takes %s, and nothing says how a text becomes numbers", in.v.Type)),
			Hint: fmt.Sprintf(`a recipe can: [preprocess.%s] tokenizer = "FOLDER"`, in.v.Name),
		}
	}
	tok, err := readTokenizer(in.how.Tokenizer)
	if err != nil {
		return item{}, err
	}
	most, fixed := in.how.Tokens, 0
	if last := len(in.shape) - 1; last >= 0 && in.shape[last] > 0 {
		fixed = in.shape[last]
	}
	if most == 0 || fixed > 0 && fixed < most {
		most = fixed
	}
	return item{name: name, n: len(texts), open: func() (loaded, error) {
		return loaded{read: func(k int) (*graph.Tensor, error) {
			ids, err := tok.Encode(texts[k], tokenizer.EncodeOptions{AddSpecial: true, Max: most})
			if err != nil {
				return nil, err
			}
			list := make([]int64, max(len(ids), fixed, 1))
			for i := range list {
				if list[i] = int64(in.how.Padding); i < len(ids) {
					list[i] = int64(ids[i])
				}
			}
			shape, err := in.line(len(list))
			if err != nil {
				return nil, err
			}
			return cast(graph.From(graph.Int64, list, shape...), in.v.Type)
		}}, nil
	}}, nil
}

// mask has ones where an input has tokens, zeros where it has padding at the end; of types it has zeros everywhere.
func (s *Set) mask(name string, ids *graph.Tensor) (*graph.Tensor, error) {
	var of, to *input
	for _, in := range s.inputs {
		if in.v.Name == s.masks[name] {
			of = in
		}
	}
	if to = s.masked[name]; of == nil || ids == nil {
		return nil, wrong(to.v, "%q is no input that has values", s.masks[name])
	}
	list, err := ids.Ints()
	if err != nil {
		return nil, wrong(to.v, "mask of %q: %w", s.masks[name], err)
	}
	n := len(list)
	for n > 0 && list[n-1] == int64(of.how.Padding) {
		n--
	}
	out := make([]int64, len(list))
	for i := range n {
		if to.how.Types == "" {
			out[i] = 1
		}
	}
	return cast(graph.From(graph.Int64, out, ids.Shape...), to.v.Type)
}

// bytes makes numbers 0..255 of the beginning and the end of a file.
func (in *input) bytes(path string) (item, error) {
	h := in.how
	begin, end := h.Begin, h.End
	if begin == 0 && end == 0 {
		if last := len(in.shape) - 1; last >= 0 && in.shape[last] > 0 {
			begin = in.shape[last]
		}
	}
	if begin+end == 0 {
		return item{}, wrong(in.v, "nothing says how many bytes of a file it takes: begin, end")
	}
	shape, err := in.line(begin + end)
	if err != nil {
		return item{}, err
	}
	return item{name: path, n: 1, open: func() (loaded, error) {
		return loaded{read: func(int) (*graph.Tensor, error) {
			first, last, err := ends(path, h.Block, begin, end)
			if err != nil {
				return nil, err
			}
			if h.Strip {
				first, last = bytes.TrimLeft(first, space), bytes.TrimRight(last, space)
			}
			list := make([]int64, begin+end)
			for i := range list {
				list[i] = int64(h.Padding)
			}
			for i := range min(len(first), begin) {
				list[i] = int64(first[i])
			}
			last = last[max(0, len(last)-end):]
			for i, b := range last {
				list[begin+end-len(last)+i] = int64(b)
			}
			return cast(graph.From(graph.Int64, list, shape...), in.v.Type)
		}}, nil
	}}, nil
}

// space is what Python's bytes.strip takes off.
const space = " \t\n\r\v\f"

// ends reads blocks from the beginning and from the end of a file; 0 is as much as is asked of it.
func ends(path string, block, begin, end int) (first, last []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	read := func(n int, fromEnd bool) ([]byte, error) {
		if block > 0 {
			n = block
		}
		size := min(int64(n), st.Size())
		b := make([]byte, size)
		at := int64(0)
		if fromEnd {
			at = st.Size() - size
		}
		_, err := f.ReadAt(b, at)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return b, err
	}
	if first, err = read(begin, false); err != nil {
		return nil, nil, err
	}
	last, err = read(end, true)
	return first, last, err
}

// readTokenizer reads the tokenizer of a folder, or the one whose file is named.
func readTokenizer(path string) (*tokenizer.Tokenizer, error) {
	dir := path
	if st, err := os.Stat(path); err != nil {
		return nil, fault.As(fault.ErrMisuse, err)
	} else if !st.IsDir() {
		dir = filepath.Dir(path)
	}
	asset := func(name string) []byte {
		b, err := readFile(filepath.Join(dir, name), maxText)
		if err != nil {
			return nil // most folders have only some of them
		}
		return b
	}
	config, special := asset("tokenizer_config.json"), asset("special_tokens_map.json")
	var s *tokenizer.Spec
	var err error
	if b := asset("tokenizer.json"); b != nil {
		s, err = tokenizer.FromTokenizerJSON(b, config, asset("generation_config.json"), special)
	} else if b := asset("vocab.txt"); b != nil {
		s, err = tokenizer.FromVocab(b, config, special)
	} else {
		err = fault.As(fault.ErrMisuse, errors.New("there is neither tokenizer.json nor vocab.txt"))
	}
	if err != nil {
		return nil, &fault.Error{File: dir, Op: "tokenizer", Err: err}
	}
	return tokenizer.New(s)
}

// readFile reads a file of at most a number of bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%w: more than %d bytes", ErrInput, most)
	}
	return b, err
}
