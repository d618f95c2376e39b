package pickle

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats/safetensors"
)

func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(b []byte) (*File, error) { return Parse(bytes.NewReader(b), int64(len(b))) }

// expected reads the tensors that torch wrote as safetensors.
func expected(t *testing.T) (map[string]safetensors.Tensor, []byte) {
	t.Helper()
	b := file(t, "expected.safetensors")
	f, err := safetensors.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]safetensors.Tensor{}
	for _, x := range f.Tensors {
		m[x.Name] = x
	}
	return m, b
}

// Every dtype, view and nesting that torch.save writes, byte for byte.
func TestTorchFiles(t *testing.T) {
	want, data := expected(t)
	for _, c := range []struct {
		name, prefix string
		other        []string
	}{{"many.pt", "", nil}, {"nested.pt", "model.", []string{"epoch", "note", "rates", "none"}}} {
		b := file(t, c.name)
		f, err := parse(b)
		if err != nil {
			t.Fatal(c.name, err)
		}
		if len(f.Tensors) != len(want) || !slices.Equal(f.Other, c.other) {
			t.Errorf("%s: %d tensors, want %d; others %v", c.name, len(f.Tensors), len(want), f.Other)
		}
		for _, x := range f.Tensors {
			w, ok := want[strings.TrimPrefix(x.Name, c.prefix)]
			if !ok || !strings.HasPrefix(x.Name, c.prefix) {
				t.Errorf("%s: unexpected tensor %q", c.name, x.Name)
				continue
			}
			typ, err := safetensors.Type(w.DType)
			if err != nil || x.Type != typ || !slices.Equal(x.Shape, w.Shape) || x.Size != w.Size {
				t.Errorf("%s %s: %s %v of %d bytes, want %s %v of %d (%v)", c.name, x.Name, x.Type, x.Shape, x.Size, w.DType, w.Shape, w.Size, err)
				continue
			}
			got := make([]byte, x.Size)
			if err := x.ReadAt(bytes.NewReader(b), got, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, data[w.Offset:w.Offset+w.Size]) {
				t.Errorf("%s %s: other bytes", c.name, x.Name)
			}
			// pieces, as a band reader asks for them
			width := int(x.Size) / max(1, elems(x.Shape))
			for off := 0; off < len(got); off += width {
				if err := x.ReadAt(bytes.NewReader(b), got[off:off+width], int64(off)); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, data[w.Offset:w.Offset+w.Size]) {
				t.Errorf("%s %s: other bytes in pieces", c.name, x.Name)
			}
		}
	}
	f, err := parse(file(t, "state_dict.pt")) // with the _metadata of nn.Module.state_dict
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range f.Tensors {
		names = append(names, fmt.Sprint(x.Name, x.Shape))
	}
	if !slices.Equal(names, []string{"0.weight[2 3]", "0.bias[2]", "1.weight[2]", "1.bias[2]"}) {
		t.Errorf("state_dict: %v", names)
	}
}

func elems(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// archiveOf makes a checkpoint around a pickle, with one storage "0" of 24 bytes.
func archiveOf(t testing.TB, program string, extra ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	add := func(name, content string) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = f.Write([]byte(content))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add("x/data.pkl", program)
	add("x/data/0", strings.Repeat("abcd", 6))
	for i := 0; i+1 < len(extra); i += 2 {
		add(extra[i], extra[i+1])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func text(s string) string {
	return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}

func number(v int32) string { return "J" + string(binary.LittleEndian.AppendUint32(nil, uint32(v))) }

// tensorOf is the program that builds one tensor.
func tensorOf(class, key string, count, offset int32, shape, stride []int32) string {
	p := "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + class + "\n" + text(key) + text("cpu") + number(count) + "tQ" + number(offset)
	for _, list := range [][]int32{shape, stride} {
		p += "("
		for _, v := range list {
			p += number(v)
		}
		p += "t"
	}
	return p + "\x89ccollections\nOrderedDict\n)RtR"
}

func dictOf(value string) string { return "\x80\x02}" + text("w") + value + "s." }

func TestRefusals(t *testing.T) {
	ok := dictOf(tensorOf("FloatStorage", "0", 6, 0, []int32{2, 3}, []int32{3, 1}))
	if f, err := parse(archiveOf(t, ok)); err != nil || len(f.Tensors) != 1 || f.Tensors[0].Size != 24 {
		t.Fatalf("the control is refused: %v", err)
	}
	tensor := func(class, key string, count, offset int32, shape, stride []int32) []byte {
		return archiveOf(t, dictOf(tensorOf(class, key, count, offset, shape, stride)))
	}
	deflated := func() []byte {
		var buf bytes.Buffer
		w := zip.NewWriter(&buf)
		f, err := w.Create("x/data.pkl") // deflate
		if err == nil {
			_, err = f.Write([]byte(ok))
		}
		if err != nil || w.Close() != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	for _, c := range []struct {
		name string
		file []byte
		want error
		says string
	}{
		{"empty", nil, ErrArchive, ""},
		{"text", []byte("hello world"), ErrArchive, ""},
		{"zip head only", []byte("PK\x03\x04"), ErrArchive, ""},
		{"before 1.6", file(t, "legacy.pt"), ErrLegacy, "safetensors"},
		{"a whole module", file(t, "module.pt"), ErrForbidden, "torch.nn"},
		{"a Parameter", file(t, "parameter.pt"), ErrForbidden, "_rebuild_parameter"},
		{"more elements than the storage", tensor("FloatStorage", "0", 6, 0, []int32{7, 1}, []int32{0, 1}), ErrRange, ""},
		{"no pickle", archiveWithout(t), ErrArchive, "data.pkl"},
		{"compressed", deflated(), ErrArchive, "compressed"},
		{"big endian", archiveOf(t, ok, "x/byteorder", "big"), ErrArchive, "byte order"},
		{"entry twice", archiveOf(t, ok, "x/data/0", "abcd"), ErrArchive, "twice"},
		{"two pickles", archiveOf(t, ok, "y/data.pkl", ok), ErrArchive, "two"},
		{"os.system", archiveOf(t, "\x80\x02cposix\nsystem\n("+text("true")+"tR."), ErrForbidden, "system"},
		{"builtins.eval", archiveOf(t, "\x80\x02cbuiltins\neval\n("+text("1")+"tR."), ErrForbidden, "eval"},
		{"storage of another module", archiveOf(t, "\x80\x02cevil\nFloatStorage\n."), ErrForbidden, "evil"},
		{"INST", archiveOf(t, "\x80\x02(iposix\nsystem\n."), ErrForbidden, "0x69"},
		{"NEWOBJ", archiveOf(t, "\x80\x02ccollections\nOrderedDict\n)\x81."), ErrForbidden, "0x81"},
		{"STACK_GLOBAL", archiveOf(t, "\x80\x04"), ErrForbidden, "protocol 4"},
		{"EXT1", archiveOf(t, "\x80\x02\x82\x01."), ErrForbidden, "0x82"},
		{"call of a string", archiveOf(t, "\x80\x02"+text("x")+")R."), ErrForbidden, ""},
		{"call of a storage type", archiveOf(t, "\x80\x02ctorch\nFloatStorage\n)R."), ErrForbidden, "FloatStorage"},
		{"BUILD of a tensor", archiveOf(t, "\x80\x02"+tensorOf("FloatStorage", "0", 6, 0, []int32{6}, []int32{1})+"}b."), ErrForbidden, "BUILD"},
		{"tensor as key", archiveOf(t, "\x80\x02}("+tensorOf("FloatStorage", "0", 6, 0, []int32{6}, []int32{1})+"Nu."), ErrForbidden, "key"},
		{"missing storage", tensor("FloatStorage", "7", 6, 0, []int32{6}, []int32{1}), ErrRange, `"7"`},
		{"storage past its entry", tensor("FloatStorage", "0", 7, 0, []int32{6}, []int32{1}), ErrRange, "24 bytes"},
		{"doubles in the bytes of floats", tensor("DoubleStorage", "0", 6, 0, []int32{6}, []int32{1}), ErrRange, ""},
		{"negative count", tensor("FloatStorage", "0", -1, 0, []int32{6}, []int32{1}), ErrRange, ""},
		{"offset past the end", tensor("FloatStorage", "0", 6, 4, []int32{3}, []int32{1}), ErrRange, ""},
		{"negative offset", tensor("FloatStorage", "0", 6, -1, []int32{3}, []int32{1}), ErrPickle, ""},
		{"shape past the end", tensor("FloatStorage", "0", 6, 0, []int32{7}, []int32{1}), ErrRange, ""},
		{"stride past the end", tensor("FloatStorage", "0", 6, 0, []int32{2, 2}, []int32{5, 1}), ErrRange, ""},
		{"negative stride", tensor("FloatStorage", "0", 6, 0, []int32{2}, []int32{-1}), ErrPickle, ""},
		{"overflow", tensor("FloatStorage", "0", 6, 0, []int32{1 << 30, 1 << 30, 1 << 30}, []int32{0, 0, 0}), ErrRange, ""},
		{"no elements", tensor("FloatStorage", "0", 6, 0, []int32{0}, []int32{1}), ErrRange, ""},
		{"dims disagree", tensor("FloatStorage", "0", 6, 0, []int32{2, 3}, []int32{1}), ErrPickle, ""},
		{"quantized storage", tensor("QInt8Storage", "0", 6, 0, []int32{2}, []int32{1}), ErrForbidden, "QInt8Storage"},
		{"string past the end", archiveOf(t, "\x80\x02X\xff\xff\xff\x7f."), ErrPickle, "ends early"},
		{"global without end", archiveOf(t, "\x80\x02ctorch"), ErrPickle, ""},
		{"empty stack", archiveOf(t, "\x80\x02R."), ErrPickle, ""},
		{"mark popped", archiveOf(t, "\x80\x02(."), ErrPickle, ""},
		{"memo never written", archiveOf(t, "\x80\x02h\x05."), ErrPickle, "memo"},
		{"left over", archiveOf(t, "\x80\x02NN."), ErrPickle, "left over"},
		{"no STOP", archiveOf(t, "\x80\x02N"), ErrPickle, "ends early"},
		{"not UTF-8", archiveOf(t, "\x80\x02U\x02\xff\xfe."), ErrPickle, "UTF-8"},
		{"no tensor", archiveOf(t, "\x80\x02}."), ErrPickle, "no tensor"},
		{"dictionary in itself", archiveOf(t, "\x80\x02}q\x00"+text("a")+"h\x00s."), ErrPickle, "deeper"},
		{"dictionaries of dictionaries", archiveOf(t, bomb()), ErrPickle, "over and over"},
	} {
		_, err := parse(c.file)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %v saying %q", c.name, err, c.want, c.says)
		}
	}
}

// bomb nests dictionaries that each hold the one before a hundred times: 100^5 paths in 4 KB.
func bomb() string {
	p := "\x80\x02}(" + number(0) + "}q\x00"
	for level := 1; level < 6; level++ {
		p += number(int32(level)) + "}("
		for i := range 100 {
			p += number(int32(i)) + "h" + string(rune(level-1))
		}
		p += "uq" + string(rune(level))
	}
	return p + "u."
}

func archiveWithout(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	if _, err := w.CreateHeader(&zip.FileHeader{Name: "x/other"}); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// A file cut anywhere is refused or, past the central directory's end, impossible.
func TestTruncation(t *testing.T) {
	b := file(t, "state_dict.pt")
	for n := range b {
		if _, err := parse(b[:n]); err == nil {
			t.Fatalf("cut at byte %d of %d and accepted", n, len(b))
		}
	}
}

// Small files cannot make the reader allocate.
func TestAllocations(t *testing.T) {
	b := archiveOf(t, bomb())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = parse(b)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64*uint64(len(b))+1<<20 {
		t.Errorf("%d bytes for a file of %d", used, len(b))
	}
}

func FuzzParse(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.pt")
	if err != nil || len(paths) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, p := range paths {
		f.Add(file(f, filepath.Base(p)), []byte{})
	}
	f.Add([]byte{}, []byte(dictOf(tensorOf("HalfStorage", "0", 6, 1, []int32{2, 2}, []int32{1, 2}))))
	f.Add([]byte{}, []byte(bomb()))
	f.Fuzz(func(t *testing.T, b, program []byte) {
		if len(program) > 0 { // most mutations of a zip die at its checksums: fuzz the pickle itself
			b = archiveOf(t, string(program))
		}
		got, err := parse(b)
		if err != nil {
			return
		}
		for i := range got.Tensors {
			x := &got.Tensors[i]
			if x.Size < 0 || x.Size > int64(len(b)) {
				t.Fatalf("tensor %q claims %d of %d bytes", x.Name, x.Size, len(b))
			}
			if err := x.ReadAt(bytes.NewReader(b), make([]byte, x.Size), 0); err != nil {
				t.Fatalf("tensor %q: %v", x.Name, err)
			}
		}
	})
}
