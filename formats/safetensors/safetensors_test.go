package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/pare-dev/pare/internal/storage"
)

const bad = "../../testdata/adapters/bad-inputs"

func parse(b []byte) (*File, error) { return Parse(bytes.NewReader(b), int64(len(b))) }

// TestBadInputs: files made by hand for this purpose; see the README beside them.
func TestBadInputs(t *testing.T) {
	for name, want := range map[string]error{
		"empty": ErrTooShort, "seven-bytes": ErrTooShort, "truncated-header": ErrTooShort, "truncated-data": ErrTooShort,
		"header-length-2-63": ErrHeaderSize, "header-length-max": ErrHeaderSize, "header-longer-than-file": ErrTooShort,
		"header-not-json": ErrHeader, "header-array": ErrHeader, "header-bad-utf8": ErrHeader,
		"duplicate-keys": ErrDuplicate, "duplicate-keys-same-range": ErrDuplicate,
		"overlapping-offsets": ErrRange, "hole-between-tensors": ErrRange, "unused-tail": ErrRange,
		"offsets-past-end": ErrTooShort, "offsets-reversed": ErrRange, "offsets-negative": ErrRange,
		"size-mismatch": ErrRange, "shape-overflow": ErrShape, "shape-negative": ErrShape, "shape-fraction": ErrShape,
		"unknown-dtype": ErrDType, "missing-dtype": ErrHeader, "metadata-not-strings": ErrMetadata,
	} {
		b, err := os.ReadFile(filepath.Join(bad, name+".safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = parse(b)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func good(t testing.TB) []byte {
	b, err := os.ReadFile(filepath.Join(bad, "good.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGood(t *testing.T) {
	b := good(t)
	f, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	data := int64(len(b)) - 128
	want := []Tensor{{"a", "F32", []int{4, 4}, data, 64}, {"b", "F32", []int{16}, data + 64, 64}}
	if !reflect.DeepEqual(f.Tensors, want) {
		t.Errorf("got %+v, want %+v", f.Tensors, want)
	}
}

func TestTruncationAtEveryByte(t *testing.T) {
	b := good(t)
	for n := range b {
		if _, err := parse(b[:n]); err == nil {
			t.Errorf("cut at byte %d of %d: accepted", n, len(b))
		}
	}
}

func header2(s string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(s)))
	return append(append(b, s...), make([]byte, data)...)
}

func TestHeaders(t *testing.T) {
	for _, tc := range []struct {
		head string
		data int
		want error
	}{
		{`{}`, 0, nil},
		{`{}   `, 0, nil},
		{`{} x`, 0, ErrHeader},
		{`{}{}`, 0, ErrHeader},
		{` {}`, 0, ErrHeader},
		{`{"__metadata__":{"k":"v"}}`, 0, nil},
		{`{"__metadata__":{"k":"v","k":"w"}}`, 0, ErrDuplicate},
		{`{"__metadata__":[]}`, 0, ErrHeader},
		{`{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 4, nil},
		{`{"s":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}}`, 0, nil},
		{`{"z":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"e":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`, 4, nil},
		{`{"z":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"e":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}`, 4, nil},
		{`{"s":{"dtype":"F32","shape":[0,4611686018427387904,4611686018427387904],"data_offsets":[0,0]}}`, 0, ErrShape},
		{`{"s":{"dtype":"F32","shape":[1048577,0],"data_offsets":[0,0]}}`, 0, ErrShape},
		{`{"s":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}`, 2, ErrShape},
		{`{"s":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}`, 2, nil},
		{`{"s":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}`, 4, ErrHeader},
		{`{"s":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}`, 4, ErrDuplicate},
		{`{"s":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}`, 4, ErrRange},
		{`{"s":{"dtype":"F32","shape":[1],"data_offsets":[4]}}`, 4, ErrRange},
		{`{"s":{"dtype":"F32","shape":1,"data_offsets":[0,4]}}`, 4, ErrHeader},
		{`{"s":{"dtype":4,"shape":[1],"data_offsets":[0,4]}}`, 4, ErrDType},
		{`{"s":7}`, 4, ErrHeader},
		{`{"s":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}`, 4, ErrShape},
	} {
		if _, err := parse(header2(tc.head, tc.data)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.head, err, tc.want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	tensors := []Tensor{
		{Name: "z.weight", DType: "BF16", Shape: []int{3, 5}},
		{Name: "scalar", DType: "F64", Shape: []int{}},
		{Name: "empty", DType: "I8", Shape: []int{0}},
		{Name: "quote\"\\ ü 名", DType: "BOOL", Shape: []int{7}},
	}
	data := make([]byte, 30+8+7)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, tensors, map[string]string{"format": "pt", "a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); !errors.Is(err, ErrIncomplete) {
		t.Errorf("closing early: %v", err)
	}
	w.Write(data[:11])
	w.Write(data[11:])
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte{1}); !errors.Is(err, ErrRange) {
		t.Errorf("writing past the end: %v", err)
	}
	f, err := parse(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Tensors) != 4 || f.Metadata["format"] != "pt" || f.Metadata["a"] != "b" {
		t.Fatalf("got %+v", f)
	}
	for _, want := range tensors {
		for _, got := range f.Tensors {
			if got.Name == want.Name && (got.DType != want.DType || !reflect.DeepEqual(got.Shape, want.Shape)) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
	}
	if !bytes.Equal(out.Bytes()[out.Len()-len(data):], data) || (out.Len()-len(data))%8 != 0 {
		t.Error("data changed or is not aligned")
	}
	if _, err := NewWriter(&out, []Tensor{{Name: "a", DType: "F32"}, {Name: "a", DType: "F32"}}, nil); !errors.Is(err, ErrDuplicate) {
		t.Errorf("duplicate: %v", err)
	}
}

func TestTypes(t *testing.T) {
	for name, d := range dtypes {
		typ, err := Type(name)
		if d.typ == "" {
			if !errors.Is(err, ErrUnsupported) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if back, ok := DType(typ); !ok || back != name {
			t.Errorf("%s -> %s -> %s", name, typ, back)
		}
		if got := storage.MustLookup(typ).BlockBytes * 8; got != d.bits {
			t.Errorf("%s: %d bits, the type has %d", name, d.bits, got)
		}
	}
	if _, ok := DType("q4_0"); ok {
		t.Error("block types have no dtype")
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(bad + "/*.safetensors")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := parse(b)
		if err != nil {
			return // refusing is fine; crashing, hanging or pointing outside the file is not
		}
		for _, x := range file.Tensors {
			if x.Offset < 8 || x.Size < 0 || x.Offset > int64(len(b))-x.Size {
				t.Fatalf("tensor %q claims [%d,+%d) of %d bytes", x.Name, x.Offset, x.Size, len(b))
			}
		}
		var out bytes.Buffer
		w, err := NewWriter(&out, file.Tensors, file.Metadata)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, w.left)); err != nil {
			t.Fatal(err)
		}
		if _, err := parse(out.Bytes()); err != nil {
			t.Fatalf("what we write is refused: %v", err)
		}
	})
}
