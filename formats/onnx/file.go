package onnx

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/mapped"
)

// File is an open model.
type File struct {
	// Model is the file without the data of large tensors, which Data finds.
	Model *ModelProto

	path     string
	file     *mapped.File // nil for a model in memory
	all      []byte       // the whole file
	cuts     []cut
	external map[string]*mapped.File // by location
}

// Open reads a model file. It must be closed.
func Open(path string) (*File, error) {
	m, err := mapped.Open(path)
	if err != nil {
		return nil, err
	}
	b, ok := m.Bytes(0, m.Size())
	if !ok && m.Size() > 0 { // a system that maps no files
		if b, err = os.ReadFile(path); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	f, err := Parse(b)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	f.path = path
	if ok {
		f.file = m
		return f, nil
	}
	return f, m.Close()
}

// Parse reads a model that lies in memory, where it must stay. It has no external data.
func Parse(b []byte) (*File, error) {
	var s scanner
	slim, err := s.message(nil, b, 0, kindModel, 0)
	if err != nil {
		return nil, err
	}
	f := &File{Model: &ModelProto{}, all: b, cuts: s.cuts, external: map[string]*mapped.File{}}
	if err := Unmarshal(slim, f.Model); err != nil {
		return nil, err
	}
	if f.Model.Graph == nil {
		return nil, ErrNoGraph
	}
	if len(f.Model.OpsetImport) == 0 && f.Model.GetIrVersion() >= int64(Version_IR_VERSION_2017_11_3) {
		return nil, ErrOpset // what writers put last: without it the file may be cut short
	}
	return f, nil
}

// Unmarshal decodes a message. Strings need not be UTF-8: some writers put names of files there.
func Unmarshal(b []byte, m proto.Message) error {
	if err := (proto.UnmarshalOptions{RecursionLimit: maxDepth + 10}).Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %w", ErrWire, err)
	}
	return nil
}

// Length is the length of the model file alone.
func (f *File) Length() int64 { return int64(len(f.all)) }

// Size is the length of the model file and of the external files that were opened.
func (f *File) Size() int64 {
	n := int64(len(f.all))
	for _, e := range f.external {
		n += e.Size()
	}
	return n
}

// External lists the external files that were opened, as the model names them, sorted.
func (f *File) External() []string { return slices.Sorted(maps.Keys(f.external)) }

// Close releases the files. Data that lies in them must not be used any more.
func (f *File) Close() error {
	var errs []error
	for _, e := range f.external {
		errs = append(errs, e.Close())
	}
	if f.file != nil {
		errs = append(errs, f.file.Close())
	}
	f.file, f.external = nil, nil
	return errors.Join(errs...)
}

// standIn returns the data that was left in the file; nil when all of it is in the message. Data in several
// pieces, which no writer makes of what is large, is refused.
func (f *File) standIn(t *TensorProto) (*cut, error) {
	var found *cut
	for b := t.ProtoReflect().GetUnknown(); len(b) > 0; {
		field, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, fmt.Errorf("%w: %w", ErrWire, protowire.ParseError(n)) // unmarshalling has checked it
		}
		if field == fieldStandIn && typ == protowire.VarintType {
			_, _, tag := protowire.ConsumeTag(b)
			i, _ := protowire.ConsumeVarint(b[tag:])
			if i >= uint64(len(f.cuts)) || found != nil {
				return nil, fmt.Errorf("%w: data in several pieces", ErrData)
			}
			found = &f.cuts[i]
		}
		b = b[n:]
	}
	return found, nil
}

// Inline reports whether the data of a tensor lies in its message, where a copy of the message takes it along.
func (f *File) Inline(t *TensorProto) bool {
	c, err := f.standIn(t)
	return err == nil && c == nil && t.GetDataLocation() != TensorProto_EXTERNAL
}

// open maps a file of external data.
func (f *File) open(location string) (*mapped.File, error) {
	if m := f.external[location]; m != nil {
		return m, nil
	}
	if f.path == "" {
		return nil, fmt.Errorf("%w: %q beside a model in memory", ErrExternal, location)
	}
	if !filepath.IsLocal(filepath.FromSlash(location)) {
		return nil, fmt.Errorf("%w: %q", ErrEscape, location)
	}
	dir := filepath.Dir(f.path)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	m, err := mapped.OpenIn(root, filepath.FromSlash(location))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, &fault.Error{
			File: filepath.Join(dir, location), Err: fmt.Errorf("%w: the file is missing", ErrExternal),
			Hint: "copy the data files of the model beside it, under the names they had",
		}
	case errors.Is(err, mapped.ErrNotFile):
		return nil, &fault.Error{File: filepath.Join(dir, location), Err: fmt.Errorf("%w: %w", ErrExternal, err)}
	case err != nil:
		return nil, &fault.Error{
			File: filepath.Join(dir, location), Err: fmt.Errorf("%w: %w", ErrEscape, err),
			Hint: "a link must not lead out of the model's folder: copy the file itself there",
		}
	}
	f.external[location] = m
	return m, nil
}
