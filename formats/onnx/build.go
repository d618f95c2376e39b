package onnx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Payload is the data of a tensor as raw_data has it, to be written when its turn comes.
type Payload struct {
	Size  int64
	Write func(ctx context.Context, w io.Writer) error // exactly Size bytes
}

// Builder puts a file together whose data is not in memory.
type Builder struct{ payloads []Payload }

// Attach gives a tensor its data; what it held before is dropped.
func (b *Builder) Attach(t *TensorProto, p Payload) {
	Detach(t)
	m := t.ProtoReflect()
	u := protowire.AppendTag(m.GetUnknown(), fieldStandIn, protowire.VarintType)
	m.SetUnknown(protowire.AppendVarint(u, uint64(len(b.payloads))))
	b.payloads = append(b.payloads, p)
}

// Detach drops the data of a tensor.
func Detach(t *TensorProto) {
	t.FloatData, t.Int32Data, t.Int64Data, t.DoubleData, t.Uint64Data = nil, nil, nil, nil, nil
	t.RawData, t.StringData, t.ExternalData, t.DataLocation = nil, nil, nil, nil
	m := t.ProtoReflect()
	var kept []byte
	for u := m.GetUnknown(); len(u) > 0; {
		field, _, n := protowire.ConsumeField(u)
		if n < 0 {
			break // unmarshalling has checked them
		}
		if field != fieldStandIn {
			kept = append(kept, u[:n]...)
		}
		u = u[n:]
	}
	m.SetUnknown(kept)
}

// payload is what Attach gave a tensor; -1 for none.
func (b *Builder) payload(t *TensorProto) int {
	for u := t.ProtoReflect().GetUnknown(); len(u) > 0; {
		field, _, n := protowire.ConsumeField(u)
		if n < 0 {
			break
		}
		if field == fieldStandIn {
			_, _, tag := protowire.ConsumeTag(u)
			i, _ := protowire.ConsumeVarint(u[tag:])
			return int(i) //nolint:gosec // Attach wrote it
		}
		u = u[n:]
	}
	return -1
}

// Limits of files.
const (
	// MaxInline is the size from which other readers of protocol buffers refuse a file.
	MaxInline = math.MaxInt32
	// ExternalAlign is where data begins in an external file: at multiples of a page, so that it can be
	// mapped. ExternalMin is the size of data from which it lies there.
	ExternalAlign = 4096
	ExternalMin   = 1024
)

// Layout is a file that is ready to be written.
type Layout struct {
	Size     int64 // of the model file
	External int64 // of the file beside it, 0 for none
	pieces   []piece
	outside  []outside
	payloads []Payload
}

// piece is bytes, then a payload (-1 for none).
type piece struct {
	bytes   []byte
	payload int
}

type outside struct {
	off     int64
	payload int
}

// ErrTooLarge is the reason when a file would be larger than others can read.
var ErrTooLarge = errors.New("a file of 2 GiB or more")

// Lay fixes every byte of a model but the data. With a location the data of large initializers goes to a file
// of that name beside the model. The model must not be used afterwards.
func (b *Builder) Lay(m *ModelProto, location string) (*Layout, error) {
	l := &Layout{payloads: b.payloads}
	if location != "" {
		initializers(m, func(t *TensorProto) {
			i := b.payload(t)
			if i < 0 || b.payloads[i].Size <= ExternalMin {
				return
			}
			l.External = (l.External + ExternalAlign - 1) / ExternalAlign * ExternalAlign
			l.outside = append(l.outside, outside{l.External, i})
			Detach(t)
			t.DataLocation = TensorProto_EXTERNAL.Enum()
			for _, e := range [][2]string{
				{"location", location},
				{"offset", strconv.FormatInt(l.External, 10)},
				{"length", strconv.FormatInt(b.payloads[i].Size, 10)},
			} {
				t.ExternalData = append(t.ExternalData, &StringStringEntryProto{Key: proto.String(e[0]), Value: proto.String(e[1])})
			}
			l.External += b.payloads[i].Size
		})
	}
	slim, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	if l.pieces, l.Size, err = l.lay(slim, kindModel); err != nil {
		return nil, err
	}
	return l, nil
}

// lay turns a message with stand-ins into pieces, with the lengths that it has when the data is in.
func (l *Layout) lay(b []byte, k kind) (pieces []piece, size int64, err error) {
	var plain []byte
	payload := func(i int) {
		pieces = append(pieces, piece{plain, i})
		size += int64(len(plain)) + l.payloads[i].Size
		plain = nil
	}
	for len(b) > 0 {
		field, typ, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return nil, 0, protowire.ParseError(tag)
		}
		n := protowire.ConsumeFieldValue(field, typ, b[tag:])
		if n < 0 {
			return nil, 0, protowire.ParseError(n)
		}
		whole, value := b[:tag+n], b[tag:tag+n]
		b = b[tag+n:]
		if k == kindTensor && field == fieldStandIn {
			i, _ := protowire.ConsumeVarint(value)
			plain = protowire.AppendTag(plain, fieldRaw, protowire.BytesType)
			plain = protowire.AppendVarint(plain, uint64(l.payloads[i].Size)) //nolint:gosec // a size
			payload(int(i))                                                   //nolint:gosec // an index
			continue
		}
		c := child(k, field)
		if c == kindOther || typ != protowire.BytesType {
			plain = append(plain, whole...)
			continue
		}
		v, _ := protowire.ConsumeBytes(value)
		inner, length, err := l.lay(v, c)
		if err != nil {
			return nil, 0, err
		}
		plain = protowire.AppendTag(plain, field, protowire.BytesType)
		plain = protowire.AppendVarint(plain, uint64(length)) //nolint:gosec // a size
		for _, p := range inner {
			plain = append(plain, p.bytes...)
			if p.payload >= 0 {
				payload(p.payload)
			}
		}
	}
	if len(plain) > 0 {
		pieces = append(pieces, piece{plain, -1})
		size += int64(len(plain))
	}
	return pieces, size, nil
}

// WriteModel writes the model file.
func (l *Layout) WriteModel(ctx context.Context, w io.Writer) error {
	for _, p := range l.pieces {
		if _, err := w.Write(p.bytes); err != nil {
			return err
		}
		if p.payload >= 0 {
			if err := l.pay(ctx, w, p.payload); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteExternal writes the file beside it.
func (l *Layout) WriteExternal(ctx context.Context, w io.Writer) error {
	at := int64(0)
	for _, o := range l.outside {
		if _, err := w.Write(make([]byte, o.off-at)); err != nil {
			return err
		}
		if err := l.pay(ctx, w, o.payload); err != nil {
			return err
		}
		at = o.off + l.payloads[o.payload].Size
	}
	return nil
}

func (l *Layout) pay(ctx context.Context, w io.Writer, i int) error {
	c := counter{w: w}
	if err := l.payloads[i].Write(ctx, &c); err != nil {
		return err
	}
	if c.n != l.payloads[i].Size {
		return fmt.Errorf("%w: %d bytes were written, %d promised", ErrData, c.n, l.payloads[i].Size)
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
