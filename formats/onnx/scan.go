package onnx

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// cut is data of a tensor that was left in the file.
type cut struct {
	field  protowire.Number
	off, n int64
}

// leave is the size in bytes from which data is left in the file. Messages smaller than this hold none
// and are copied without a look inside.
const leave = 256

// maxDepth bounds how deeply messages lie in each other; a subgraph takes three levels. Implementations in
// C++ refuse files beyond 100.
const maxDepth = 100

// scanner copies a model without the data of its large tensors.
type scanner struct{ cuts []cut }

// message appends the message b, which lies at off in the file, to dst.
func (s *scanner) message(dst, b []byte, off int64, k kind, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: more than %d levels", ErrDepth, maxDepth)
	}
	for at := 0; at < len(b); {
		field, typ, tag := protowire.ConsumeTag(b[at:])
		if tag < 0 {
			return nil, s.broken(b[at:], off+int64(at), tag, depth)
		}
		n := protowire.ConsumeFieldValue(field, typ, b[at+tag:])
		if n < 0 {
			return nil, s.broken(b[at:], off+int64(at), n, depth)
		}
		start, end := at, at+tag+n
		at = end
		if k == kindTensor && field == fieldStandIn {
			return nil, fmt.Errorf("%w: field %d at byte %d", ErrWire, field, off+int64(start))
		}
		c := child(k, field)
		if typ != protowire.BytesType || c == kindOther && (k != kindTensor || !isData(field)) || n < leave {
			dst = append(dst, b[start:end]...)
			continue
		}
		v, head := protowire.ConsumeBytes(b[start+tag : end])
		place := off + int64(start+tag+head-len(v))
		if c == kindOther { // data
			dst = protowire.AppendTag(dst, fieldStandIn, protowire.VarintType)
			dst = protowire.AppendVarint(dst, uint64(len(s.cuts)))
			s.cuts = append(s.cuts, cut{field, place, int64(len(v))})
			continue
		}
		sub, err := s.message(nil, v, place, c, depth+1)
		if err != nil {
			return nil, err
		}
		dst = protowire.AppendTag(dst, field, protowire.BytesType)
		dst = protowire.AppendBytes(dst, sub)
	}
	return dst, nil
}

// broken words an error of the wire format. What begins before the end of the file and does not end there is
// a file cut short; by how much is known when a length says so.
func (s *scanner) broken(b []byte, off int64, code, depth int) error {
	err := protowire.ParseError(code)
	if depth > 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: byte %d: %w", ErrWire, off, err)
	}
	if _, typ, tag := protowire.ConsumeTag(b); tag > 0 && typ == protowire.BytesType {
		if want, n := protowire.ConsumeVarint(b[tag:]); n > 0 {
			missing := want - uint64(len(b)-tag-n) //nolint:gosec // tag and length lie in b
			return fmt.Errorf("%w by %d bytes: the part that begins at byte %d has %d", ErrTruncated, missing, off, want)
		}
	}
	return fmt.Errorf("%w: it ends in the part that begins at byte %d", ErrTruncated, off)
}
