package llama2c

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"testing"
)

const stories = "../../testdata/stories260k/stories260K.bin"

func TestStories(t *testing.T) {
	b, err := os.ReadFile(stories)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Header{64, 172, 5, 8, 4, 512, 512, true}); f.Header != want { // from the README of the data
		t.Errorf("header %+v, want %+v", f.Header, want)
	}
	n := 0
	for _, x := range f.Tensors {
		size := 1
		for _, d := range x.Shape {
			size *= d
		}
		n += size
		if x.Kind == Norm { // the gains of a trained norm are near one: the offset must be right
			for i := range size {
				v := math.Float32frombits(binary.LittleEndian.Uint32(b[x.Offset+int64(4*i):]))
				if !(v > 0.1 && v < 10) {
					t.Fatalf("final norm gain %d is %v", i, v)
				}
			}
		}
	}
	if n != 264128-2*512*4 { // all float32 values but the RoPE tables
		t.Errorf("%d parameters", n)
	}
	for _, cut := range []int{0, 1, 27, 28, 1000, len(b) - 1} {
		if _, err := Parse(bytes.NewReader(b[:cut]), int64(cut)); err == nil {
			t.Errorf("cut at %d: accepted", cut)
		}
	}
	if _, err := Parse(bytes.NewReader(append(b, 0)), int64(len(b)+1)); !errors.Is(err, ErrSize) {
		t.Errorf("a byte more: %v", err)
	}
}

func header(v ...int32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, uint32(x))
	}
	return b
}

func TestHeaders(t *testing.T) {
	for name, b := range map[string][]byte{
		"zero":          header(0, 0, 0, 0, 0, 0, 0),
		"negative":      header(-64, 172, 5, 8, 4, 512, 512),
		"huge":          header(math.MaxInt32, math.MaxInt32, math.MaxInt32, 1, 1, math.MaxInt32, math.MaxInt32),
		"vocab minimum": header(64, 172, 5, 8, 4, math.MinInt32, 512),
		"heads":         header(64, 172, 5, 7, 4, 512, 512),
		"kv heads":      header(64, 172, 5, 8, 3, 512, 512),
		"odd head":      header(8, 172, 5, 8, 4, 512, 512),
		"most":          header(1<<20, 1<<20, 1<<20, 1, 1, 1<<20, 1<<20),
	} {
		if _, err := Parse(bytes.NewReader(b), int64(len(b))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(header(2, 1, 1, 1, 1, 1, 1), 40)
	f.Add(header(4, 3, 2, 2, 1, -5, 2), 1000)
	f.Fuzz(func(t *testing.T, head []byte, rest int) {
		if rest < 0 || rest > 1<<20 {
			return
		}
		b := append(head, make([]byte, rest)...)
		if len(head) >= HeaderSize { // make the length fit, which no fuzzer would find
			if h, err := ParseHeader(head); err == nil {
				if n, ok := h.Size(); ok && n <= 1<<22 {
					b = append(head[:HeaderSize:HeaderSize], make([]byte, n-HeaderSize)...)
				}
			}
		}
		file, err := Parse(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		end := int64(HeaderSize)
		for _, x := range file.Tensors {
			size := int64(4)
			for _, d := range x.Shape {
				size *= int64(d)
			}
			if x.Offset < end || x.Offset+size > int64(len(b)) {
				t.Fatalf("%s of layer %d claims [%d,+%d) of %d bytes", x.Kind, x.Layer, x.Offset, size, len(b))
			}
			end = x.Offset + size
		}
	})
}
