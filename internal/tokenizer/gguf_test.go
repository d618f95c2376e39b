package tokenizer

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// readKVs reads the metadata of a GGUF file (version 3). It is a test's reader: it trusts the file.
func readKVs(t testing.TB, path string) map[string]any {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if filepath.Ext(path) == ".gz" {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	u64 := func() uint64 { x := le.Uint64(b); b = b[8:]; return x }
	u32 := func() uint32 { x := le.Uint32(b); b = b[4:]; return x }
	str := func() string { n := u64(); s := string(b[:n]); b = b[n:]; return s }
	scalar := func(typ uint32) any {
		switch typ {
		case 4:
			return u32()
		case 5:
			return int32(u32())
		case 6:
			var x float32
			_ = binary.Read(bytes.NewReader(b[:4]), le, &x)
			b = b[4:]
			return x
		case 7:
			x := b[0] != 0
			b = b[1:]
			return x
		case 8:
			return str()
		case 10:
			return u64()
		}
		t.Fatalf("%s: value type %d", path, typ)
		return nil
	}
	b = b[16:] // magic, version, tensor count
	kvs := map[string]any{}
	for range u64() {
		key, typ := str(), u32()
		if typ != 9 {
			kvs[key] = scalar(typ)
			continue
		}
		elem, n := u32(), int(u64())
		var list reflect.Value
		for i := range n {
			x := reflect.ValueOf(scalar(elem))
			if i == 0 {
				list = reflect.MakeSlice(reflect.SliceOf(x.Type()), 0, n)
			}
			list = reflect.Append(list, x)
		}
		if n > 0 {
			kvs[key] = list.Interface()
		}
	}
	return kvs
}

func getter(kvs map[string]any) func(string) (any, bool) {
	return func(key string) (any, bool) { v, ok := kvs[key]; return v, ok }
}

func loadGGUF(t testing.TB, path string) (*Spec, *Tokenizer) {
	t.Helper()
	s, err := FromGGUF(getter(readKVs(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return s, tok
}

// TestLlamaCppCases runs llama.cpp's own vocabulary tests: texts and the ids they must give.
func TestLlamaCppCases(t *testing.T) {
	inp, err := os.ReadFile("testdata/gguf/cases.inp")
	if err != nil {
		t.Fatal(err)
	}
	texts := strings.Split(string(inp), "\n__ggml_vocab_test__\n")
	for _, name := range []string{"gpt-2", "llama-spm", "bert-bge"} {
		out, err := os.ReadFile("testdata/gguf/" + name + ".out")
		if err != nil {
			t.Fatal(err)
		}
		wants := strings.Split(string(out), "\n")
		_, tok := loadGGUF(t, "testdata/gguf/"+name+".gguf.gz")
		if len(texts) < 40 || len(wants) < len(texts) {
			t.Fatalf("%s: %d texts, %d results", name, len(texts), len(wants))
		}
		for i, text := range texts {
			ids := encode(t, tok, text, EncodeOptions{})
			if got := strings.Trim(fmt.Sprint(ids), "[]"); got != strings.TrimSpace(wants[i]) {
				t.Errorf("%s: %q: got %s, want %s", name, text, got, wants[i])
			}
			if back := tok.Decode(ids, DecodeOptions{}); back != text && name != "bert-bge" { // WordPiece keeps neither case nor spaces
				t.Errorf("%s: %q comes back as %q", name, text, back)
			}
		}
	}
}

// TestGGUFRoundTrip writes the metadata of a file again and compares value by value.
func TestGGUFRoundTrip(t *testing.T) {
	for _, name := range []string{"gpt-2", "llama-spm"} {
		want := readKVs(t, "testdata/gguf/"+name+".gguf.gz")
		s, _ := loadGGUF(t, "testdata/gguf/"+name+".gguf.gz")
		kvs, err := s.GGUF()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]any{}
		for _, kv := range kvs {
			got[kv.Key] = kv.Value
		}
		for key, w := range want {
			if strings.HasPrefix(key, "tokenizer.") && !reflect.DeepEqual(got[key], w) {
				t.Errorf("%s: %s differs", name, key)
			}
		}
		back, err := FromGGUF(getter(got))
		if err != nil || !reflect.DeepEqual(back, s) {
			t.Errorf("%s: the written metadata gives another tokenizer (%v)", name, err)
		}
		for _, key := range []string{"add_bos_token", "add_eos_token", "add_space_prefix"} {
			if !slices.ContainsFunc(kvs, func(kv KV) bool { return kv.Key == "tokenizer.ggml."+key }) {
				t.Errorf("%s: %s is not said", name, key)
			}
		}
	}
}
