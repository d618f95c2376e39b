package gguf

import (
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
)

// ErrIncomplete is the reason when less data was written than the tensors take.
var ErrIncomplete = errors.New("tensor data is incomplete")

// Writer writes a file whose tensors are known beforehand: the head first, then the data of the
// tensors in the order that was given. Padding is the writer's business.
type Writer struct {
	w         io.Writer
	tensors   []Tensor
	alignment int64
	next      int   // tensor that the next byte belongs to
	left      int64 // bytes that it still needs
}

// NewWriter writes the head. Of each tensor Name, Type and Shape are used. The alignment is that of
// the entry general.alignment, or 32.
func NewWriter(w io.Writer, kv []KV, tensors []Tensor) (*Writer, error) {
	head, laid, alignment, err := encodeHead(kv, tensors)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	out := &Writer{w: w, tensors: laid, alignment: alignment, next: -1}
	return out, out.advance()
}

// Head encodes everything before the data, padding included: what NewWriter writes.
func Head(kv []KV, tensors []Tensor) ([]byte, error) {
	head, _, _, err := encodeHead(kv, tensors)
	return head, err
}

// advance goes to the next tensor that has bytes, writing the padding after the one before.
func (w *Writer) advance() error {
	for w.left == 0 && w.next < len(w.tensors) {
		if w.next >= 0 {
			if _, err := w.w.Write(make([]byte, pad(w.tensors[w.next].Size, w.alignment))); err != nil {
				return err
			}
		}
		if w.next++; w.next < len(w.tensors) {
			w.left = w.tensors[w.next].Size
		}
	}
	return nil
}

// Write takes the next bytes of the data, without padding.
func (w *Writer) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 {
		if w.next >= len(w.tensors) {
			return done, fmt.Errorf("%w: %d bytes more than the tensors take", ErrRange, len(p))
		}
		n, err := w.w.Write(p[:min(int64(len(p)), w.left)])
		done += n
		w.left -= int64(n)
		p = p[n:]
		if err == nil {
			err = w.advance()
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Close checks that all data was written. It does not close the underlying writer.
func (w *Writer) Close() error {
	if w.next < len(w.tensors) {
		return fmt.Errorf("%w: tensor %q misses %d bytes", ErrIncomplete, w.tensors[w.next].Name, w.left)
	}
	return nil
}

func encodeHead(kv []KV, tensors []Tensor) (head []byte, laid []Tensor, alignment int64, err error) {
	f := File{keys: map[string]int{}}
	b := append([]byte("GGUF"), 3, 0, 0, 0)
	b = le.AppendUint64(b, uint64(len(tensors)))
	b = le.AppendUint64(b, uint64(len(kv)))
	for i, e := range kv {
		if _, dup := f.keys[e.Key]; dup {
			return nil, nil, 0, fmt.Errorf("%w: metadata key %q", ErrDuplicate, e.Key)
		}
		if e.Key == "" || len(e.Key) > maxKey || !utf8.ValidString(e.Key) {
			return nil, nil, 0, fmt.Errorf("%w: metadata key %q", ErrName, e.Key)
		}
		f.keys[e.Key] = i
		typ, ok := typeOf(e.Value)
		if !ok {
			return nil, nil, 0, fmt.Errorf("metadata %q: %w: Go type %T", e.Key, ErrValue, e.Value)
		}
		b = le.AppendUint32(appendString(b, e.Key), typ)
		if b, err = appendValue(b, e.Value, 0); err != nil {
			return nil, nil, 0, fmt.Errorf("metadata %q: %w", e.Key, err)
		}
	}
	f.KV = kv
	if err := f.alignment(); err != nil {
		return nil, nil, 0, err
	}
	laid = make([]Tensor, len(tensors))
	seen := make(map[string]bool, len(tensors))
	var offset int64
	for i, t := range tensors {
		if t.Name == "" || len(t.Name) > MaxName || !utf8.ValidString(t.Name) {
			return nil, nil, 0, fmt.Errorf("%w: tensor %q has %d bytes, ggml takes 1 to %d", ErrName, t.Name, len(t.Name), MaxName)
		}
		if seen[t.Name] {
			return nil, nil, 0, fmt.Errorf("%w: tensor %q", ErrDuplicate, t.Name)
		}
		seen[t.Name] = true
		if len(t.Shape) > maxDims {
			return nil, nil, 0, fmt.Errorf("%w: tensor %q has %d dimensions, GGUF has at most %d", ErrShape, t.Name, len(t.Shape), maxDims)
		}
		if t.Size, err = size(t.Type, t.Shape); err != nil {
			return nil, nil, 0, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		b = le.AppendUint32(appendString(b, t.Name), uint32(len(t.Shape))) //nolint:gosec // at most 4
		for j := range t.Shape {
			b = le.AppendUint64(b, uint64(t.Shape[len(t.Shape)-1-j])) //nolint:gosec // size refuses negative ones
		}
		b = le.AppendUint64(le.AppendUint32(b, t.Type), uint64(offset)) //nolint:gosec // offsets only grow
		laid[i] = t
		if t.Size > math.MaxInt64/2-offset {
			return nil, nil, 0, fmt.Errorf("%w: the tensors take more bytes than can be counted", ErrRange)
		}
		offset += t.Size + pad(t.Size, f.Alignment)
	}
	b = append(b, make([]byte, pad(int64(len(b)), f.Alignment))...)
	return b, laid, f.Alignment, nil
}

func appendString(b []byte, s string) []byte {
	return append(le.AppendUint64(b, uint64(len(s))), s...)
}

// typeOf is the type id of a Go value.
func typeOf(v any) (uint32, bool) {
	switch v.(type) {
	case uint8:
		return typeUint8, true
	case int8:
		return typeInt8, true
	case uint16:
		return typeUint16, true
	case int16:
		return typeInt16, true
	case uint32:
		return typeUint32, true
	case int32:
		return typeInt32, true
	case float32:
		return typeFloat32, true
	case bool:
		return typeBool, true
	case string:
		return typeString, true
	case uint64:
		return typeUint64, true
	case int64:
		return typeInt64, true
	case float64:
		return typeFloat64, true
	case []uint8, []int8, []uint16, []int16, []uint32, []int32, []float32, []bool, []string, []uint64, []int64, []float64, []any:
		return typeArray, true
	}
	return 0, false
}

func appendValue(b []byte, v any, depth int) ([]byte, error) {
	switch x := v.(type) {
	case uint8:
		return append(b, x), nil
	case int8:
		return append(b, byte(x)), nil
	case uint16:
		return le.AppendUint16(b, x), nil
	case int16:
		return le.AppendUint16(b, uint16(x)), nil
	case uint32:
		return le.AppendUint32(b, x), nil
	case int32:
		return le.AppendUint32(b, uint32(x)), nil
	case float32:
		return le.AppendUint32(b, math.Float32bits(x)), nil
	case bool:
		if x {
			return append(b, 1), nil
		}
		return append(b, 0), nil
	case string:
		return appendString(b, x), nil
	case uint64:
		return le.AppendUint64(b, x), nil
	case int64:
		return le.AppendUint64(b, uint64(x)), nil
	case float64:
		return le.AppendUint64(b, math.Float64bits(x)), nil
	case []uint8:
		return appendList(b, typeUint8, x, depth)
	case []int8:
		return appendList(b, typeInt8, x, depth)
	case []uint16:
		return appendList(b, typeUint16, x, depth)
	case []int16:
		return appendList(b, typeInt16, x, depth)
	case []uint32:
		return appendList(b, typeUint32, x, depth)
	case []int32:
		return appendList(b, typeInt32, x, depth)
	case []float32:
		return appendList(b, typeFloat32, x, depth)
	case []bool:
		return appendList(b, typeBool, x, depth)
	case []string:
		return appendList(b, typeString, x, depth)
	case []uint64:
		return appendList(b, typeUint64, x, depth)
	case []int64:
		return appendList(b, typeInt64, x, depth)
	case []float64:
		return appendList(b, typeFloat64, x, depth)
	case []any:
		return appendList(b, typeArray, x, depth)
	}
	return nil, fmt.Errorf("%w: Go type %T", ErrValue, v)
}

func appendList[T any](b []byte, typ uint32, list []T, depth int) ([]byte, error) {
	if depth >= maxNested {
		return nil, fmt.Errorf("%w: arrays nested %d deep", ErrValue, depth+1)
	}
	b = le.AppendUint64(le.AppendUint32(b, typ), uint64(len(list)))
	for _, v := range list {
		if typ == typeArray {
			if t, _ := typeOf(v); t != typeArray {
				return nil, fmt.Errorf("%w: %T in an array of arrays", ErrValue, v)
			}
		}
		var err error
		if b, err = appendValue(b, v, depth+1); err != nil {
			return nil, err
		}
	}
	return b, nil
}
