package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Writer writes a file whose tensors are known beforehand: the header first, then the data in the
// order that was given.
type Writer struct {
	w    io.Writer
	left int64
}

// ErrIncomplete is the reason when less data was written than the header promises.
var ErrIncomplete = errors.New("tensor data is incomplete")

// NewWriter writes the header. Only Name, DType and Shape of tensors are read; their data must
// follow through Write, tensor after tensor. The header is padded with spaces to 8 bytes.
func NewWriter(w io.Writer, tensors []Tensor, metadata map[string]string) (*Writer, error) {
	head, total, err := encodeHeader(tensors, metadata)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	return &Writer{w: w, left: total}, nil
}

// Write takes the next bytes of the data.
func (w *Writer) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		return 0, fmt.Errorf("%w: %d bytes more than the header promises", ErrRange, int64(len(p))-w.left)
	}
	n, err := w.w.Write(p)
	w.left -= int64(n)
	return n, err
}

// Close checks that all data was written. It does not close the underlying writer.
func (w *Writer) Close() error {
	if w.left != 0 {
		return fmt.Errorf("%w: %d bytes are missing", ErrIncomplete, w.left)
	}
	return nil
}

func encodeHeader(tensors []Tensor, metadata map[string]string) (head []byte, total int64, err error) {
	var b strings.Builder
	b.WriteByte('{')
	sep := ""
	if len(metadata) > 0 {
		keys := make([]string, 0, len(metadata))
		for k := range metadata {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		b.WriteString(`"__metadata__":{`)
		for _, k := range keys {
			b.WriteString(sep + quote(k) + ":" + quote(metadata[k]))
			sep = ","
		}
		b.WriteByte('}')
		sep = ","
	}
	seen := make(map[string]bool, len(tensors))
	for _, t := range tensors {
		n, err := Size(t.DType, t.Shape)
		if err != nil {
			return nil, 0, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if seen[t.Name] || t.Name == "__metadata__" {
			return nil, 0, fmt.Errorf("%w: %q", ErrDuplicate, t.Name)
		}
		seen[t.Name] = true
		shape := strings.ReplaceAll(strings.Trim(fmt.Sprint(t.Shape), "[]"), " ", ",")
		fmt.Fprintf(&b, `%s%s:{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}`, sep, quote(t.Name), t.DType, shape, total, total+n)
		sep = ","
		total += n
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len() > MaxHeader {
		return nil, 0, fmt.Errorf("%w: %d bytes", ErrHeaderSize, b.Len())
	}
	head = binary.LittleEndian.AppendUint64(nil, uint64(b.Len()))
	return append(head, b.String()...), total, nil
}

func quote(s string) string {
	b, _ := json.Marshal(s) // strings always marshal
	return string(b)
}
