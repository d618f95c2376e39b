package npy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/x448/float16"
)

// value reads element i as a number.
func value(t *testing.T, b []byte, e Elem, i int) float64 {
	t.Helper()
	b = b[i*e.Size:]
	le := binary.LittleEndian
	switch e.String() {
	case "b1", "u1":
		return float64(b[0])
	case "i1":
		return float64(int8(b[0]))
	case "i2":
		return float64(int16(le.Uint16(b)))
	case "u2":
		return float64(le.Uint16(b))
	case "i4":
		return float64(int32(le.Uint32(b)))
	case "u4":
		return float64(le.Uint32(b))
	case "i8":
		return float64(int64(le.Uint64(b)))
	case "u8":
		return float64(le.Uint64(b))
	case "f2":
		return float64(float16.Frombits(le.Uint16(b)).Float32())
	case "f4", "c8":
		return float64(math.Float32frombits(le.Uint32(b)))
	case "f8", "c16":
		return math.Float64frombits(le.Uint64(b))
	}
	t.Fatalf("no type %s", e)
	return 0
}

// NumPy's files of every type, in both orders of axes and of bytes; and one in IDX.
func TestReadWhatNumpyWrites(t *testing.T) {
	files, err := filepath.Glob("testdata/*_*.npy")
	if err != nil || len(files) != 14*3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range append(files, filepath.Join("testdata", "i2.idx")) {
		a, err := Open(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		first := -1.0
		if a.Elem.Kind == 'b' || a.Elem.Kind == 'u' {
			first = 0
		}
		b, err := a.All()
		if err != nil || !slices.Equal(a.Shape, []int{2, 3}) {
			t.Errorf("%s: shape %v, %v", name, a.Shape, err)
		}
		for i := range 6 {
			want := first + float64(i)
			if a.Elem.Kind == 'b' {
				want = min(1, want)
			}
			if got := value(t, b, a.Elem, i); got != want {
				t.Errorf("%s: element %d is %v, want %v", name, i, got, want)
			}
		}
		last, err := a.Rows(1, 2)
		if err != nil || !bytes.Equal(last, b[len(b)/2:]) {
			t.Errorf("%s: the last row is %v, %v", name, last, err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	for name, shape := range map[string][]int{"scalar": {}, "v2": {3}} {
		a, err := Open("testdata/" + name + ".npy")
		if err != nil || !slices.Equal(a.Shape, shape) {
			t.Fatalf("%s: %v %v", name, a, err)
		}
		_ = a.Close()
	}
	for _, name := range []string{"fields", "text"} {
		if _, err := Open("testdata/" + name + ".npy"); !errors.Is(err, ErrType) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is written has the bytes that NumPy writes.
func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npy")
	w, err := Create(path, Elem{'f', 4}, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Floats([]float32{-1, 0, 1, 2, 3, 4}), w.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	want, err2 := os.ReadFile("testdata/f4_c.npy")
	if err != nil || err2 != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := Strings(path, []string{"one", "two"}, 2); err != nil {
		t.Fatal(err)
	}
	got, err = os.ReadFile(path)
	want, err2 = os.ReadFile("testdata/text.npy")
	if err != nil || err2 != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	w, err = Create(path+"2", Elem{'f', 4}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Floats([]float32{1}), w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + "2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an array that is not complete: %v", err)
	}
}

func header(text string) string {
	return "\x93NUMPY\x01\x00" + string(rune(len(text))) + "\x00" + text
}

func TestHostile(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		want error
	}{
		"empty":           {"", ErrHeader},
		"text":            {"hello, this is text", ErrHeader},
		"version":         {"\x93NUMPY\x09\x00\x10\x00                  ", ErrHeader},
		"header too long": {"\x93NUMPY\x01\x00\xff\xff{}", ErrShort},
		"version 2 cut":   {"\x93NUMPY\x02\x00\xff\xff", ErrShort},
		"no keys":         {header("{}\n"), ErrHeader},
		"object":          {header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"), ErrType},
		"float of 3":      {header("{'descr': '<f3', 'fortran_order': False, 'shape': (1,), }\n"), ErrType},
		"negative":        {header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"), ErrHeader},
		"huge":            {header("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9), }\n"), ErrShort},
		"huger":           {header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }\n"), ErrHeader},
		"short":           {header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n") + "123456789012345", ErrShort},
		"idx type":        {"\x00\x00\x01\x01\x00\x00\x00\x01a", ErrType},
		"idx huge":        {"\x00\x00\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ErrShort},
		"idx cut":         {"\x00\x00\x08\xff\x00\x00", ErrShort},
	} {
		if _, err := Read(strings.NewReader(c.file), int64(len(c.file))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	good, err := os.ReadFile("testdata/f4_fortran.npy")
	if err != nil {
		t.Fatal(err)
	}
	for n := range good { // every length but the whole
		if _, err := Read(bytes.NewReader(good[:n]), int64(n)); err == nil {
			t.Errorf("%d of %d bytes are an array", n, len(good))
		}
	}
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
	for range 2000 {
		b := bytes.Clone(good)
		b[r.IntN(len(b))] = byte(r.Uint32())
		if a, err := Read(bytes.NewReader(b), int64(len(b))); err == nil {
			_, _ = a.All()
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"f4_c.npy", "i2_fortran.npy", "c8_big.npy", "v2.npy", "i2.idx"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		got, err := a.All()
		if err == nil && len(got) != a.Elems()*a.Elem.Size {
			t.Fatalf("%d bytes of %v %v", len(got), a.Shape, a.Elem)
		}
	})
}
