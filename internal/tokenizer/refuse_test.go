package tokenizer

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/fault"
)

// TestRefusals: broken files, and files that ask for what would be done wrong.
func TestRefusals(t *testing.T) {
	const head, vocab = `{"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},`, `"vocab":{"a":0,"b":1,"ab":2}`
	model := func(s string) string { return head + `"model":{"type":"BPE",` + s + `}}` }
	pre := func(s string) string {
		return `{"pre_tokenizer":` + s + `,"model":{"type":"BPE",` + vocab + `,"merges":[]}}`
	}
	for name, tc := range map[string]struct {
		file string
		want error
	}{
		"fine":                    {model(vocab + `,"merges":["a b"]`), nil},
		"empty":                   {``, ErrMalformed},
		"no model":                {`{}`, ErrMalformed},
		"unigram":                 {`{"model":{"type":"Unigram","vocab":[]}}`, ErrMalformed},
		"word piece":              {`{"model":{"type":"WordPiece","vocab":{}}}`, ErrUnsupported},
		"dropout":                 {model(vocab + `,"merges":[],"dropout":0.1`), ErrUnsupported},
		"subword prefix":          {model(vocab + `,"merges":[],"continuing_subword_prefix":"##"`), ErrUnsupported},
		"no tokens":               {model(`"vocab":{},"merges":[]`), ErrMalformed},
		"negative id":             {model(`"vocab":{"a":-1},"merges":[]`), ErrMalformed},
		"huge id":                 {model(`"vocab":{"a":2000000000},"merges":[]`), ErrMalformed},
		"two tokens on one id":    {model(`"vocab":{"a":0,"b":0},"merges":[]`), ErrMalformed},
		"merge without token":     {model(vocab + `,"merges":["b a"]`), ErrMalformed},
		"merge of one":            {model(vocab + `,"merges":["ab"]`), ErrMalformed},
		"merge of three":          {model(vocab + `,"merges":[["a","b","c"]]`), ErrMalformed},
		"unknown token missing":   {model(vocab + `,"merges":[],"unk_token":"?"`), ErrMalformed},
		"added twice":             {`{"added_tokens":[{"id":1,"content":"a"}],` + model(vocab + `,"merges":[]`)[1:], ErrMalformed},
		"added on another's id":   {`{"added_tokens":[{"id":1,"content":"x"}],` + model(vocab + `,"merges":[]`)[1:], ErrMalformed},
		"added with huge id":      {`{"added_tokens":[{"id":99999999,"content":"x"}],` + model(vocab + `,"merges":[]`)[1:], ErrMalformed},
		"added with negative id":  {`{"added_tokens":[{"id":-5,"content":"x"}],` + model(vocab + `,"merges":[]`)[1:], ErrMalformed},
		"no pre-tokenizer":        {pre(`null`), ErrUnsupported},
		"white space only":        {pre(`{"type":"Whitespace"}`), ErrUnsupported},
		"bad pattern":             {pre(`{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"}`), ErrUnsupported},
		"no pattern":              {pre(`{"type":"Split","behavior":"Isolated"}`), ErrMalformed},
		"merged with previous":    {pre(`{"type":"Split","pattern":{"Regex":"x"},"behavior":"MergedWithPrevious"}`), ErrUnsupported},
		"steps after bytes":       {pre(`{"type":"Sequence","pretokenizers":[{"type":"ByteLevel","add_prefix_space":false},{"type":"Digits"}]}`), ErrUnsupported},
		"metaspace splits":        {pre(`{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true}`), ErrUnsupported},
		"lower-casing":            {`{"normalizer":{"type":"Lowercase"},` + model(vocab + `,"merges":[]`)[1:], ErrUnsupported},
		"unknown post-processor":  {`{"post_processor":{"type":"Other"},` + model(vocab + `,"merges":[]`)[1:], ErrUnsupported},
		"template of two starts":  {`{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"a"}},{"SpecialToken":{"id":"b"}},{"Sequence":{"id":"A"}}],"special_tokens":{"a":{"ids":[0]},"b":{"ids":[1]}}},` + model(vocab + `,"merges":[]`)[1:], ErrUnsupported},
		"template id outside":     {`{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"a"}},{"Sequence":{"id":"A"}}],"special_tokens":{"a":{"ids":[7]}}},` + model(vocab + `,"merges":[]`)[1:], ErrMalformed},
		"vocabulary is a number":  {model(`"vocab":7,"merges":[]`), ErrMalformed},
		"endless nested sequence": {pre(strings.Repeat(`{"type":"Sequence","pretokenizers":[`, 20000)), ErrMalformed},
	} {
		s, err := FromTokenizerJSON([]byte(tc.file), nil, nil, nil)
		if err == nil {
			_, err = New(s)
		}
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}

// TestGGUFReadRefusals: metadata of the wrong type or length.
func TestGGUFReadRefusals(t *testing.T) {
	with := func(change map[string]any) map[string]any {
		kvs := map[string]any{
			"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
			"tokenizer.ggml.tokens": []string{"a", "b", "ab"}, "tokenizer.ggml.merges": []string{"a b"},
		}
		for k, v := range change {
			if kvs["tokenizer.ggml."+k] = v; v == nil {
				delete(kvs, "tokenizer.ggml."+k)
			}
		}
		return kvs
	}
	for name, tc := range map[string]struct {
		change map[string]any
		want   error
	}{
		"fine":               {nil, nil},
		"no model":           {map[string]any{"model": nil}, ErrMalformed},
		"other model":        {map[string]any{"model": "rwkv"}, ErrUnsupported},
		"model is a number":  {map[string]any{"model": uint32(1)}, ErrMalformed},
		"unknown pre":        {map[string]any{"pre": "nobody-knows"}, ErrUnsupported},
		"no tokens":          {map[string]any{"tokens": nil}, ErrMalformed},
		"tokens of numbers":  {map[string]any{"tokens": []int32{1}}, ErrMalformed},
		"duplicate tokens":   {map[string]any{"tokens": []string{"a", "a", "ab"}}, ErrMalformed},
		"short types":        {map[string]any{"token_type": []int32{1}}, ErrMalformed},
		"merge of one":       {map[string]any{"merges": []string{"ab"}}, ErrMalformed},
		"merge from nowhere": {map[string]any{"merges": []string{"b a"}}, ErrMalformed},
		"flag is text":       {map[string]any{"add_bos_token": "yes"}, ErrMalformed},
		"id is text":         {map[string]any{"bos_token_id": "1"}, ErrMalformed},
		"no scores":          {map[string]any{"model": "llama"}, ErrMalformed},
		"short scores":       {map[string]any{"model": "llama", "scores": []float32{1}}, ErrMalformed},
	} {
		s, err := FromGGUF(getter(with(tc.change)))
		if err == nil {
			_, err = New(s)
		}
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	// As llama.cpp: an id outside the vocabulary does not count, a missing name is "default".
	s, err := FromGGUF(getter(with(map[string]any{"bos_token_id": uint32(9), "eos_token_id": uint64(2), "pre": nil, "add_bos_token": true})))
	if err != nil || s.BOS != -1 || s.EOS != 2 || s.AddBOS || s.Pre != "default" {
		t.Errorf("%v, %+v", err, s)
	}
}

// TestTruncated cuts the binary formats at every byte.
func TestTruncated(t *testing.T) {
	l2c, err := os.ReadFile("testdata/llama2c/tok512.bin")
	if err != nil {
		t.Fatal(err)
	}
	for n := range l2c {
		if _, err := FromLlama2C(l2c[:n], 512); !errors.Is(err, ErrMalformed) {
			t.Fatalf("llama2.c file of %d bytes: %v", n, err)
		}
	}
	for _, vocab := range []int{-1, 0, 258, 511, 513, 1 << 40} {
		if _, err := FromLlama2C(l2c, vocab); !errors.Is(err, ErrMalformed) {
			t.Errorf("llama2.c file for %d tokens: %v", vocab, err)
		}
	}
	long := bytes.Clone(l2c)
	binary.LittleEndian.PutUint32(long[8:], 1<<31)
	if _, err := FromLlama2C(long, 512); !errors.Is(err, ErrMalformed) {
		t.Errorf("a token of 2 GiB: %v", err)
	}
	sp, err := os.ReadFile(sentencePieceFile("plain"))
	if err != nil {
		t.Fatal(err)
	}
	whole := 0 // the model type comes after the pieces, so no shorter file is a BPE model but at a field's end
	for n := range sp {
		if _, err := FromSentencePiece(sp[:n]); err == nil {
			whole++
		} else if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
			t.Fatalf("SentencePiece file of %d bytes: %v", n, err)
		}
	}
	if whole > 3 {
		t.Errorf("%d truncated SentencePiece files are taken", whole)
	}
}

// TestPatternsEnd: a pattern that would take longer than the age of the universe is stopped, by an
// error that shows it; so is one that is slow in many small steps.
func TestPatternsEnd(t *testing.T) {
	spec := func(pattern string) *Spec {
		p, err := json.Marshal(pattern)
		if err != nil {
			t.Fatal(err)
		}
		s, err := FromTokenizerJSON([]byte(`{"pre_tokenizer":{"type":"Sequence","pretokenizers":[
			{"type":"Split","pattern":{"Regex":`+string(p)+`},"behavior":"Isolated"},
			{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]},
			"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`), nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const evil = `(a+)+$`
	for _, pattern := range []string{evil, `(a|aa)+$`, `(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)\1c`} {
		t.Run(pattern, func(t *testing.T) {
			t.Parallel() // all they do is wait
			tok, err := New(spec(pattern))
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err = tok.Encode(strings.Repeat("a", 200)+"b", EncodeOptions{})
			var fe *fault.Error
			if !errors.Is(err, ErrTooSlow) || !errors.As(err, &fe) || fe.Hint == "" || !strings.Contains(err.Error(), strconv.Quote(pattern)) {
				t.Error(err)
			}
			if took := time.Since(start); took > 10*matchTime {
				t.Errorf("stopped only after %v", took)
			}
			// what can be split still is, and the error leaves nothing behind in the pooled state
			if ids := encode(t, tok, "ab", EncodeOptions{}); !slices.Equal(ids, []int32{2}) && !slices.Equal(ids, []int32{0, 1}) {
				t.Errorf("afterwards %v", ids)
			}
		})
	}
	// one match is quick, all of them are not
	sp, err := newSplitter([]Split{{Pattern: evil + "|a"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sp.stages[0].cut(nil, "aaaab", time.Now().Add(-time.Second)); !errors.Is(err, ErrTooSlow) {
		t.Errorf("past the deadline: %v", err)
	}
	for name, pattern := range map[string]string{
		"long": strings.Repeat("a", maxPattern+1), "deep": strings.Repeat("(", 1<<20) + strings.Repeat(")", 1<<20),
	} {
		if _, err := newSplitter([]Split{{Pattern: pattern}}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	deep := strings.Repeat("(", maxPattern/2) + strings.Repeat(")", maxPattern/2)
	if _, err := newSplitter([]Split{{Pattern: deep}}); err != nil && !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

func FuzzTokenizerJSON(f *testing.F) {
	for _, name := range []string{"llama3-template", "llama2", "metaspace-first", "digits"} {
		b, err := os.ReadFile("testdata/hf/" + name + "/tokenizer.json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte(`{"bos_token":"<s>","eos_token":{"content":"</s>"}}`))
	}
	for _, name := range []string{"bert-uncased", "t5", "xlm-roberta"} {
		b, err := os.ReadFile("testdata/pieces/" + name + "/tokenizer.json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte(`{"cls_token":"[CLS]"}`))
	}
	f.Add([]byte(`{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(a|b)+?c++|\\s+"},"behavior":"Isolated"},
		{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, file, config []byte) {
		if s, err := FromTokenizerJSON(file, config, config, nil); err == nil {
			exercise(t, s)
		}
	})
}

func FuzzSentencePiece(f *testing.F) {
	for _, name := range []string{"plain", "trim", "gemma2"} {
		b, err := os.ReadFile(sentencePieceFile(name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	b, err := os.ReadFile("testdata/pieces/unigram.model")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := FromSentencePiece(b); err == nil {
			exercise(t, s)
		}
	})
}

func FuzzVocab(f *testing.F) {
	b, err := os.ReadFile("testdata/pieces/bert-cased/vocab.txt")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, []byte(`{"do_lower_case":false,"unk_token":"[UNK]"}`))
	f.Fuzz(func(t *testing.T, vocab, config []byte) {
		if s, err := FromVocab(vocab, config, nil); err == nil {
			exercise(t, s)
		}
	})
}

func FuzzLlama2C(f *testing.F) {
	b, err := os.ReadFile("testdata/llama2c/tok512.bin")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, 512)
	f.Fuzz(func(t *testing.T, b []byte, vocab int) {
		if s, err := FromLlama2C(b, vocab); err == nil {
			exercise(t, s)
		}
	})
}

// TestPiecesRefused: broken WordPiece and Unigram files, and those that ask for what would be done wrong.
func TestPiecesRefused(t *testing.T) {
	const normal, pre = `"normalizer":{"type":"BertNormalizer"},`, `"pre_tokenizer":{"type":"BertPreTokenizer"},`
	const meta = `"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"},`
	word := func(steps, model string) string {
		return `{` + steps + `"model":{"type":"WordPiece","vocab":{"[UNK]":0,"a":1,"##b":2}` + model + `}}`
	}
	uni := func(steps, model string) string { return `{` + steps + `"model":{"type":"Unigram"` + model + `}}` }
	const vocab = `,"unk_id":0,"vocab":[["<unk>",0],["▁",-1],["a",-2.5]]`
	charsmap := func(b string) string {
		return `"normalizer":{"type":"Precompiled","precompiled_charsmap":"` + base64.StdEncoding.EncodeToString([]byte(b)) + `"},`
	}
	for name, tc := range map[string]struct {
		file string
		want error
	}{
		"fine":                         {word(normal+pre, `,"unk_token":"[UNK]"`), nil},
		"other normalizer":             {word(`"normalizer":{"type":"Lowercase"},`+pre, ``), ErrUnsupported},
		"two normalizers":              {word(`"normalizer":{"type":"Sequence","normalizers":[{"type":"BertNormalizer"},{"type":"NFC"}]},`+pre, ``), ErrUnsupported},
		"no pre-tokenizer":             {word(normal, ``), ErrUnsupported},
		"no mark":                      {word(normal+pre, `,"continuing_subword_prefix":""`), ErrUnsupported},
		"words of no characters":       {word(normal+pre, `,"max_input_chars_per_word":0`), ErrMalformed},
		"unknown token missing":        {word(normal+pre, `,"unk_token":"?"`), ErrMalformed},
		"word piece with scores":       {`{` + normal + pre + `"model":{"type":"WordPiece","vocab":[["a",0]]}}`, ErrMalformed},
		"BPE with scores":              {`{"model":{"type":"BPE","merges":[],"vocab":[["a",0]]}}`, ErrMalformed},
		"fine unigram":                 {uni(meta, vocab), nil},
		"fine table":                   {uni(charsmap("\x04\x00\x00\x00\x00\x00\x00\x00\x00")+meta, vocab), nil},
		"unigram without scores":       {uni(meta, `,"vocab":{"a":0}`), ErrMalformed},
		"unigram token twice":          {uni(meta, `,"vocab":[["a",0],["a",1]]`), ErrMalformed},
		"unigram token of three":       {uni(meta, `,"vocab":[["a",0,1]]`), ErrMalformed},
		"unigram token without text":   {uni(meta, `,"vocab":[[1,1]]`), ErrMalformed},
		"unknown id outside":           {uni(meta, `,"unk_id":7,"vocab":[["a",0]]`), ErrMalformed},
		"unigram without Metaspace":    {uni(``, vocab), ErrUnsupported},
		"other step":                   {uni(`"normalizer":{"type":"Lowercase"},`+meta, vocab), ErrUnsupported},
		"table of one byte":            {uni(charsmap("x")+meta, vocab), ErrMalformed},
		"table longer than the file":   {uni(charsmap("\xff\xff\xff\xff\x00\x00\x00\x00")+meta, vocab), ErrMalformed},
		"table without an end":         {uni(charsmap("\x04\x00\x00\x00\x00\x00\x00\x00x")+meta, vocab), ErrMalformed},
		"table without a trie":         {uni(charsmap("\x00\x00\x00\x00\x00")+meta, vocab), ErrMalformed},
		"table that is no base64":      {uni(`"normalizer":{"type":"Precompiled","precompiled_charsmap":"*"},`+meta, vocab), ErrMalformed},
		"strips the end of text alone": {uni(`"normalizer":{"type":"Strip","strip_right":true},`+meta, vocab), ErrUnsupported},
	} {
		s, err := FromTokenizerJSON([]byte(tc.file), nil, nil, nil)
		if err == nil {
			_, err = New(s)
		}
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	for name, vocab := range map[string]string{"empty": "", "twice": "a\na", "an empty line": "a\n\n\nb"} {
		if _, err := FromVocab([]byte(vocab), nil, nil); !errors.Is(err, ErrMalformed) {
			t.Errorf("vocab.txt, %s: got %v", name, err)
		}
	}
	b, err := os.ReadFile("testdata/pieces/unigram.model")
	if err != nil {
		t.Fatal(err)
	}
	whole := 0 // between the last fields
	for n := range b {
		if _, err := FromSentencePiece(b[:n]); err == nil {
			whole++
		}
	}
	if whole > 8 {
		t.Errorf("%d truncated Unigram files are taken", whole)
	}
}

// exercise uses a tokenizer from a strange file: nothing may crash, and ids stay in the vocabulary.
func exercise(t *testing.T, s *Spec) {
	tok, err := New(s)
	if err != nil {
		return
	}
	_, _ = s.GGUF()
	_, _, _ = s.TokenizerJSON()
	for _, opt := range []EncodeOptions{{}, {AddSpecial: true, ParseSpecial: true}} {
		ids, err := tok.Encode("Hello <s> wörld\n\n  12 ▁x\xff"+s.Tokens[len(s.Tokens)-1], opt)
		if err != nil && !errors.Is(err, ErrTooSlow) {
			t.Fatal(err)
		}
		for _, id := range ids {
			if id < 0 || int(id) >= tok.VocabSize() {
				t.Fatalf("id %d of %d", id, tok.VocabSize())
			}
		}
		tok.Decode(ids, DecodeOptions{SkipSpecial: true})
	}
}

// FuzzEncode: what a tokenizer with all bytes encodes comes back.
func FuzzEncode(f *testing.F) {
	var texts []string
	readJSON(f, "testdata/hf/texts.json", &texts)
	for _, text := range texts {
		f.Add(text)
	}
	_, bpe := loadHF(f, folderOf("books-llama"))
	_, spm := loadGGUF(f, "testdata/gguf/llama-spm.gguf.gz")
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ToValidUTF8(text, "?")
		if got := bpe.Decode(encode(t, bpe, text, EncodeOptions{ParseSpecial: true}), DecodeOptions{}); got != text {
			t.Errorf("BPE: %q comes back as %q", text, got)
		}
		text = strings.ReplaceAll(text, underscore, "_") // to SPM it is a space
		if got := spm.Decode(encode(t, spm, text, EncodeOptions{}), DecodeOptions{}); got != text {
			t.Errorf("SPM: %q comes back as %q", text, got)
		}
	})
}
