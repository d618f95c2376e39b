package corpus

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/chat"
	"github.com/pare-dev/pare/internal/tokenizer"
)

// folder makes a tokenizer of one of package tokenizer's, with added tokens.
func folder(t *testing.T, name string, added []any) *tokenizer.Tokenizer {
	t.Helper()
	var config [2][]byte
	for i, file := range []string{"tokenizer.json", "tokenizer_config.json"} {
		b, err := os.ReadFile(filepath.Join("..", "tokenizer", "testdata", "hf", name, file))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		config[i] = b
	}
	var x map[string]any
	err := json.Unmarshal(config[0], &x)
	if err != nil {
		t.Fatal(err)
	}
	old, _ := x["added_tokens"].([]any)
	x["added_tokens"] = append(old, added...)
	if config[0], err = json.Marshal(x); err != nil {
		t.Fatal(err)
	}
	s, err := tokenizer.FromTokenizerJSON(config[0], config[1], nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// A conversation comes to the tokens that a tokenizer makes of all of its text, and what the assistant says is learned, white
// space at its beginning included.
func TestTalk(t *testing.T) {
	b, err := os.ReadFile("testdata/talk.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Tokenizer, Format string
		Added             []any
		Messages          []chat.Message
		IDs               []int32
		Learn             []int
	}
	if err := json.Unmarshal(b, &cases); err != nil || len(cases) < 20 {
		t.Fatal(err, len(cases))
	}
	for _, c := range cases {
		t.Run(c.Tokenizer+" "+c.Format, func(t *testing.T) {
			tok := folder(t, c.Tokenizer, c.Added)
			talk, err := NewTalk(tok, c.Format)
			if err != nil {
				t.Fatal(err)
			}
			ids, learn, err := talk.Encode(c.Messages)
			if err != nil {
				t.Fatal(err)
			}
			if talk.Starts() && tok.BOS() >= 0 {
				ids, learn = ids[1:], learn[1:]
			}
			if talk.Ends() && tok.EOS() >= 0 {
				ids, learn = ids[:len(ids)-1], learn[:len(learn)-1]
			}
			if !slices.Equal(ids, c.IDs) {
				t.Fatalf("\n got %v\nwant %v", ids, c.IDs)
			}
			for i, want := range c.Learn {
				if learn[i] != (want == 1) {
					t.Errorf("token %d (%d) is learned: %v", i, ids[i], learn[i])
				}
			}
		})
	}
	if _, err := NewTalk(letters(t, false), "gemma"); !errors.Is(err, ErrMarker) {
		t.Errorf("a model without the markers: %v", err)
	}
}
