package ir

import (
	"errors"
	"fmt"
	"io"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir/graph"
)

// Model is a catalogue of tensors with what is known about them. The catalogue always exists;
// Decoder or Encoder is set when the architecture is one that ir/arch describes.
type Model struct {
	Path      string          // as the user typed it
	Format    string          // registry name of the format it was read from
	Arch      string          // architecture name: "llama", or what the file claims when it is unknown
	Decoder   *Decoder        // language models
	Encoder   *Encoder        // text encoders
	Tokenizer *tokenizer.Spec // nil when the source has none

	// Graph is the network as operators over values, for formats that hold one (ONNX). Its weights are in
	// the catalogue too, each bound to its constant: see Bind.
	Graph *graph.Graph

	// Assets are small side files that travel into packages of the same family (config.json,
	// generation_config.json, tokenizer.json, ...), by base name.
	Assets map[string][]byte
	// Meta are the container's own key/values, for inspection and for writers of the same format.
	Meta map[string]any
	// Problems found while reading that do not stop the work; shown by inspect and in reports.
	Problems []Problem
	// NoDecoder and NoTokenizer say why there is none, where the reader knows more than that
	// (CannotRun, CannotRead).
	NoDecoder, NoTokenizer error

	// FileBytes is the size of the open files that hold the weights, headers included: what the model
	// takes on disk, side files aside. 0 for a model that was not read from files.
	FileBytes int64

	tensors []*Tensor
	byName  map[string]int // names and aliases -> index
	closers []io.Closer
	bound   map[*graph.Value]bound
}

// Problem is something wrong, or worth knowing, about a tensor (or the whole, when Tensor is empty).
type Problem struct {
	Tensor string `json:"tensor"`
	Reason string `json:"reason"`
}

// ErrDuplicate is the reason when two tensors carry one name.
var ErrDuplicate = errors.New("name used twice")

// Add appends a tensor to the catalogue.
func (m *Model) Add(t *Tensor) error {
	if m.byName == nil {
		m.byName = map[string]int{}
	}
	if _, dup := m.byName[t.Name]; dup {
		return &fault.Error{File: m.Path, Tensor: t.Name, Err: ErrDuplicate}
	}
	m.byName[t.Name] = len(m.tensors)
	for _, a := range t.Aliases {
		if _, taken := m.byName[a]; !taken {
			m.byName[a] = len(m.tensors)
		}
	}
	m.tensors = append(m.tensors, t)
	return nil
}

// Tensors lists the handles in file order. The slice must not be changed.
func (m *Model) Tensors() []*Tensor { return m.tensors }

// Find returns the tensor with the given name or alias, or nil.
func (m *Model) Find(name string) *Tensor {
	if i, ok := m.byName[name]; ok {
		return m.tensors[i]
	}
	return nil
}

// Role returns the tensor with a role in a block (-1 outside the blocks), or nil.
func (m *Model) Role(r Role, block int) *Tensor {
	for _, t := range m.tensors {
		if t.Role == r && t.Block == block {
			return t
		}
	}
	return nil
}

// Replace swaps a handle for one of the same name; shapes may differ.
func (m *Model) Replace(t *Tensor) error {
	i, ok := m.byName[t.Name]
	if !ok || m.tensors[i].Name != t.Name {
		return &fault.Error{File: m.Path, Tensor: t.Name, Err: errors.New("no such tensor to replace")}
	}
	m.tensors[i] = t
	return nil
}

// Clone copies the catalogue, so that passes for one target leave the others alone. Handles and
// open files are shared; the files belong to the original.
func (m *Model) Clone() *Model {
	c := *m
	c.closers = nil
	c.tensors = append([]*Tensor(nil), m.tensors...)
	c.byName = make(map[string]int, len(m.byName))
	for k, v := range m.byName {
		c.byName[k] = v
	}
	c.Assets = make(map[string][]byte, len(m.Assets))
	for k, v := range m.Assets {
		c.Assets[k] = v
	}
	c.Problems = append([]Problem(nil), m.Problems...)
	if m.Decoder != nil {
		d := *m.Decoder
		c.Decoder = &d
	}
	if m.Encoder != nil {
		e := *m.Encoder
		c.Encoder = &e
	}
	c.cloneGraph()
	return &c
}

// Owns makes Close close c. A file with weights, one that has a Size, counts into FileBytes.
func (m *Model) Owns(c io.Closer) {
	m.closers = append(m.closers, c)
	if f, ok := c.(interface{ Size() int64 }); ok {
		m.FileBytes += f.Size()
	}
}

// Close releases the files behind the model's sources.
func (m *Model) Close() error {
	var errs []error
	for _, c := range m.closers {
		errs = append(errs, c.Close())
	}
	m.closers = nil
	return errors.Join(errs...)
}

// Parameters counts the elements of all tensors.
func (m *Model) Parameters() (n int64) {
	for _, t := range m.tensors {
		n += t.Elems()
	}
	return n
}

// Bytes is the size of all tensors when shipped.
func (m *Model) Bytes() (n int64) {
	for _, t := range m.tensors {
		b, err := t.Bytes()
		if err == nil {
			n += b
		}
	}
	return n
}

// Known reports whether the architecture is one that ir/arch describes, so that tensors have roles.
func (m *Model) Known() bool { return m.Decoder != nil || m.Encoder != nil }

// Layers is the number of blocks, 0 when the architecture is not known.
func (m *Model) Layers() int {
	switch {
	case m.Decoder != nil:
		return m.Decoder.Layers
	case m.Encoder != nil:
		return m.Encoder.Layers
	}
	return 0
}

// Check verifies what must hold between passes: every handle has data and a shape that fits its
// type, and a known architecture has the tensors and shapes that it computes with.
func (m *Model) Check() error {
	var errs []error
	for _, t := range m.tensors {
		if t.Data == nil {
			errs = append(errs, &fault.Error{File: m.Path, Tensor: t.Name, Err: errors.New("handle without data")})
			continue
		}
		if (t.Type == "") || (t.Scheme != nil) != (t.Type == "planes") {
			errs = append(errs, &fault.Error{File: m.Path, Tensor: t.Name, Err: fmt.Errorf("type %q does not go with its scheme", t.Type)})
			continue
		}
		if _, err := t.Bytes(); err != nil {
			errs = append(errs, &fault.Error{File: m.Path, Tensor: t.Name, Err: err})
		}
	}
	if m.Decoder != nil {
		errs = append(errs, check(m.Decoder, m))
	}
	if m.Encoder != nil {
		errs = append(errs, check(m.Encoder, m))
	}
	return errors.Join(errs...)
}
