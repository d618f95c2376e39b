package formats

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/tokenizer"
)

// Folders that have a tokenizer.model and no tokenizer.json, as older models do: what the files
// beside it say about special tokens counts. The ids are those of AutoTokenizer of transformers
// 5.23 on the same folders.
func TestSentencePieceFolder(t *testing.T) {
	const (
		names = `"tokenizer_class":"LlamaTokenizer","bos_token":"<s>","unk_token":"<unk>"`
		text  = "Hello world\n日本<|end|>"
	)
	words := []int32{265, 75, 266, 274, 274, 271, 261, 271, 267, 274, 279, 13, 233, 154, 168, 233, 159, 175}
	plain := slices.Concat(words, []int32{63, 127, 266, 268, 279, 127, 65})
	for name, c := range map[string]struct {
		files    map[string]string
		want     []int32
		eos      int
		template string
		problem  string
	}{
		"no start": {files: map[string]string{"tokenizer_config.json": `{` + names + `,"add_bos_token":false,"eos_token":"</s>"}`}, want: plain, eos: 2},
		"both": {
			files: map[string]string{"tokenizer_config.json": `{` + names + `,"add_bos_token":true,"add_eos_token":true,"eos_token":"</s>"}`},
			want:  slices.Concat([]int32{1}, plain, []int32{2}), eos: 2,
		},
		"added": {
			files: map[string]string{
				"tokenizer_config.json": `{` + names + `,"add_bos_token":true,"eos_token":"<|end|>","chat_template":"{{ bos_token }}",
					"added_tokens_decoder":{"320":{"content":"<|end|>","special":true,"lstrip":false,"rstrip":false,"normalized":false,"single_word":false}}}`,
				"special_tokens_map.json": `{"eos_token":"<|end|>"}`,
			},
			want: slices.Concat([]int32{1}, words, []int32{320}), eos: 320, template: "{{ bos_token }}",
		},
		"added, of old": {
			files: map[string]string{
				"tokenizer_config.json": `{` + names + `,"add_bos_token":true}`, "added_tokens.json": `{"<|end|>":320}`,
				"special_tokens_map.json": `{"eos_token":{"content":"<|end|>"}}`, "chat_template.jinja": "{{ eos_token }}",
			},
			want: slices.Concat([]int32{1}, words, []int32{320}), eos: 320, template: "{{ eos_token }}",
		},
		"id taken": {
			files:   map[string]string{"tokenizer_config.json": `{"added_tokens_decoder":{"7":{"content":"x"}}}`},
			problem: `added token "x" has the id of`,
		},
		"no list": {files: map[string]string{"tokenizer_config.json": `{"added_tokens_decoder":7}`}, problem: "added_tokens_decoder"},
	} {
		dir := t.TempDir()
		for _, f := range []string{"config.json", oneName, "tokenizer.model"} {
			b, err := os.ReadFile(filepath.Join(architectures, "mistral", f))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, f), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for f, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		m := open(t, dir)
		if c.problem != "" {
			if m.Tokenizer != nil || len(m.Problems) == 0 || !strings.Contains(m.Problems[0].Reason, c.problem) {
				t.Errorf("%s: problems %v", name, m.Problems)
			}
			continue
		}
		if m.Tokenizer == nil {
			t.Errorf("%s: %v", name, m.Problems)
			continue
		}
		tok, err := tokenizer.New(m.Tokenizer)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tok.Encode(text, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true})
		if err != nil || !slices.Equal(got, c.want) || m.Tokenizer.EOS != c.eos || m.Tokenizer.ChatTemplate != c.template {
			t.Errorf("%s: %v %v, want %v; end %d, template %q", name, got, err, c.want, m.Tokenizer.EOS, m.Tokenizer.ChatTemplate)
		}
	}
}
