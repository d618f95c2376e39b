package tokenizer

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// llamaGolden is what llama.cpp v0.5.0 gives for the texts of hf/texts.json.
type llamaGolden struct{ Plain, Parsed, Special [][]int32 }

func readLlamaGolden(t testing.TB) map[string]llamaGolden {
	t.Helper()
	f, err := os.Open("testdata/llamacpp/golden.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var cases map[string]llamaGolden
	if err := json.NewDecoder(z).Decode(&cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 15 {
		t.Fatalf("%d tokenizers", len(cases))
	}
	return cases
}

// viaGGUF writes s as GGUF metadata and reads it back.
func viaGGUF(t testing.TB, s *Spec) *Spec {
	t.Helper()
	kvs, err := s.GGUF()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	for _, kv := range kvs {
		got[kv.Key] = kv.Value
	}
	back, err := FromGGUF(getter(got))
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// TestLlamaCpp compares with llama.cpp itself, on published vocabularies and on the metadata that
// this package writes for the tokenizers of TestHuggingFace.
func TestLlamaCpp(t *testing.T) {
	var texts []string
	readJSON(t, "testdata/hf/texts.json", &texts)
	for name, want := range readLlamaGolden(t) {
		t.Run(name, func(t *testing.T) {
			var s *Spec
			if name == "gpt-2" || name == "llama-spm" {
				s, _ = loadGGUF(t, "testdata/gguf/"+name+".gguf.gz")
			} else {
				s, _ = loadHF(t, folderOf(name))
				s = viaGGUF(t, s)
			}
			tok, err := New(s)
			if err != nil {
				t.Fatal(err)
			}
			for i, text := range texts {
				if name == "o200k" && strings.ContainsFunc(text, unicode.IsMark) {
					continue // see noteMarks; TestHuggingFace holds these to the published pattern
				}
				check := func(what string, opt EncodeOptions, want []int32) {
					if got := encode(t, tok, text, opt); !slices.Equal(got, want) {
						t.Errorf("%s %q:\n got %v\nwant %v", what, text, pieces(tok, got), pieces(tok, want))
					}
				}
				check("plain", EncodeOptions{}, want.Plain[i])
				check("parsed", EncodeOptions{ParseSpecial: true}, want.Parsed[i])
				if i < len(want.Special) {
					check("special", EncodeOptions{ParseSpecial: true, AddSpecial: true}, want.Special[i])
				}
			}
		})
	}
}

// TestConverter compares the metadata written for testdata/architectures, value by value, with
// that of llama.cpp's own converter.
func TestConverter(t *testing.T) {
	var want map[string]map[string]any
	readJSON(t, "testdata/llamacpp/converter.json", &want)
	for _, name := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		s, _ := loadHF(t, folderOf(name))
		if rows := len(want[name]["tokenizer.ggml.tokens"].([]any)); rows > len(s.Tokens) {
			if err := s.Pad(rows); err != nil { // the embedding matrix of qwen2 has more rows
				t.Fatal(err)
			}
		}
		kvs, err := s.GGUF()
		if err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(kvs)
		var list []KV
		if err := json.Unmarshal(b, &list); err != nil {
			t.Fatal(err)
		}
		got := map[string]any{}
		for _, kv := range list {
			got[kv.Key] = kv.Value
		}
		for key, w := range want[name] {
			if key == "tokenizer.ggml.bos_token_id" && s.BOS < 0 {
				continue // the converter takes it from config.json, which a test of this package does not read
			}
			if !reflect.DeepEqual(got[key], w) {
				t.Errorf("%s: %s is %.200v, want %.200v", name, key, got[key], w)
			}
		}
	}
}

// TestGGUFRefusals: what llama.cpp would run differently is not written.
func TestGGUFRefusals(t *testing.T) {
	for name, want := range map[string]string{
		"gpt2-prefix":      "no space before byte-level text",
		"metaspace-always": "which the merge list does not",
		"possessive":       "no name for this way to split words",
	} {
		s, _ := loadHF(t, folderOf(name))
		if _, err := s.GGUF(); !errors.Is(err, ErrInexact) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, _ := loadHF(t, folderOf("qwen2-nfc"))
	if notes := s.GGUFNotes(); len(notes) != 2 {
		t.Errorf("notes %q, want one on NFC and one on added tokens", notes)
	}
	// "ab" can only be reached by ignoring the merges; llama.cpp's gpt-2 does not.
	s, _ = loadHF(t, folderOf("gpt2-added"))
	s.Tokens, s.Types, s.IgnoreMerges = append(s.Tokens, "qzx"), append(s.Types, Normal), true
	if _, err := s.GGUF(); !errors.Is(err, ErrInexact) {
		t.Errorf("ignore_merges that matters: %v", err)
	}
	s.IgnoreMerges = false
	if _, err := s.GGUF(); err != nil {
		t.Error(err)
	}
}
