// Package formats is where bytes meet tensors: a registry of the containers that models come in,
// and one adapter for each that turns it into an ir.Model and back. The layouts themselves are the
// business of the packages below (safetensors, gguf, llama2c).
//
// A new container is one new file with an init function that registers it.
package formats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/ir"
)

// Format is one container.
type Format struct {
	Name string // "gguf", as --to spells it
	Doc  string // one line
	Ext  string // suffix of files, with the dot; "" for folders
	// Sniff reports whether the format can be opened from what lies at the path.
	Sniff func(p *Probe) bool
	Open  func(ctx context.Context, path string) (*ir.Model, error)
	// Plan finds out what the format cannot express and what its users should know; it reads no
	// data. nil, as Write, when the format is only read.
	Plan  func(m *ir.Model, o WriteOptions) (notes []string, err error)
	Write func(ctx context.Context, m *ir.Model, path string, o WriteOptions) error
}

// Probe is what detection by content may look at.
type Probe struct {
	Path  string
	Dir   bool
	Head  []byte   // the first bytes of a file, at most 512
	Size  int64    // of a file
	Names []string // entries of a folder, sorted
}

// Has reports whether a folder holds a file.
func (p *Probe) Has(name string) bool { return slices.Contains(p.Names, name) }

// HasExt reports whether a folder holds a file whose name ends so.
func (p *Probe) HasExt(ext string) bool {
	return slices.ContainsFunc(p.Names, func(n string) bool { return strings.HasSuffix(n, ext) })
}

// WriteOptions are what writers need beside the model.
type WriteOptions struct {
	Threads  int           // 0: all cores
	Memory   int64         // bytes of buffers, 0: the default of ir.Stream
	Progress progress.Sink // nil: silent
	Force    bool          // replace what is there

	FileType   *uint32 // GGUF general.file_type; nil: from the type that most weights have
	Pre        string  // GGUF tokenizer.ggml.pre, when the tokenizer does not say which it is
	Name       string  // GGUF general.name; "" takes the source's
	ShardBytes int64   // largest safetensors file; 0: 5 GB
	External   bool    // ONNX: the data of large tensors in a file beside the model, as it must be from 2 GiB on
	Opset      int     // ONNX, for text encoders: the version of the operator set; 0: the oldest that has what they need
	Pooled     bool    // ONNX, for text encoders: an output with the embedding of each text besides
}

func (o WriteOptions) sink() progress.Sink {
	if o.Progress == nil {
		return progress.Discard
	}
	return o.Progress
}

// Reasons.
var (
	ErrUnknown  = errors.New("not a model that pare can read")
	ErrReadOnly = errors.New("format is read, not written")
	ErrExists   = errors.New("already exists")
	ErrInexact  = errors.New("the format cannot express this model")
	ErrDamaged  = errors.New("the file is damaged")
)

var registry = map[string]Format{}

// register adds a format; called from init functions of this package only.
func register(f Format) {
	if _, dup := registry[f.Name]; dup {
		panic("formats: duplicate format " + f.Name)
	}
	registry[f.Name] = f
}

// All lists the formats by name.
func All() []Format {
	all := make([]Format, 0, len(registry))
	for _, f := range registry {
		all = append(all, f)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// Lookup returns a format by name.
func Lookup(name string) (Format, bool) {
	f, ok := registry[name]
	return f, ok
}

// suffix is what the end of a name looks like that says what a file is: ".gguf", and not the ".1-8b"
// of a model's version.
var suffix = regexp.MustCompile(`^\.[a-z][a-z0-9]*$`)

// ByPath suggests the format for a new file or folder from its suffix: what `-o` means without
// --to. A path without one is a Hugging Face folder.
func ByPath(path string) (Format, bool) {
	ext := strings.ToLower(filepath.Ext(path))
	if !suffix.MatchString(ext) {
		return Lookup("hf")
	}
	for _, f := range All() {
		if f.Write != nil && f.Ext == ext {
			return f, true
		}
	}
	return Format{}, false
}

// Sniff says which format lies at path, by content. The error names what was found instead.
func Sniff(path string) (Format, error) {
	p, err := probe(path)
	if err != nil {
		return Format{}, &fault.Error{File: path, Err: unpath(err), Hint: missingHint(path, err)}
	}
	for _, f := range All() {
		if f.Sniff != nil && f.Sniff(p) {
			return f, nil
		}
	}
	hint := "pare reads Hugging Face folders, .safetensors, .gguf, .onnx and llama2.c .bin files"
	switch {
	case p.Has("adapter_config.json"):
		hint = "this folder is an adapter: pass it with --adapter and give the base model first"
	case p.HasExt(".bin") || p.HasExt(".pt") || p.HasExt(".pth"):
		hint = "the weights are PyTorch pickles: save the model as safetensors first"
	case p.Has("config.json"):
		hint = "the folder has a config.json but no .safetensors file"
	}
	return Format{}, &fault.Error{File: path, Err: ErrUnknown, Hint: hint}
}

// missingHint helps with a path at which nothing lies: a slip of the finger, or the name of a model
// that lies elsewhere.
func missingHint(path string, err error) string {
	if !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	var names []string
	entries, _ := os.ReadDir(filepath.Dir(path)) // no folder, no names
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if near := human.Nearest(filepath.Base(path), names); near != "" {
		return fmt.Sprintf("did you mean %s?", filepath.Join(filepath.Dir(path), near))
	}
	return "give the path of a folder or file on this machine: models are not downloaded"
}

func probe(path string) (*Probe, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	p := &Probe{Path: path, Dir: st.IsDir(), Size: st.Size()}
	if p.Dir {
		entries, err := os.ReadDir(path)
		for _, e := range entries {
			p.Names = append(p.Names, e.Name())
		}
		return p, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file or folder")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	p.Head = make([]byte, min(512, p.Size))
	_, err = io.ReadFull(f, p.Head)
	return p, errors.Join(err, f.Close())
}

// unpath drops the path that the os package puts into its errors: fault.Error names the file once.
func unpath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Open reads the catalogue of whatever model lies at path. The model must be closed.
func Open(ctx context.Context, path string) (*ir.Model, error) {
	f, err := Sniff(path)
	if err != nil {
		return nil, err
	}
	m, err := f.Open(ctx, path)
	if err != nil {
		return nil, inFile(path, f.Name, err)
	}
	m.Path, m.Format = path, f.Name
	return m, nil
}

// inFile names the file in an error that names none yet.
func inFile(path, op string, err error) error {
	var fe *fault.Error
	if errors.As(err, &fe) {
		if fe.File != "" {
			return err
		}
		c := *fe
		c.File = path
		return &c
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &fault.Error{File: path, Op: op, Err: unpath(err)}
}

// Plan reports what would be lost or refused if the model were written in a format.
func Plan(name string, m *ir.Model, o WriteOptions) (notes []string, err error) {
	f, err := writable(name)
	if err != nil {
		return nil, err
	}
	return f.Plan(m, o)
}

// Write streams the model into a file or folder at path. Nothing half-written is left behind: the
// output appears under its name when it is complete and on disk.
func Write(ctx context.Context, name string, m *ir.Model, path string, o WriteOptions) error {
	f, err := writable(name)
	if err != nil {
		return err
	}
	st, err := os.Lstat(path)
	if err == nil && st.IsDir() && f.Ext != "" {
		return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, fmt.Errorf("%w: it is a folder", ErrExists)), Hint: f.Name + " is a file: name one inside"}
	}
	if err == nil && !o.Force {
		return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, ErrExists), Hint: "pass --force to replace it"}
	}
	notes, err := f.Plan(m, o)
	if err != nil {
		return err
	}
	for _, n := range notes {
		o.sink().Note("", n)
	}
	if err := f.Write(ctx, m, path, o); err != nil {
		return inFile(path, f.Name, err)
	}
	return nil
}

func writable(name string) (Format, error) {
	f, ok := registry[name]
	if !ok {
		return f, &fault.Error{Op: "format " + name, Err: fault.As(fault.ErrMisuse, errors.New("unknown format")), Hint: "known are " + strings.Join(writableNames(), ", ")}
	}
	if f.Write == nil {
		return f, &fault.Error{Op: "format " + name, Err: fault.As(fault.ErrMisuse, ErrReadOnly), Hint: "choose one of " + strings.Join(writableNames(), ", ")}
	}
	return f, nil
}

func writableNames() (names []string) {
	for _, f := range All() {
		if f.Write != nil {
			names = append(names, f.Name)
		}
	}
	return names
}
