package samples

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// suffixes say what a file is.
var suffixes = map[string]string{
	".npy": "array", ".gz": "array", ".idx": "array",
	".png": "image", ".jpg": "image", ".jpeg": "image", ".gif": "image", ".bmp": "image", ".webp": "image",
	".wav": "audio", ".txt": "text",
}

// find makes items of what an input is given.
func (in *input) find(values []string, split bool) error {
	in.from = []int{0}
	add := func(x item) {
		in.items = append(in.items, x)
		in.from = append(in.from, in.from[len(in.from)-1]+x.n)
	}
	for _, value := range values {
		st, err := os.Stat(value)
		switch {
		case err == nil && st.IsDir():
			files, err := in.folder(value)
			if err != nil {
				return err
			}
			for _, f := range files {
				x, err := in.file(f, split)
				if err != nil {
					return err
				}
				add(x)
			}
		case err == nil:
			x, err := in.file(value, split)
			if err != nil {
				return err
			}
			add(x)
		default:
			x, err := in.literal(value, err)
			if err != nil {
				return err
			}
			add(x)
		}
	}
	return nil
}

// folder lists the files of a folder that an input can be made of, by name. Others are not passed over in
// silence, unless their name begins with a dot.
func (in *input) folder(dir string) (files []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fault.As(fault.ErrMisuse, err)
	}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		files = append(files, filepath.Join(dir, e.Name()))
	}
	if len(files) == 0 {
		return nil, &fault.Error{File: dir, Op: "input " + in.v.Name, Err: fault.As(fault.ErrMisuse, errors.New("there are no files in it"))}
	}
	return files, nil
}

// kind is what a file is: what the recipe says, what it has keys for, or what the name says.
func (in *input) kind(path string) string {
	p := in.how
	switch {
	case p.As != "":
		return p.As
	case p.Tokenizer != "" || in.v.Type == graph.String && filepath.Ext(path) != ".npy":
		return "text"
	case p.Begin > 0 || p.End > 0:
		return "bytes"
	}
	if strings.HasSuffix(path, "-ubyte") {
		return "array"
	}
	return suffixes[strings.ToLower(filepath.Ext(path))]
}

// file makes an item of a file.
func (in *input) file(path string, split bool) (x item, err error) {
	switch kind := in.kind(path); kind {
	case "array":
		x, err = in.array(path, split)
	case "image":
		x, err = in.image(path)
	case "audio":
		x, err = in.audio(path)
	case "text":
		x, err = in.text(path)
	case "bytes":
		x, err = in.bytes(path)
	default:
		return item{}, &fault.Error{
			File: path, Op: "input " + in.v.Name, Err: fault.As(fault.ErrMisuse, fmt.Errorf("its name does not say what it is")),
			Hint: fmt.Sprintf(`.npy, idx, pictures, .wav and .txt are known; a recipe can say it: [preprocess.%s] as = "bytes"`, in.v.Name),
		}
	}
	var fe *fault.Error
	if err != nil && !errors.As(err, &fe) {
		err = &fault.Error{File: path, Op: "input " + in.v.Name, Err: err}
	}
	return x, err
}

// literal makes an item of a value that is no file: zeros, ones, a number, or a text.
func (in *input) literal(value string, why error) (item, error) {
	number, err := strconv.ParseFloat(value, 64)
	switch {
	case in.v.Type == graph.String || in.how.Tokenizer != "":
		return in.lines("the text", []string{value})
	case value == "zeros":
		number = 0
	case value == "ones":
		number = 1
	case err != nil:
		if errors.Is(why, fs.ErrNotExist) {
			why = errors.New("there is no such file, and it is no number")
		}
		return item{}, &fault.Error{File: value, Op: "input " + in.v.Name, Err: fault.As(fault.ErrMisuse, why), Hint: "give a file, a number, zeros or ones"}
	}
	if in.shape == nil {
		return item{}, &fault.Error{Op: "input " + in.v.Name, Err: fault.As(fault.ErrMisuse, errors.New("nobody says what shape it has")), Hint: "--shape " + in.v.Name + "=1x3"}
	}
	var one *graph.Tensor
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		one = graph.From(graph.Int64, []int64{n}, 1)
	} else if number == 0 || number == 1 {
		one = graph.From(graph.Int64, []int64{int64(number)}, 1)
	} else {
		one = graph.From(graph.Float64, []float64{number}, 1)
	}
	if one, err = cast(one, in.v.Type); err != nil {
		return item{}, &fault.Error{File: value, Op: "input " + in.v.Name, Err: err}
	}
	return item{name: value, n: 1, open: func() (loaded, error) {
		return loaded{fill: func(shape []int) (*graph.Tensor, error) {
			if err := fillable(shape); err != nil {
				return nil, err
			}
			t := graph.New(one.Type, shape...)
			for at := 0; at < len(t.Data); at += len(one.Data) {
				copy(t.Data[at:], one.Data)
			}
			return t, nil
		}}, nil
	}}, nil
}

// fillable refuses shapes that are larger than any input: a caller may have made them up.
func fillable(shape []int) error {
	const most = 1 << 31
	if err := graph.CheckShape(shape); err != nil {
		return err
	}
	if n := graph.Elems(shape); n > most {
		return fmt.Errorf("%w: %d elements", ErrInput, n)
	}
	return nil
}
