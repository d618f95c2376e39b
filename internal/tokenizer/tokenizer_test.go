package tokenizer

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// encode is Encode with a tokenizer whose patterns come to an end.
func encode(t testing.TB, tok *Tokenizer, text string, opt EncodeOptions) []int32 {
	t.Helper()
	ids, err := tok.Encode(text, opt)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestScanners holds the hand-written word splitters to the regular expressions they stand for,
// run by a general engine.
func TestScanners(t *testing.T) {
	var texts []string
	readJSON(t, "testdata/hf/texts.json", &texts)
	rng := rand.New(rand.NewPCG(1, 2))
	alphabet := []string{"a", "Z", "é", "ſ", "中", "1", "٣", "½", " ", " ", "\n", "\r", "\t", "\u00a0", "\u2028", "'", "'s", "'LL", "'Re", "!", "-", "\u0301", "🐦"}
	for range 4000 {
		var b strings.Builder
		for range 1 + rng.IntN(12) {
			b.WriteString(alphabet[rng.IntN(len(alphabet))])
		}
		texts = append(texts, b.String())
	}
	for _, pattern := range []string{patternGPT2, patternLlama3, patternQwen2} {
		re, err := compile(pattern)
		if err != nil {
			t.Fatal(err)
		}
		general, byHand := stage{re: re}, stage{scan: scannerFor(pattern)}
		for _, text := range texts {
			deadline := time.Now().Add(splitTime)
			want, err := general.cut(nil, text, deadline)
			if err != nil {
				t.Fatal(err)
			}
			got, err := byHand.cut(nil, text, deadline)
			if err != nil {
				t.Fatal(err)
			}
			// The engine folds 'ſ by .NET's rules, which leave it alone; Oniguruma's do not (TestHuggingFace).
			if !slices.Equal(got, want) && !strings.Contains(text, "'ſ") {
				t.Fatalf("%q splits %q into %q, want %q", pattern, text, got, want)
			}
		}
	}
}

// TestOniguruma: what Ruby's syntax says differently.
func TestOniguruma(t *testing.T) {
	for in, want := range map[string]string{
		`a+b`:                  `a+b`,
		`\p{L}++`:              `(?>\p{L}+)`,
		`[^\s\]x]?+y`:          `(?>[^\s\]x]?)y`,
		`(ab|c)*+`:             `(?>(ab|c)*)`,
		`\p{N}{1,3}+`:          `(?:\p{N}{1,3})+`,
		`(?i:'s)| ?[^\s]++\n*`: `(?i:'s)| ?(?>[^\s]+)\n*`,
		`é++`:                  `(?>é+)`,
		`(?=x)a?+`:             `(?=x)(?>a?)`,
	} {
		if got := fromOniguruma(in); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
		if _, err := compile(in); err != nil {
			t.Error(err)
		}
	}
}

// TestMergeLong: the heap gives what looking at all pairs gives.
func TestMergeLong(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	table := newPairTable(200)
	for i := range uint32(200) {
		// Priorities repeat, so that "leftmost among equals" matters.
		table.add(rng.Int32N(12), rng.Int32N(12), i/3, rng.Int32N(12))
	}
	st := &state{}
	for range 3000 {
		sym := make([]int32, 2+rng.IntN(shortWord-1))
		for i := range sym {
			sym[i] = rng.Int32N(12)
		}
		short := table.merge(slices.Clone(sym), st)
		if long := table.mergeLong(slices.Clone(sym), st); !slices.Equal(short, long) {
			t.Fatalf("%v merges to %v, with a heap to %v", sym, short, long)
		}
	}
}

// TestStream: pieces never cut a character, and together they are the whole.
func TestStream(t *testing.T) {
	texts, cases := readGolden(t)
	for _, name := range []string{"llama3-template", "llama2", "mistral", "books-llama"} {
		_, tok := loadHF(t, folderOf(name))
		for i, ids := range cases[name].Plain {
			st := tok.Stream(DecodeOptions{})
			var b strings.Builder
			for _, id := range ids {
				piece := st.Next(id)
				if !utf8.ValidString(piece) || strings.ContainsRune(piece, utf8.RuneError) && !strings.ContainsRune(texts[i], utf8.RuneError) {
					t.Fatalf("%s: %q has the piece %q", name, texts[i], piece)
				}
				b.WriteString(piece)
			}
			b.WriteString(st.Flush())
			if b.String() != cases[name].Text[i] {
				t.Errorf("%s: streamed %q, want %q", name, b.String(), cases[name].Text[i])
			}
		}
	}
}

// TestBrokenBytes: expected values by hand, from Unicode's table of maximal subparts (3-8) and
// Python's bytes.decode(errors="replace").
func TestBrokenBytes(t *testing.T) {
	for in, want := range map[string]string{
		"a\x80b":                       "a\ufffdb",
		"\xf0\x9f\x90":                 "\ufffd", // cut off at the end
		"\xf0\x9f\x90x":                "\ufffdx",
		"\xe4\xb8\xe4\xb8\xad":         "\ufffd中",
		"\xc0\xaf\xed\xa0\x80":         "\ufffd\ufffd\ufffd\ufffd\ufffd",
		"\xf4\x90\x80\x80":             "\ufffd\ufffd\ufffd\ufffd",
		"\xe1\x80\xe2\xf0\x91\x92\xf1": "\ufffd\ufffd\ufffd\ufffd",
	} {
		got, rest := decodeLossy([]byte(in))
		if len(rest) > 0 {
			got += "\ufffd"
		}
		if got != want {
			t.Errorf("%q decodes to %q, want %q", in, got, want)
		}
	}
	_, bpe := loadHF(t, folderOf("books-llama"))
	if got := bpe.Decode(encode(t, bpe, "a\xffb\xe4\xb8", EncodeOptions{}), DecodeOptions{}); got != "a\ufffdb\ufffd\ufffd" {
		t.Errorf("BPE: %q", got)
	}
	_, spm := loadHF(t, folderOf("mistral"))
	ids := encode(t, spm, "a\xffb", EncodeOptions{})
	var raw []byte
	for _, id := range ids {
		raw = append(raw, spm.DecodeToken(id)...)
	}
	if string(raw) != " a\xffb" {
		t.Errorf("SPM: %q", raw)
	}
}

// TestConfigs: special tokens from the files beside tokenizer.json.
func TestConfigs(t *testing.T) {
	file, err := os.ReadFile(folderOf("llama2") + "/tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := FromTokenizerJSON(file,
		[]byte(`{"bos_token":{"content":"<s>"},"add_eos_token":false,"model_max_length":4096,"clean_up_tokenization_spaces":true,
			"chat_template":[{"name":"default","template":"D"},{"name":"tool_use","template":"T"}]}`),
		[]byte(`{"eos_token_id":[2,5],"pad_token_id":0}`), []byte(`{"eos_token":"</s>","unk_token":"<unk>"}`))
	if err != nil {
		t.Fatal(err)
	}
	if s.BOS != 1 || s.EOS != 2 || s.UNK != 0 || s.PAD != 0 || !slices.Equal(s.EOG, []int{5}) || !s.AddBOS || s.AddEOS ||
		s.MaxLength != 4096 || !s.CleanSpaces || s.ChatTemplate != "D" || s.NamedTemplates["tool_use"] != "T" {
		t.Errorf("%d %d %d %d %v %v %v %d %q", s.BOS, s.EOS, s.UNK, s.PAD, s.EOG, s.AddBOS, s.AddEOS, s.MaxLength, s.ChatTemplate)
	}
	tok, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	end, _ := tok.ID("<|endoftext|>")
	if want := []int{2, 5, end}; !slices.Equal(tok.EOG(), want) || !tok.IsEOG(5) || tok.IsEOG(1) || !tok.IsSpecial(1) || tok.IsSpecial(300) {
		t.Errorf("EOG %v, want %v", tok.EOG(), want)
	}
	if got := tok.Decode(encode(t, tok, "Hi , it 's a dog .", EncodeOptions{}), DecodeOptions{CleanSpaces: true}); got != "Hi, it's a dog." {
		t.Errorf("clean: %q", got)
	}
	back := viaGGUF(t, s)
	if back.ChatTemplate != "D" || back.NamedTemplates["tool_use"] != "T" || back.EOS != 2 || back.PAD != 0 {
		t.Errorf("through GGUF: %+v", back.NamedTemplates)
	}
}

// TestConcurrent uses one tokenizer from many goroutines; -race checks the rest.
func TestConcurrent(t *testing.T) {
	texts, cases := readGolden(t)
	_, tok := loadHF(t, folderOf("books-llama"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i, text := range texts {
				if got, err := tok.Encode(text, EncodeOptions{ParseSpecial: true}); err != nil || !slices.Equal(got, cases["books-llama"].Plain[i]) {
					t.Errorf("%q differs (%v)", text, err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkEncode(b *testing.B) {
	english, err := os.ReadFile("../../testdata/books-llama/text/test.txt")
	if err != nil {
		b.Fatal(err)
	}
	_, books := loadHF(b, folderOf("books-llama"))
	_, gpt2 := loadGGUF(b, "testdata/gguf/gpt-2.gguf.gz")
	_, spm := loadGGUF(b, "testdata/gguf/llama-spm.gguf.gz")
	_, llama3 := loadHF(b, folderOf("llama3-template"))
	_, o200k := loadHF(b, folderOf("o200k"))
	for _, c := range []struct {
		name string
		tok  *Tokenizer
	}{{"books-llama", books}, {"gpt-2", gpt2}, {"llama-spm", spm}, {"llama3", llama3}, {"o200k-regexp", o200k}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(english)))
			b.ReportAllocs()
			for b.Loop() {
				encode(b, c.tok, string(english), EncodeOptions{})
			}
		})
	}
}
