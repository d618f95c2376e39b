package onnx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/pare-dev/pare/internal/mapped"
)

// tensor is an initializer of the given bytes.
func tensor(name string, typ TensorProto_DataType, raw []byte, dims ...int64) *TensorProto {
	return &TensorProto{Name: proto.String(name), DataType: proto.Int32(int32(typ)), Dims: dims, RawData: raw}
}

// model has a node, a subgraph and the tensors.
func model(tensors ...*TensorProto) *ModelProto {
	return &ModelProto{
		IrVersion: proto.Int64(8), OpsetImport: []*OperatorSetIdProto{{Version: proto.Int64(17)}},
		Graph: &GraphProto{Name: proto.String("g"), Initializer: tensors, Node: []*NodeProto{{
			OpType: proto.String("If"), Attribute: []*AttributeProto{{Name: proto.String("then_branch"), G: &GraphProto{
				Initializer: []*TensorProto{tensor("inner", TensorProto_UINT8, pattern(400), 400)},
			}}},
		}}},
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 11)
	}
	return b
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Every prefix of a file is refused as cut short, whatever it ends in.
func TestTruncated(t *testing.T) {
	b := marshal(t, model(tensor("w", TensorProto_FLOAT, pattern(1200), 300), tensor("v", TensorProto_INT8, pattern(3), 3)))
	for n := range b {
		_, err := Parse(b[:n])
		if !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrNoGraph) && !errors.Is(err, ErrOpset) {
			t.Errorf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if _, err := Parse(b); err != nil {
		t.Error(err)
	}
	_, err := Parse(b[:1000])
	if want := fmt.Sprintf("by %d bytes", len(b)-4-1000); err == nil || !strings.Contains(err.Error(), want) { // 4 of the opset come after the graph
		t.Errorf("%v, want %s", err, want)
	}
}

// data reads the tensors of a model by name.
func data(t testing.TB, f *File) map[string]*Data {
	t.Helper()
	out := map[string]*Data{}
	Tensors(f.Model, func(p *TensorProto) {
		d, err := f.Data(p)
		if err != nil {
			t.Fatalf("%s: %v", p.GetName(), err)
		}
		out[p.GetName()] = d
	})
	return out
}

// Large data stays in the file and small data in the message; both are found, in subgraphs too.
func TestData(t *testing.T) {
	big, little := pattern(4000), pattern(16)
	b := marshal(t, model(tensor("big", TensorProto_FLOAT, big, 10, 100), tensor("little", TensorProto_INT32, little, 4)))
	path := filepath.Join(t.TempDir(), "m.onnx")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := data(t, f)
	if x := d["big"]; !bytes.Equal(x.Bytes, big) || !slices.Equal(x.Shape, []int{10, 100}) || x.File == nil || !bytes.Equal(b[x.Offset:x.Offset+4000], big) {
		t.Errorf("big: %v at %d", x.Shape, x.Offset)
	}
	if x := d["little"]; !bytes.Equal(x.Bytes, little) || x.File != nil {
		t.Error("little")
	}
	if x := d["inner"]; !bytes.Equal(x.Bytes, pattern(400)) || x.File == nil {
		t.Error("inner")
	}
	if n := proto.Size(f.Model); n > 200 {
		t.Errorf("the messages hold %d bytes", n)
	}
	if f.Size() != int64(len(b)) {
		t.Errorf("size %d", f.Size())
	}
}

// field is one field of a message on the wire.
func field(number protowire.Number, value any) []byte {
	switch v := value.(type) {
	case int:
		return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), uint64(v))
	case []byte:
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), v)
	case uint64: // a length without its bytes
		return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.BytesType), v)
	}
	panic("field")
}

// nested is a model whose graphs lie in each other.
func nested(levels int) []byte {
	g := field(2, []byte("innermost"))
	for range levels {
		g = field(1, field(5, append(field(6, g), field(1, bytes.Repeat([]byte("long name "), 40))...)))
	}
	return slices.Concat(field(1, 8), field(7, g), field(8, field(2, 17)))
}

// Files that lie about themselves are refused without allocating what they claim.
func TestHostileFiles(t *testing.T) {
	head, tail := field(1, 8), field(8, field(2, 17))
	graph := func(fields ...[]byte) []byte {
		return slices.Concat(head, field(7, slices.Concat(fields...)), tail)
	}
	long, deep := bytes.Repeat([]byte{0xff}, 300), nested(100)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":                        {nil, ErrNoGraph},
		"a graph of 2^63 bytes":          {slices.Concat(head, field(7, uint64(1)<<63)), ErrTruncated},
		"a graph of 2^64-1 bytes":        {slices.Concat(head, field(7, uint64(math.MaxUint64))), ErrTruncated},
		"an initializer of 2^62 bytes":   {graph(field(5, uint64(1)<<62)), ErrWire},
		"data of 2^40 bytes":             {graph(field(5, append(field(9, uint64(1)<<40), long...))), ErrWire},
		"a length that is no number":     {slices.Concat(head, []byte{7<<3 | 2}, long), ErrWire},
		"field 0":                        {slices.Concat(head, []byte{2, 0}), ErrWire},
		"a group that does not end":      {slices.Concat(head, []byte{9<<3 | 3}), ErrTruncated},
		"a reserved wire type":           {slices.Concat(head, []byte{9<<3 | 7}), ErrWire},
		"a number where the graph is":    {slices.Concat(head, field(7, 3), tail), ErrNoGraph},
		"the stand-in of another's data": {graph(field(5, append(field(fieldStandIn, 0), field(9, long)...))), ErrWire},
		"graphs nested 100 times":        {deep, ErrDepth},
		"no operator set":                {slices.Concat(head, field(7, []byte{})), ErrOpset},
	} {
		if _, err := Parse(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
	if _, err := Parse(nested(20)); err != nil {
		t.Errorf("graphs nested 20 times: %v", err)
	}
}

// Tensors that do not hold what they claim are refused.
func TestHostileTensors(t *testing.T) {
	typed := func(typ TensorProto_DataType, dims []int64, set func(p *TensorProto)) *TensorProto {
		p := &TensorProto{Name: proto.String("w"), DataType: proto.Int32(int32(typ)), Dims: dims}
		set(p)
		return p
	}
	many := make([]float32, 200)
	for name, c := range map[string]struct {
		p    *TensorProto
		want error
	}{
		"a negative dimension":      {tensor("w", TensorProto_FLOAT, pattern(4), -1), ErrShape},
		"elements beyond counting":  {tensor("w", TensorProto_FLOAT, pattern(4), 1<<40, 1<<40), ErrShape},
		"2^62 elements":             {tensor("w", TensorProto_FLOAT, pattern(4), 1<<62), ErrShape},
		"more elements than data":   {tensor("w", TensorProto_FLOAT, pattern(4), 2), ErrData},
		"fewer elements than data":  {tensor("w", TensorProto_FLOAT, pattern(1200), 299), ErrData},
		"an odd nibble too many":    {tensor("w", TensorProto_INT4, pattern(3), 3), ErrData},
		"no data":                   {tensor("w", TensorProto_FLOAT, nil, 3), ErrData},
		"no type":                   {tensor("w", 0, pattern(4), 1), ErrType},
		"an unknown type":           {tensor("w", 99, pattern(4), 1), ErrType},
		"a negative type":           {tensor("w", -1, pattern(4), 1), ErrType},
		"strings in raw data":       {tensor("w", TensorProto_STRING, pattern(4), 1), ErrData},
		"a segment":                 {typed(TensorProto_FLOAT, []int64{1}, func(p *TensorProto) { p.RawData = pattern(4); p.Segment = &TensorProto_Segment{} }), ErrData},
		"data in two fields":        {typed(TensorProto_FLOAT, []int64{1}, func(p *TensorProto) { p.RawData = pattern(4); p.FloatData = many[:1] }), ErrData},
		"data in two fields, large": {typed(TensorProto_FLOAT, []int64{200}, func(p *TensorProto) { p.RawData = pattern(800); p.FloatData = many }), ErrData},
		"integers in float_data":    {typed(TensorProto_INT32, []int64{200}, func(p *TensorProto) { p.FloatData = many }), ErrData},
		"floats in int32_data":      {typed(TensorProto_FLOAT, []int64{2}, func(p *TensorProto) { p.Int32Data = []int32{1, 2} }), ErrData},
		"300 in a byte":             {typed(TensorProto_UINT8, []int64{1}, func(p *TensorProto) { p.Int32Data = []int32{300} }), ErrData},
		"-129 in a byte":            {typed(TensorProto_INT8, []int64{1}, func(p *TensorProto) { p.Int32Data = []int32{-129} }), ErrData},
		"2^32 in 32 bits":           {typed(TensorProto_UINT32, []int64{1}, func(p *TensorProto) { p.Uint64Data = []uint64{1 << 32} }), ErrData},
		"too few strings":           {typed(TensorProto_STRING, []int64{2}, func(p *TensorProto) { p.StringData = [][]byte{nil} }), ErrData},
		"too many varints":          {typed(TensorProto_INT64, []int64{299}, func(p *TensorProto) { p.Int64Data = make([]int64, 300) }), ErrData},
	} {
		f, err := Parse(marshal(t, model(c.p)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d, err := f.Data(f.Model.Graph.Initializer[0]); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, d, err, c.want)
		}
	}
	// data in several packed pieces, as no writer makes it
	piece := field(fieldFloat, pattern(400))
	b := slices.Concat(field(7, field(5, slices.Concat(field(1, 200), field(2, 1), piece, piece))), field(8, field(2, 17)))
	f, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Data(f.Model.Graph.Initializer[0]); !errors.Is(err, ErrData) {
		t.Errorf("two pieces: %v", err)
	}
	// a varint that does not end, in data that stays in the file
	b = slices.Concat(field(7, field(5, slices.Concat(field(1, 299), field(2, int(TensorProto_INT64)), field(fieldInt64, append(make([]byte, 299), 0x80))))), field(8, field(2, 17)))
	if f, err = Parse(b); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Data(f.Model.Graph.Initializer[0]); !errors.Is(err, ErrWire) {
		t.Errorf("an open varint: %v", err)
	}
}

// External data is read from files below the model's folder and from nowhere else.
func TestExternalData(t *testing.T) {
	outer := t.TempDir()
	dir := filepath.Join(outer, "model")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(outer, "secret")
	for _, path := range []string{secret, filepath.Join(dir, "w.bin"), filepath.Join(dir, "sub", "w.bin")} {
		if err := os.WriteFile(path, pattern(100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	linked := os.Symlink(secret, filepath.Join(dir, "link")) == nil && os.Symlink("..", filepath.Join(dir, "up")) == nil &&
		os.Symlink("w.bin", filepath.Join(dir, "inside")) == nil
	for name, c := range map[string]struct {
		entries [][2]string
		want    error // nil: bytes [40,80) of the file
	}{
		"beside":             {[][2]string{{"location", "w.bin"}, {"offset", "40"}, {"length", "40"}}, nil},
		"below":              {[][2]string{{"location", "sub/w.bin"}, {"offset", "40"}}, nil},
		"a link inside":      {[][2]string{{"location", "inside"}, {"offset", "40"}}, nil},
		"with a checksum":    {[][2]string{{"location", "w.bin"}, {"offset", "40"}, {"checksum", "0"}}, nil},
		"up":                 {[][2]string{{"location", "../secret"}, {"offset", "40"}}, ErrEscape},
		"down and up":        {[][2]string{{"location", "sub/../../secret"}, {"offset", "40"}}, ErrEscape},
		"absolute":           {[][2]string{{"location", secret}, {"offset", "40"}}, ErrEscape},
		"a link outside":     {[][2]string{{"location", "link"}, {"offset", "40"}}, ErrEscape},
		"a folder's link":    {[][2]string{{"location", "up/secret"}, {"offset", "40"}}, ErrEscape},
		"missing":            {[][2]string{{"location", "nowhere.bin"}}, ErrExternal},
		"a folder":           {[][2]string{{"location", "sub"}}, ErrExternal},
		"no location":        {[][2]string{{"offset", "40"}}, ErrExternal},
		"an empty location":  {[][2]string{{"location", ""}}, ErrExternal},
		"beyond the end":     {[][2]string{{"location", "w.bin"}, {"offset", "61"}}, ErrTruncated},
		"far beyond the end": {[][2]string{{"location", "w.bin"}, {"offset", strconv.FormatInt(math.MaxInt64, 10)}}, ErrTruncated},
		"a negative offset":  {[][2]string{{"location", "w.bin"}, {"offset", "-1"}}, ErrExternal},
		"an offset in words": {[][2]string{{"location", "w.bin"}, {"offset", "many"}}, ErrExternal},
		"a huge offset":      {[][2]string{{"location", "w.bin"}, {"offset", "99999999999999999999"}}, ErrExternal},
		"another length":     {[][2]string{{"location", "w.bin"}, {"length", "41"}}, ErrData},
		"a negative length":  {[][2]string{{"location", "w.bin"}, {"length", "-40"}}, ErrExternal},
	} {
		if strings.Contains(name, "link") && !linked {
			continue // a system without links has no such way out
		}
		p := tensor("w", TensorProto_FLOAT, nil, 10)
		p.DataLocation = TensorProto_EXTERNAL.Enum()
		for _, e := range c.entries {
			p.ExternalData = append(p.ExternalData, &StringStringEntryProto{Key: proto.String(e[0]), Value: proto.String(e[1])})
		}
		b := marshal(t, model(p))
		path := filepath.Join(dir, "model.onnx")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		d, err := f.Data(f.Model.Graph.Initializer[0])
		switch {
		case c.want == nil && (err != nil || !bytes.Equal(d.Bytes, pattern(100)[40:80]) || d.Offset != 40 || f.Size() != int64(len(b))+100):
			t.Errorf("%s: %v", name, err)
		case !errors.Is(err, c.want):
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		memory, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := memory.Data(memory.Model.Graph.Initializer[0]); err == nil {
			t.Errorf("%s: a model in memory has external data", name)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "open"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := mapped.OpenIn(root, "../secret"); err == nil {
		t.Error("a file outside was opened")
	}
}

// A file of 6 GB, most of it a hole, opens at once and in little memory.
func TestLargeFile(t *testing.T) {
	if math.MaxInt == math.MaxInt32 {
		t.Skip("a file larger than the address space")
	}
	const size = int64(6) << 30
	name := field(8, []byte("w"))
	tensorHead := slices.Concat(field(1, int(size/4)), field(2, 1), name, field(9, uint64(size)))
	initializer := field(5, uint64(int64(len(tensorHead))+size))
	graph := field(7, uint64(int64(len(initializer)+len(tensorHead))+size))
	head := slices.Concat(field(1, 8), graph, initializer, tensorHead)
	path := filepath.Join(t.TempDir(), "m.onnx")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(head); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(field(8, field(2, 17)), int64(len(head))+size); err != nil {
		t.Skipf("NOT TESTED: no sparse files here: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := f.Data(f.Model.Graph.Initializer[0])
	if err != nil || int64(len(d.Bytes)) != size || d.Offset != int64(len(head)) || f.Model.OpsetImport[0].GetVersion() != 17 {
		t.Errorf("%v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
}

// A file is written with its data in place, the same bytes each time, and what pare does not know stays.
func TestLay(t *testing.T) {
	big := pattern(5000)
	m := model(tensor("big", TensorProto_UINT8, nil, 5000), tensor("little", TensorProto_UINT8, pattern(10), 10))
	unknown := field(12345, []byte("kept"))
	m.ProtoReflect().SetUnknown(unknown)
	m.Graph.Initializer[0].ProtoReflect().SetUnknown(unknown)
	lay := func(location string) (model, external []byte) {
		var b Builder
		c := proto.Clone(m).(*ModelProto)
		b.Attach(c.Graph.Initializer[0], Payload{1, nil})
		b.Attach(c.Graph.Initializer[0], Payload{5000, func(_ context.Context, w io.Writer) error { // the last one counts
			_, err := w.Write(big)
			return err
		}})
		l, err := b.Lay(c, location)
		if err != nil {
			t.Fatal(err)
		}
		var out, data bytes.Buffer
		if err := errors.Join(l.WriteModel(t.Context(), &out), l.WriteExternal(t.Context(), &data)); err != nil {
			t.Fatal(err)
		}
		if int64(out.Len()) != l.Size || int64(data.Len()) != l.External {
			t.Errorf("%d and %d bytes, %d and %d announced", out.Len(), data.Len(), l.Size, l.External)
		}
		return out.Bytes(), data.Bytes()
	}
	want := proto.Clone(m).(*ModelProto)
	want.Graph.Initializer[0].RawData = big
	inline, none := lay("")
	var got ModelProto
	if err := proto.Unmarshal(inline, &got); err != nil || len(none) != 0 {
		t.Fatal(err)
	}
	if !proto.Equal(&got, want) {
		t.Error("the file is another one")
	}
	if again, _ := lay(""); !bytes.Equal(again, inline) {
		t.Error("the second time the bytes differ")
	}
	small, data := lay("m.data")
	if !bytes.Equal(data, big) || len(small) > len(inline)-4900 {
		t.Errorf("%d bytes of data, %d of model", len(data), len(small))
	}
	var b Builder
	b.Attach(m.Graph.Initializer[0], Payload{5000, func(_ context.Context, w io.Writer) error {
		_, err := w.Write(big[1:])
		return err
	}})
	l, err := b.Lay(m, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.WriteModel(t.Context(), io.Discard); !errors.Is(err, ErrData) {
		t.Errorf("a payload that is too short: %v", err)
	}
}
