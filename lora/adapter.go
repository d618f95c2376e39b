package lora

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/formats/pickle"
	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
)

// Adapter is an opened adapter folder. Its tensors stay in the file until they are needed.
type Adapter struct {
	Dir    string // as given
	File   string // the weights file, Dir included
	Config *Config

	modules []*module // in order of name
	saved   []*saved  // in order of name
	closer  io.Closer
}

// module is one adapted layer. Which of the tensors are set depends on the method.
type module struct {
	name      string  // "model.layers.0.self_attn.q_proj"
	a, b      *tensor // A [r,in...], B [out,r]; embeddings: A [r,V], B [d,r]
	bias      *tensor // bias of B, [out]
	magnitude *tensor // DoRA, one per output
	ia3       *tensor // [out,1], or [1,in] on feed-forward layers
	embedding bool
	rank      int
	scale     float64
}

// saved is a tensor that takes the place of one in the base.
type saved struct {
	name string // of the base tensor: "lm_head.weight"
	t    *tensor
	base bool // PEFT's copy of the base weight under an adapted layer, usually unchanged
}

// tensor is a tensor of the weights file.
type tensor struct {
	name   string // as in the file
	shape  []int
	typ    storage.Type
	readAt func(p []byte, off int64) error // bytes of the elements in row-major order
}

func (t *tensor) elems() int {
	n := 1
	for _, d := range t.shape {
		n *= d
	}
	return n
}

// flat is the shape as a matrix: all dimensions but the first in one.
func (t *tensor) flat() (rows, cols int) {
	if len(t.shape) == 0 {
		return 1, 1
	}
	rows = t.shape[0]
	if rows == 0 {
		return 0, 0
	}
	return rows, t.elems() / rows
}

// read decodes elements [from, from+len(dst)).
func (t *tensor) read(ctx context.Context, dst []float32, from int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info := storage.MustLookup(t.typ)
	const step = 1 << 16
	buf := make([]byte, min(len(dst), step)*info.BlockBytes)
	for at := 0; at < len(dst); at += step {
		n := min(step, len(dst)-at)
		b := buf[:n*info.BlockBytes]
		if err := t.readAt(b, int64(from+at)*int64(info.BlockBytes)); err != nil {
			return err
		}
		info.Decode(dst[at:at+n], b)
	}
	return nil
}

// diverged is what to try when weights of an adapter are no numbers.
const diverged = "the training diverged, or the file is damaged: take an earlier checkpoint of the adapter"

// all decodes the whole tensor and refuses NaN and infinities, naming the element.
func (t *tensor) all(ctx context.Context) ([]float32, error) {
	x := make([]float32, t.elems())
	if err := t.read(ctx, x, 0); err != nil {
		return nil, err
	}
	for i, v := range x {
		if v-v != 0 {
			return nil, &fault.Error{Tensor: t.name, Err: fmt.Errorf("element %v is %v: %w", index(i, t.shape), v, fault.ErrNotFinite), Hint: diverged}
		}
	}
	return x, nil
}

// index turns a position in row-major order into coordinates.
func index(i int, shape []int) []int {
	at := make([]int, len(shape))
	for d := len(shape) - 1; d >= 0; d-- {
		at[d] = i % shape[d]
		i /= shape[d]
	}
	return at
}

// Open reads an adapter folder: adapter_config.json, and the header of adapter_model.safetensors or
// adapter_model.bin. It checks what can be checked without the base: the method is one that pare
// merges, every A has its B, ranks are those of the configuration. All mistakes are reported at once.
func Open(ctx context.Context, dir string) (*Adapter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a := &Adapter{Dir: dir}
	path := filepath.Join(dir, "adapter_config.json")
	data, err := readSmall(path, maxConfig)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "an adapter is a folder with adapter_config.json and adapter_model.safetensors"
		}
		return nil, &fault.Error{File: path, Op: "lora", Err: err, Hint: hint}
	}
	if a.Config, err = ParseConfig(data); err != nil {
		hint := "export the adapter again, or copy it again from where it came from"
		if errors.Is(err, ErrUnsupported) {
			hint = "merge it with the library that trained it, and give pare the result"
		}
		return nil, &fault.Error{File: path, Op: "lora", Err: err, Hint: hint}
	}
	tensors, err := a.openWeights()
	if err == nil {
		err = a.sort(tensors)
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// Close releases the weights file.
func (a *Adapter) Close() error {
	if a.closer == nil {
		return nil
	}
	err := a.closer.Close()
	a.closer = nil
	return err
}

// Name is the folder's base name.
func (a *Adapter) Name() string { return filepath.Base(filepath.Clean(a.Dir)) }

// Modules is the number of adapted layers.
func (a *Adapter) Modules() int { return len(a.modules) }

// Method says what the adapter is: "LoRA r=8", "rsLoRA r=16", "DoRA r=4", "IA3".
func (a *Adapter) Method() string {
	switch {
	case a.Config.Type == "IA3":
		return "IA3"
	case a.Config.DoRA:
		return fmt.Sprintf("DoRA r=%d", a.Config.Rank)
	case a.Config.RSLoRA:
		return fmt.Sprintf("rsLoRA r=%d", a.Config.Rank)
	}
	return fmt.Sprintf("LoRA r=%d", a.Config.Rank)
}

func readSmall(path string, most int64) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the user names the file
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%w: larger than %d bytes", ErrConfig, most)
	}
	return data, err
}

// openWeights opens the weights file and lists its tensors.
func (a *Adapter) openWeights() ([]*tensor, error) {
	for _, name := range []string{"adapter_model.safetensors", "adapter_model.bin"} {
		a.File = filepath.Join(a.Dir, name)
		f, err := os.Open(a.File)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, &fault.Error{File: a.File, Op: "lora", Err: err}
		}
		a.closer = f
		st, err := f.Stat()
		if err != nil {
			return nil, &fault.Error{File: a.File, Op: "lora", Err: err}
		}
		list := listSafetensors
		if strings.HasSuffix(name, ".bin") {
			list = listPickle
		}
		tensors, err := list(f, st.Size())
		if err != nil {
			return nil, &fault.Error{File: a.File, Op: "lora", Err: err}
		}
		return tensors, nil
	}
	return nil, &fault.Error{
		File: filepath.Join(a.Dir, "adapter_model.safetensors"), Op: "lora", Err: fmt.Errorf("adapter weights: %w", fs.ErrNotExist),
		Hint: "the folder has neither adapter_model.safetensors nor adapter_model.bin: copy it whole",
	}
}

func listSafetensors(r io.ReaderAt, size int64) ([]*tensor, error) {
	f, err := safetensors.Parse(r, size)
	if err != nil {
		return nil, err
	}
	var list []*tensor
	for _, t := range f.Tensors {
		typ, err := safetensors.Type(t.DType)
		if err != nil {
			return nil, &fault.Error{Tensor: t.Name, Err: err}
		}
		list = append(list, &tensor{name: t.Name, shape: t.Shape, typ: typ, readAt: func(p []byte, off int64) error {
			_, err := r.ReadAt(p, t.Offset+off)
			return err
		}})
	}
	return list, nil
}

func listPickle(r io.ReaderAt, size int64) ([]*tensor, error) {
	f, err := pickle.Parse(r, size)
	if err != nil {
		return nil, err
	}
	var list []*tensor
	for _, t := range f.Tensors {
		list = append(list, &tensor{name: t.Name, shape: t.Shape, typ: t.Type, readAt: func(p []byte, off int64) error {
			return t.ReadAt(r, p, off)
		}})
	}
	return list, nil
}
