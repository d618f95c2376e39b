package tokenizer

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// sourceOf reads the Spec that a case of TestWritten is made from.
func sourceOf(t *testing.T, name string) *Spec {
	t.Helper()
	switch name {
	case "tok512":
		b, err := os.ReadFile("testdata/llama2c/tok512.bin")
		if err != nil {
			t.Fatal(err)
		}
		s, err := FromLlama2C(b, 512)
		if err != nil {
			t.Fatal(err)
		}
		return s
	case "gpt-2", "llama-spm":
		s, _ := loadGGUF(t, "testdata/gguf/"+name+".gguf.gz")
		return s
	}
	paths, _ := filepath.Glob("../../testdata/architectures/" + name + "/model-*.gguf")
	if len(paths) != 1 {
		t.Fatalf("%s: GGUF files %q", name, paths)
	}
	s, _ := loadGGUF(t, paths[0])
	return s
}

// TestWritten: the tokenizer.json made from GGUF and llama2.c files gives, loaded by transformers,
// the ids that the original gives here. The digest shows that transformers was asked about the
// very file that is written now.
func TestWritten(t *testing.T) {
	var texts []string
	readJSON(t, "testdata/hf/texts.json", &texts)
	f, err := os.Open("testdata/written/golden.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var cases map[string]struct {
		SHA256         string
		Plain, Special [][]int32
	}
	if err := json.NewDecoder(z).Decode(&cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 7 {
		t.Fatalf("%d cases", len(cases))
	}
	for name, want := range cases {
		s := sourceOf(t, name)
		file, config, err := s.TokenizerJSON()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(file)); sum != want.SHA256 {
			t.Errorf("%s: another file is written (%s): run testdata/written/make_goldens.py", name, sum)
		}
		back, err := FromTokenizerJSON(file, config, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, s := range []*Spec{s, back} {
			tok, err := New(s)
			if err != nil {
				t.Fatal(err)
			}
			for i, text := range texts {
				if got := encode(t, tok, text, EncodeOptions{ParseSpecial: true}); !slices.Equal(got, want.Plain[i]) {
					t.Errorf("%s: %q:\n got %v\nwant %v", name, text, pieces(tok, got), pieces(tok, want.Plain[i]))
				}
				if i < len(want.Special) {
					if got := encode(t, tok, text, EncodeOptions{ParseSpecial: true, AddSpecial: true}); !slices.Equal(got, want.Special[i]) {
						t.Errorf("%s: %q with special tokens: got %v, want %v", name, text, got, want.Special[i])
					}
				}
			}
		}
	}
}
