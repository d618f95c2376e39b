package formats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

func planONNX(m *ir.Model, o WriteOptions) ([]string, error) {
	w, err := layONNX(m, o, "data")
	if err != nil {
		return nil, err
	}
	return w.notes, nil
}

func writeONNX(ctx context.Context, m *ir.Model, path string, o WriteOptions) error {
	data := path + ".data"
	w, err := layONNX(m, o, filepath.Base(data))
	if err != nil {
		return err
	}
	if _, err := os.Lstat(data); err == nil && !o.Force && w.layout.External > 0 {
		return &fault.Error{File: data, Err: fault.As(fault.ErrMisuse, ErrExists), Hint: "pass --force to replace it"}
	}
	return writeFile(path, func(out io.Writer) error {
		if err := w.layout.WriteModel(ctx, out); err != nil || w.layout.External == 0 {
			return err
		}
		return writeFile(data, func(out io.Writer) error { return w.layout.WriteExternal(ctx, out) })
	})
}

// onnxWriter puts a file together.
type onnxWriter struct {
	m       *ir.Model
	o       WriteOptions
	file    *onnx.File // that the graph was read from, nil for none
	builder onnx.Builder
	layout  *onnx.Layout
	notes   []string
	errs    []error

	names  map[*graph.Value]string
	taken  map[string]bool
	next   map[string]int                  // see fresh
	owner  map[*graph.Value]*graph.Graph   // the graph in which a constant is declared
	around map[*graph.Graph]*graph.Graph   // nil around the outermost
	owned  map[*graph.Graph][]*graph.Value // constants by owner, in the order of reading
}

// layONNX decides every byte but the data. A model that nobody has changed is written as it was read, with its
// functions, annotations and what pare does not know; a changed one is put together from its graph.
func layONNX(m *ir.Model, o WriteOptions, location string) (*onnxWriter, error) {
	m, notes, err := asGraph(m, o)
	if err != nil {
		return nil, err
	}
	for _, external := range []bool{false, true} {
		if o.External && !external {
			continue
		}
		w := &onnxWriter{m: m, o: o, notes: slices.Clone(notes)}
		p, err := w.model()
		if err != nil {
			return nil, err
		}
		name := ""
		if external {
			name = location
		}
		if w.layout, err = w.builder.Lay(p, name); err != nil {
			return nil, &fault.Error{File: m.Path, Op: "onnx", Err: err}
		}
		if w.layout.Size < onnx.MaxInline {
			return w, nil
		}
	}
	return nil, &fault.Error{File: m.Path, Op: "onnx", Err: fault.As(fault.ErrRefused, onnx.ErrTooLarge), Hint: "the graph itself is that large, without the data of its initializers"}
}

func (w *onnxWriter) model() (*onnx.ModelProto, error) {
	extra, _ := w.m.Graph.Extra.(*onnxExtra)
	if extra != nil {
		w.file = extra.file
		same, err := w.unchanged(extra)
		if err != nil {
			return nil, err
		}
		if same {
			return w.copied(extra.file)
		}
	}
	p := w.rebuilt(extra)
	return p, errors.Join(w.errs...)
}

// unchanged reports whether graph and weights are what was read.
func (w *onnxWriter) unchanged(extra *onnxExtra) (bool, error) {
	if digestGraph(w.m.Graph) != extra.digest {
		return false, nil
	}
	for _, v := range w.m.Graph.Constants() {
		if t, err := w.m.Bound(v); t != nil || err != nil {
			return false, err
		}
	}
	return true, nil
}

// copied is the file's own model; data that did not travel with the messages is attached.
func (w *onnxWriter) copied(f *onnx.File) (*onnx.ModelProto, error) {
	p := proto.Clone(f.Model).(*onnx.ModelProto)
	onnx.Tensors(p, func(t *onnx.TensorProto) { w.attachFrom(f, t) })
	return p, errors.Join(w.errs...)
}

// attachFrom attaches data that is large, or that a copy of the message did not take along.
func (w *onnxWriter) attachFrom(f *onnx.File, t *onnx.TensorProto) {
	d, err := f.Data(t)
	if err != nil {
		w.errs = append(w.errs, inTensor(t.GetName(), err))
		return
	}
	if !f.Inline(t) || len(d.Bytes) > onnx.ExternalMin {
		w.builder.Attach(t, w.filePayload(d))
	}
}

// filePayload copies data as it lies in its file, or in memory.
func (w *onnxWriter) filePayload(d *onnx.Data) onnx.Payload {
	t := graphTensor(d)
	if d.File != nil { // read into a buffer, which is faster than to touch the pages of a mapping once
		t.Drop = nil
		t.Fill = func(_ context.Context, dst []byte, off int64) error {
			_, err := d.File.ReadAt(dst, d.Offset+off)
			return err
		}
	}
	return w.tensorPayload(t)
}

// pieceBytes is what is written at a time.
const pieceBytes = 4 << 20

// tensorPayload writes a tensor as it is, or as it is made.
func (w *onnxWriter) tensorPayload(t *graph.Tensor) onnx.Payload {
	size := int64(t.Type.Bytes(t.Elems()))
	return onnx.Payload{Size: size, Write: func(ctx context.Context, out io.Writer) error {
		var buf []byte
		for off := int64(0); off < size; off += pieceBytes {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(pieceBytes, size-off)
			piece := t.Data
			if t.Fill != nil {
				if buf == nil {
					buf = make([]byte, n)
				}
				piece = buf[:n]
				if err := t.Fill(ctx, piece, off); err != nil {
					return err
				}
			} else {
				piece = piece[off : off+n]
			}
			if _, err := out.Write(piece); err != nil {
				return err
			}
			w.o.sink().Add(n)
			if t.Drop != nil {
				t.Drop()
			}
		}
		return nil
	}}
}

// handlePayload writes what a pass made of a weight, in the type that the graph computes with.
func (w *onnxWriter) handlePayload(t *ir.Tensor, c *graph.Tensor) (onnx.Payload, error) {
	want := storedType(c.Type)
	info, ok := storage.Lookup(t.Type)
	switch {
	case ir.CheckRange(t.Rows(), 0, t.Rows()) != nil || t.Elems() != int64(c.Elems()):
		return onnx.Payload{}, fault.As(fault.ErrRefused, fmt.Errorf("%w: the graph expects %v, not %v", ErrInexact, c.Shape, t.Shape))
	case t.Type == want && t.Scheme == nil:
	case !ok || !info.Float || t.Scheme != nil || storage.MustLookup(want).Encode == nil:
		return onnx.Payload{}, fault.As(fault.ErrRefused, fmt.Errorf("%w: an ONNX graph computes with no %s", ErrInexact, t.Type))
	default: // the values are kept where they fit; operators want the type that they had
		w.notes = append(w.notes, fmt.Sprintf("%s: values of %s are written as %s, the type that the graph computes with", t.Name, t.Type, want))
		t = t.With(want, nil, cast{t, storage.MustLookup(want)})
	}
	return onnx.Payload{Size: int64(c.Type.Bytes(c.Elems())), Write: func(ctx context.Context, out io.Writer) error {
		return stream(ctx, out, []*ir.Tensor{t}, w.o)
	}}, nil
}

// cast gives the values of a tensor in another plain type.
type cast struct {
	t  *ir.Tensor
	to *storage.Info
}

// ReadRows implements ir.Source. The values are those that ReadRaw writes.
func (s cast) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	raw := make([]byte, len(dst)*s.to.BlockBytes)
	if err := s.ReadRaw(ctx, ir.PartData, raw, lo, hi); err != nil {
		return err
	}
	s.to.Read(dst, raw)
	return nil
}

// ReadRaw implements ir.Source.
func (s cast) ReadRaw(ctx context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	x := make([]float32, len(dst)/s.to.BlockBytes)
	if err := s.t.Data.ReadRows(ctx, x, lo, hi); err != nil {
		return err
	}
	return s.to.Encode(dst, x, nil)
}
