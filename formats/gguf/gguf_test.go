package gguf

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func parse(b []byte) (*File, error) { return Parse(bytes.NewReader(b), int64(len(b))) }

// everyKind has a value of each kind of the format.
var everyKind = []KV{
	{"u8", uint8(200)},
	{"i8", int8(-3)},
	{"u16", uint16(65535)},
	{"i16", int16(-30000)},
	{"u32", uint32(1 << 31)},
	{"i32", int32(-1 << 31)},
	{"f32", float32(0.1)},
	{"bool", true},
	{"no", false},
	{"str", "žluťoučký\x00kůň"},
	{"empty", ""},
	{"u64", uint64(math.MaxUint64)},
	{"i64", int64(math.MinInt64)},
	{"f64", math.Pi},
	{"a.u8", []uint8{1, 2}},
	{"a.i8", []int8{-1}},
	{"a.u16", []uint16{3}},
	{"a.i16", []int16{-4}},
	{"a.u32", []uint32{5}},
	{"a.i32", []int32{-6}},
	{"a.f32", []float32{1.5, -2}},
	{"a.bool", []bool{true, false}},
	{"a.str", []string{"a", "", "ß"}},
	{"a.u64", []uint64{7}},
	{"a.i64", []int64{-8}},
	{"a.f64", []float64{9.25}},
	{"a.none", []string{}},
	{"nested", []any{[]int32{1, 2}, []string{"x"}, []any{[]bool{true}}}},
}

func build(t testing.TB, kv []KV, tensors []Tensor) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, kv, tensors)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, x := range w.tensors {
		total += x.Size
	}
	data := make([]byte, total)
	for i := range data {
		data[i] = byte(i*7 + 1)
	}
	for len(data) > 0 { // pieces that ignore tensor borders
		n := min(len(data), 11)
		if _, err := w.Write(data[:n]); err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var someTensors = []Tensor{
	{Name: "a.weight", Type: 0, Shape: []int{3, 5}},
	{Name: "empty", Type: 1, Shape: []int{0}},
	{Name: "scalar", Type: 0, Shape: []int{}},
	{Name: "q", Type: 12, Shape: []int{2, 512}},
	{Name: strings.Repeat("n", MaxName), Type: 8, Shape: []int{2, 2, 1, 64}},
}

func TestRoundTrip(t *testing.T) {
	b := build(t, everyKind, someTensors)
	f, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f.KV, everyKind) {
		t.Errorf("metadata: got %v", f.KV)
	}
	n := 0
	for i, want := range someTensors {
		got := f.Tensors[i]
		if got.Name != want.Name || got.Type != want.Type || !reflect.DeepEqual(got.Shape, want.Shape) || got.Offset%32 != 0 {
			t.Errorf("tensor %d: got %+v, want %+v", i, got, want)
		}
		for j := range got.Size {
			if b[got.Offset+j] != byte(n*7+1) {
				t.Fatalf("%s: byte %d differs", got.Name, j)
			}
			n++
		}
	}
	if v, ok := f.Value("i32"); !ok || v != int32(math.MinInt32) {
		t.Errorf("Value: %v", v)
	}
	if s, ok := f.Shape("q"); !ok || !reflect.DeepEqual(s, []int{2, 512}) {
		t.Errorf("Shape: %v", s)
	}
}

// TestRealFiles re-encodes the heads of files that llama.cpp's converter wrote: every byte must
// come back.
func TestRealFiles(t *testing.T) {
	files, err := filepath.Glob("../../testdata/architectures/*/model-*.gguf")
	if err != nil || len(files) != 5 {
		t.Fatal(files, err)
	}
	for _, path := range append(files, "../../testdata/books-llama/imatrix.gguf") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parse(b)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		head, err := Head(f.KV, f.Tensors)
		if err != nil || !bytes.HasPrefix(b, head) {
			t.Errorf("%s: encoding the head again gives other bytes (%v)", path, err)
		}
		last := f.Tensors[len(f.Tensors)-1]
		if end := last.Offset + last.Size; end+pad(end, 32) != int64(len(b)) {
			t.Errorf("%s: data ends at %d of %d bytes", path, end, len(b))
		}
	}
}

func TestTruncationAtEveryByte(t *testing.T) {
	b := build(t, everyKind, someTensors)
	f, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	last := f.Tensors[len(f.Tensors)-1]
	for n := range last.Offset + last.Size { // what follows is padding
		if _, err := parse(b[:n]); err == nil {
			t.Fatalf("cut at byte %d of %d: accepted", n, len(b))
		}
	}
}

func TestRefusals(t *testing.T) {
	ok := build(t, []KV{{"k", "v"}}, []Tensor{{Name: "t", Type: 0, Shape: []int{8}}, {Name: "u", Type: 0, Shape: []int{8}}})
	// The layout: magic 0, version 4, tensors 8, entries 16, key length 24, "k" 32, type 33, length 37,
	// "v" 45, name length 46, "t" 54, dimensions 55, ne 59, type 67, offset 71, "u" 79...
	if f, err := parse(ok); err != nil || f.Tensors[1].Offset != int64(len(ok))-32 {
		t.Fatal(f, err)
	}
	set := func(at int, v ...byte) []byte { b := bytes.Clone(ok); copy(b[at:], v); return b }
	huge := []byte{255, 255, 255, 255, 255, 255, 255, 127}
	for name, tc := range map[string]struct {
		b    []byte
		want error
	}{
		"magic":                {set(0, 'X'), ErrMagic},
		"version 1":            {set(4, 1), ErrVersion},
		"version 4":            {set(4, 4), ErrVersion},
		"big endian":           {set(4, 0, 0, 0, 3), ErrBigEndian},
		"tensor count":         {set(8, huge...), ErrCount},
		"entry count":          {set(16, huge...), ErrCount},
		"entry count by one":   {set(16, 2), nil}, // reads a tensor as an entry: any error
		"key length":           {set(24, huge...), ErrCount},
		"key not UTF-8":        {set(32, 0xff), ErrName},
		"value type":           {set(33, 13), ErrValue},
		"value length":         {set(37, huge...), ErrCount},
		"name length":          {set(46, huge...), ErrCount},
		"name not UTF-8":       {set(54, 0xfe), ErrName},
		"dimensions":           {set(55, 5), ErrShape},
		"dimension 2^63":       {set(59, 0, 0, 0, 0, 0, 0, 0, 0x80), ErrShape},
		"elements":             {set(59, huge...), ErrShape},
		"more than the file":   {set(59, 0, 1), ErrTruncated},
		"type":                 {set(67, 4), ErrType}, // Q4_2 was removed
		"not whole blocks":     {set(67, 2), ErrShape},
		"offset not aligned":   {set(71, 1), ErrAlignment},
		"offset past the end":  {set(71, 0, 0, 0, 0, 0, 0, 0, 0x40), ErrTruncated},
		"offset 2^63":          {set(71, 0, 0, 0, 0, 0, 0, 0, 0x80), ErrTruncated},
		"overlap":              {set(71, 32), ErrRange},
		"the same name twice":  {set(79+8, 't'), ErrDuplicate},
		"the same key twice":   {build0(t, "k", "k"), ErrDuplicate},
		"alignment 3":          {build0(t, "general.alignment", uint32(3)), ErrAlignment},
		"alignment 0":          {build0(t, "general.alignment", uint32(0)), ErrAlignment},
		"alignment as a text":  {build0(t, "general.alignment", "32"), ErrAlignment},
		"bool of 2":            {replaceLast(build0(t, "b", true), 2), ErrValue},
		"arrays nested deeply": {nested(), ErrValue},
	} {
		_, err := parse(tc.b)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// build0 makes a file with one or two entries and no tensors, past the checks of the writer.
func build0(t *testing.T, key string, v any) []byte {
	b := append([]byte("GGUF"), 3, 0, 0, 0)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint64(b, 1)
	if v == "k" {
		b[16] = 2
		b = le.AppendUint32(appendString(b, key), typeString)
		b = appendString(b, "")
	}
	typ, ok := typeOf(v)
	if !ok {
		t.Fatal(v)
	}
	b, err := appendValue(le.AppendUint32(appendString(b, key), typ), v, 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func replaceLast(b []byte, v byte) []byte { b[len(b)-1] = v; return b }

func nested() []byte {
	b := append([]byte("GGUF"), 3, 0, 0, 0)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint64(b, 1)
	b = le.AppendUint32(appendString(b, "k"), typeArray)
	for range 1000 {
		b = le.AppendUint64(le.AppendUint32(b, typeArray), 1)
	}
	return append(b, make([]byte, 12)...)
}

func TestWriterRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		kv   []KV
		t    []Tensor
		want error
	}{
		"long name":      {nil, []Tensor{{Name: strings.Repeat("n", 64)}}, ErrName},
		"no name":        {nil, []Tensor{{Name: ""}}, ErrName},
		"duplicate":      {nil, []Tensor{{Name: "a"}, {Name: "a"}}, ErrDuplicate},
		"five dims":      {nil, []Tensor{{Name: "a", Shape: []int{1, 1, 1, 1, 1}}}, ErrShape},
		"huge and empty": {nil, []Tensor{{Name: "a", Type: 0, Shape: []int{1 << 21, 0}}}, ErrShape},
		"broken blocks":  {nil, []Tensor{{Name: "a", Type: 12, Shape: []int{255}}}, ErrShape},
		"type":           {nil, []Tensor{{Name: "a", Type: 99}}, ErrType},
		"same key":       {[]KV{{"a", true}, {"a", true}}, nil, ErrDuplicate},
		"Go type":        {[]KV{{"a", 1}}, nil, ErrValue},
		"mixed array":    {[]KV{{"a", []any{"x"}}}, nil, ErrValue},
		"alignment":      {[]KV{{"general.alignment", uint32(5)}}, nil, ErrAlignment},
	} {
		if _, err := Head(tc.kv, tc.t); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	w, err := NewWriter(&bytes.Buffer{}, nil, []Tensor{{Name: "a", Shape: []int{4}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); !errors.Is(err, ErrIncomplete) {
		t.Errorf("closing early: %v", err)
	}
	if _, err := w.Write(make([]byte, 17)); !errors.Is(err, ErrRange) {
		t.Errorf("writing too much: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(build(f, everyKind, someTensors))
	f.Add(nested())
	f.Add(build(f, []KV{{"general.alignment", uint32(64)}}, someTensors[:1]))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := parse(b)
		if err != nil {
			return // refusing is fine; crashing, hanging or pointing outside the file is not
		}
		for _, x := range file.Tensors {
			if x.Offset < 0 || x.Size < 0 || x.Offset > int64(len(b))-x.Size {
				t.Fatalf("tensor %q claims [%d,+%d) of %d bytes", x.Name, x.Offset, x.Size, len(b))
			}
		}
		head, err := Head(file.KV, file.Tensors)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := parse(append(head, b...)); err != nil && len(file.Tensors) == 0 {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}

// Names and blocks of every type id are those of the real ggml, so that ranges are checked rightly
// also for types that pare does not compute with.
func TestTypesAsGGML(t *testing.T) {
	b, err := os.ReadFile("../../internal/storage/testdata/types.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		ID           uint32
		Name         string
		Elems, Bytes int
	}
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	ids := map[uint32]bool{}
	for _, w := range list {
		ids[w.ID] = true
		n, err := size(w.ID, []int{3, 2 * w.Elems})
		if err != nil || n != int64(6*w.Bytes) || TypeName(w.ID) != w.Name {
			t.Errorf("id %d is %s of %d bytes, %v; ggml: %+v", w.ID, TypeName(w.ID), n, err, w)
		}
	}
	if len(list) != 35 {
		t.Errorf("%d types", len(list))
	}
	for id := range uint32(1000) {
		if l, ok := layoutOf(id); ok && !ids[id] {
			t.Errorf("ggml has no type %d, which is %v here", id, l)
		}
	}
	if got := TypeName(1000); got != "type 1000" {
		t.Errorf("an unknown id is called %q", got)
	}
}
