package tokenizer

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"testing"
)

func sentencePieceFile(name string) string {
	if name == "mistral" {
		return "../../testdata/architectures/mistral/tokenizer.model"
	}
	return "testdata/sentencepiece/" + name + ".model"
}

// TestSentencePiece compares ids with the SentencePiece library.
func TestSentencePiece(t *testing.T) {
	var texts []string
	readJSON(t, "testdata/hf/texts.json", &texts)
	var cases map[string][][]int32
	readJSON(t, "testdata/sentencepiece/golden.json", &cases)
	if len(cases) != 4 {
		t.Fatalf("%d models", len(cases))
	}
	for name, want := range cases {
		b, err := os.ReadFile(sentencePieceFile(name))
		if err != nil {
			t.Fatal(err)
		}
		s, err := FromSentencePiece(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		tok, err := New(s)
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range texts {
			if want[i] == nil {
				continue
			}
			if got := encode(t, tok, text, EncodeOptions{}); !slices.Equal(got, want[i]) {
				t.Errorf("%s: %q:\n got %v\nwant %v", name, text, pieces(tok, got), pieces(tok, want[i]))
			}
		}
	}
}

// TestApplyConfigs: a folder with tokenizer.model and tokenizer_config.json, such as phi-3's.
func TestApplyConfigs(t *testing.T) {
	b, err := os.ReadFile(sentencePieceFile("mistral"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := FromSentencePiece(b)
	if err != nil {
		t.Fatal(err)
	}
	n := len(s.Tokens)
	err = s.ApplyConfigs(Configs{Tokenizer: []byte(`{"add_bos_token":false,"bos_token":"<s>","eos_token":"<|endoftext|>","added_tokens_decoder":{
		"2":{"content":"</s>","special":true},"` + strconv.Itoa(n) + `":{"content":"<|endoftext|>","special":true},
		"` + strconv.Itoa(n+1) + `":{"content":"[X]","rstrip":true}}}`), Generation: []byte(`{"eos_token_id":[2]}`)})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	got := encode(t, tok, "[X] \n a<|endoftext|>", EncodeOptions{AddSpecial: true, ParseSpecial: true})
	want := append([]int32{int32(n + 1)}, encode(t, tok, "a", EncodeOptions{})...)
	if want = append(want, int32(n)); !slices.Equal(got, want) || s.EOS != n || s.AddBOS || !tok.IsEOG(2) {
		t.Errorf("got %v, want %v; end %d", got, want, s.EOS)
	}
	for _, bad := range []string{
		`[]`, `{"added_tokens_decoder":7}`, `{"added_tokens_decoder":{"9999":{"content":"x"}}}`,
		`{"added_tokens_decoder":{"5":{"content":"x"}}}`, `{"added_tokens_decoder":{"-1":{"content":"x"}}}`,
	} {
		if err := s.ApplyConfigs(Configs{Tokenizer: []byte(bad)}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for _, bad := range []string{`[]`, `{"x":9999}`, `{"x":5}`, `{"x":-1}`, `{"":` + strconv.Itoa(len(s.Tokens)) + `}`, `{"x":1,"y":1}`} {
		if err := s.ApplyConfigs(Configs{Added: []byte(bad)}); !errors.Is(err, ErrMalformed) {
			t.Errorf("added_tokens.json %s: %v", bad, err)
		}
	}
}
