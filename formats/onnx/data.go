package onnx

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pare-dev/pare/internal/mapped"
)

// Data is the elements of a tensor, row-major.
type Data struct {
	Type  TensorProto_DataType
	Shape []int
	// Bytes are the elements little-endian as raw_data has them: those of less than 8 bits packed, the
	// first in the low bits. They may be part of a mapped file, aligned for nothing.
	Bytes   []byte
	Strings []string // elements of type STRING

	File   *mapped.File // where Bytes lie, from Offset on; nil when they lie in memory
	Offset int64
}

// maxElems bounds the elements of a tensor, so that sizes never overflow, in bits either.
const maxElems = math.MaxInt / 128

// bits of an element; 0 for strings, negative for unknown types.
func bits(t TensorProto_DataType) int {
	switch t {
	case TensorProto_STRING:
		return 0
	case TensorProto_UINT2, TensorProto_INT2:
		return 2
	case TensorProto_UINT4, TensorProto_INT4, TensorProto_FLOAT4E2M1:
		return 4
	case TensorProto_UINT8, TensorProto_INT8, TensorProto_BOOL, TensorProto_FLOAT8E4M3FN, TensorProto_FLOAT8E4M3FNUZ,
		TensorProto_FLOAT8E5M2, TensorProto_FLOAT8E5M2FNUZ, TensorProto_FLOAT8E8M0:
		return 8
	case TensorProto_UINT16, TensorProto_INT16, TensorProto_FLOAT16, TensorProto_BFLOAT16:
		return 16
	case TensorProto_FLOAT, TensorProto_INT32, TensorProto_UINT32:
		return 32
	case TensorProto_INT64, TensorProto_UINT64, TensorProto_DOUBLE, TensorProto_COMPLEX64:
		return 64
	case TensorProto_COMPLEX128:
		return 128
	}
	return -1
}

// shapeOf checks dimensions and counts the elements.
func shapeOf(dims []int64) (shape []int, elems int, err error) {
	shape, elems = make([]int, len(dims)), 1
	for i, d := range dims {
		if d < 0 || d > maxElems || d > 0 && elems > maxElems/int(d) {
			return nil, 0, fmt.Errorf("%w: %v", ErrShape, dims)
		}
		shape[i] = int(d)
		elems *= int(d)
	}
	return shape, elems, nil
}

// Data finds the elements of a tensor and checks that there are as many as its shape says. Nothing is
// allocated that the file does not hold.
func (f *File) Data(t *TensorProto) (*Data, error) {
	d := &Data{Type: TensorProto_DataType(t.GetDataType())}
	width := bits(d.Type)
	if width < 0 || t.GetDataType() == 0 {
		return nil, fmt.Errorf("%w: %d", ErrType, t.GetDataType())
	}
	if t.Segment != nil {
		return nil, fmt.Errorf("%w: it is a segment of a larger tensor", ErrData)
	}
	var elems int
	var err error
	if d.Shape, elems, err = shapeOf(t.GetDims()); err != nil {
		return nil, err
	}
	size := (int64(elems)*int64(width) + 7) / 8
	if t.GetDataLocation() == TensorProto_EXTERNAL {
		return d, f.outside(d, t, size)
	}
	c, err := f.standIn(t)
	if err != nil {
		return nil, err
	}
	if err := f.oneField(t, c, d.Type); err != nil {
		return nil, err
	}
	switch {
	case d.Type == TensorProto_STRING:
		if len(t.StringData) != elems {
			return nil, fmt.Errorf("%w %v: %d strings", ErrData, d.Shape, len(t.StringData))
		}
		d.Strings = make([]string, elems)
		for i, s := range t.StringData {
			d.Strings[i] = string(s)
		}
		return d, nil
	case c != nil && c.direct():
		if c.n != size {
			return nil, fmt.Errorf("%w %v: %d bytes, want %d", ErrData, d.Shape, c.n, size)
		}
		d.Bytes, d.File, d.Offset = f.all[c.off:c.off+c.n:c.off+c.n], f.file, c.off
	case len(t.RawData) > 0:
		d.Bytes = t.RawData
	default:
		// A varint takes a byte at least and gives 8: what is made is bounded by what is there.
		if d.Bytes, err = f.typed(t, c, width); err != nil {
			return nil, err
		}
	}
	if int64(len(d.Bytes)) != size {
		return nil, fmt.Errorf("%w %v of %s: %d bytes, want %d", ErrData, d.Shape, d.Type, len(d.Bytes), size)
	}
	return d, nil
}

// direct reports data that lies in the file as raw_data would.
func (c *cut) direct() bool {
	return c.field == fieldRaw || c.field == fieldFloat || c.field == fieldDouble
}

// oneField demands that the data lies in one field, the one for its type or raw_data.
func (f *File) oneField(t *TensorProto, c *cut, typ TensorProto_DataType) error {
	var used []protowire.Number
	add := func(present bool, field protowire.Number) {
		if present || c != nil && c.field == field {
			used = append(used, field)
			if present && c != nil && c.field == field { // a piece here and a piece there
				used = append(used, field)
			}
		}
	}
	add(len(t.FloatData) > 0, fieldFloat)
	add(len(t.Int32Data) > 0, fieldInt32)
	add(len(t.Int64Data) > 0, fieldInt64)
	add(len(t.DoubleData) > 0, fieldDouble)
	add(len(t.Uint64Data) > 0, fieldUint64)
	add(len(t.RawData) > 0, fieldRaw)
	if len(used) > 1 || len(used) == 1 && len(t.StringData) > 0 {
		return fmt.Errorf("%w: it lies in several fields", ErrData)
	}
	if len(used) == 1 && used[0] != fieldFor(typ) && (used[0] != fieldRaw || typ == TensorProto_STRING) {
		return fmt.Errorf("%w: elements of type %s in field %d", ErrData, typ, used[0])
	}
	return nil
}

// fieldFor is the field that holds elements of a type outside raw_data; 0 for strings.
func fieldFor(t TensorProto_DataType) protowire.Number {
	switch t {
	case TensorProto_STRING:
		return 0
	case TensorProto_FLOAT, TensorProto_COMPLEX64:
		return fieldFloat
	case TensorProto_DOUBLE, TensorProto_COMPLEX128:
		return fieldDouble
	case TensorProto_INT64:
		return fieldInt64
	case TensorProto_UINT32, TensorProto_UINT64:
		return fieldUint64
	}
	return fieldInt32
}

// typed makes raw bytes of the elements in a field for their type. An entry of int32_data is one element, or a
// byte of packed ones.
func (f *File) typed(t *TensorProto, c *cut, width int) ([]byte, error) {
	switch {
	case len(t.FloatData) > 0:
		out := make([]byte, 0, 4*len(t.FloatData))
		for _, v := range t.FloatData {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
		return out, nil
	case len(t.DoubleData) > 0:
		out := make([]byte, 0, 8*len(t.DoubleData))
		for _, v := range t.DoubleData {
			out = binary.LittleEndian.AppendUint64(out, math.Float64bits(v))
		}
		return out, nil
	}
	size := max(width, 8) / 8
	if c != nil {
		data := f.all[c.off : c.off+c.n]
		count := 0
		for _, b := range data {
			if b < 0x80 { // the last byte of a varint
				count++
			}
		}
		out := make([]byte, 0, count*size)
		for len(data) > 0 {
			v, n := protowire.ConsumeVarint(data)
			if n < 0 {
				return nil, fmt.Errorf("%w: %w", ErrWire, protowire.ParseError(n))
			}
			var err error
			if out, err = appendInt(out, v, size); err != nil {
				return nil, err
			}
			data = data[n:]
		}
		return out, nil
	}
	out := make([]byte, 0, (len(t.Int32Data)+len(t.Int64Data)+len(t.Uint64Data))*size)
	var err error
	for _, v := range t.Int32Data {
		if out, err = appendInt(out, uint64(int64(v)), size); err != nil { //nolint:gosec // as the wire has it
			return nil, err
		}
	}
	for _, v := range t.Int64Data {
		if out, err = appendInt(out, uint64(v), size); err != nil { //nolint:gosec // as the wire has it
			return nil, err
		}
	}
	for _, v := range t.Uint64Data {
		if out, err = appendInt(out, v, size); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// appendInt appends the low bytes of v, which must lose nothing as a signed or as an unsigned number.
func appendInt(out []byte, v uint64, size int) ([]byte, error) {
	if size == 8 {
		return binary.LittleEndian.AppendUint64(out, v), nil
	}
	s := int64(v) //nolint:gosec // as the wire has negative numbers
	if lo, hi := -int64(1)<<(8*size-1), int64(1)<<(8*size); s < lo || s >= hi {
		return nil, fmt.Errorf("%w: %d in %d bits", ErrData, s, 8*size)
	}
	for i := range size {
		out = append(out, byte(v>>(8*i)))
	}
	return out, nil
}

// outside finds data beside the model.
func (f *File) outside(d *Data, t *TensorProto, size int64) error {
	var location string
	var offset int64
	length := int64(-1)
	for _, e := range t.GetExternalData() {
		var err error
		switch e.GetKey() {
		case "location":
			location = e.GetValue()
		case "offset":
			offset, err = strconv.ParseInt(e.GetValue(), 10, 64)
		case "length":
			length, err = strconv.ParseInt(e.GetValue(), 10, 64)
			if err == nil && length < 0 {
				err = strconv.ErrRange
			}
		}
		if err != nil || offset < 0 {
			return fmt.Errorf("%w: %s %q", ErrExternal, e.GetKey(), e.GetValue())
		}
	}
	switch {
	case d.Type == TensorProto_STRING:
		return fmt.Errorf("%w: strings cannot lie there", ErrExternal)
	case location == "":
		return fmt.Errorf("%w: no location", ErrExternal)
	case length >= 0 && length != size:
		return fmt.Errorf("%w: %w %v of %s: %d bytes, want %d", ErrExternal, ErrData, d.Shape, d.Type, length, size)
	}
	m, err := f.open(location)
	if err != nil {
		return err
	}
	if offset > m.Size()-size {
		return fmt.Errorf("%w: bytes [%d,+%d) of %q, which ends at %d: %w", ErrExternal, offset, size, location, m.Size(), ErrTruncated)
	}
	b, ok := m.Bytes(offset, size)
	if !ok && size > 0 { // a system that maps no files
		b = make([]byte, size)
		if _, err := m.ReadAt(b, offset); err != nil {
			return err
		}
	}
	d.Bytes, d.File, d.Offset = b, m, offset
	return nil
}
