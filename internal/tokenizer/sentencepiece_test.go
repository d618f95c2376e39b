package tokenizer

import (
	"os"
	"slices"
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
			if got := tok.Encode(text, EncodeOptions{}); !slices.Equal(got, want[i]) {
				t.Errorf("%s: %q:\n got %v\nwant %v", name, text, pieces(tok, got), pieces(tok, want[i]))
			}
		}
	}
}
