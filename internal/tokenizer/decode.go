package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// DecodeOptions say how ids become text.
type DecodeOptions struct {
	SkipSpecial bool // leave control tokens and the unknown token out
	CleanSpaces bool // drop spaces before punctuation and contractions, as transformers does on request
}

// Decode returns the text of ids. The space that Encode put in front is dropped again. Bytes that
// are not UTF-8 become U+FFFD, one for every maximal cut-off sequence; ids outside the vocabulary
// are nothing.
func (t *Tokenizer) Decode(ids []int32, opt DecodeOptions) string {
	st := t.Stream(opt)
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(st.Next(id))
	}
	b.WriteString(st.Flush())
	if opt.CleanSpaces {
		return cleaner.Replace(b.String())
	}
	return b.String()
}

// cleaner is clean_up_tokenization of transformers; its order matters only for " ' ".
var cleaner = strings.NewReplacer(" .", ".", " ?", "?", " !", "!", " ,", ",", " ' ", "'",
	" n't", "n't", " 'm", "'m", " 's", "'s", " 've", "'ve", " 're", "'re")

// DecodeToken returns the bytes that one token stands for; they may be part of a character. SPM
// tokens keep their leading space.
func (t *Tokenizer) DecodeToken(id int32) []byte {
	if id < 0 || int(id) >= len(t.text) {
		return nil
	}
	return []byte(t.text[id])
}

// Stream decodes ids one at a time, for printing while they are generated. Its pieces put together
// are what Decode gives (without CleanSpaces, which needs to look ahead).
type Stream struct {
	t       *Tokenizer
	opt     DecodeOptions
	pending []byte // the start of a character
	started bool   // some text has been seen
}

// Stream starts a decoder.
func (t *Tokenizer) Stream(opt DecodeOptions) *Stream { return &Stream{t: t, opt: opt} }

// Next returns the text that is complete after id: never half a character, perhaps nothing.
func (d *Stream) Next(id int32) string {
	t := d.t
	if id < 0 || int(id) >= len(t.text) || d.opt.SkipSpecial && t.IsSpecial(id) {
		return ""
	}
	text := t.text[id]
	if !d.started && text != "" {
		d.started = true
		if t.spec.escaped() && t.spec.Prefix != PrefixNone || t.spec.Model == WordPiece {
			text = strings.TrimPrefix(text, blank)
		}
	}
	d.pending = append(d.pending, text...)
	out, rest := decodeLossy(d.pending)
	d.pending = append(d.pending[:0], rest...)
	return out
}

// Flush returns what is left at the end: U+FFFD if the text stops within a character.
func (d *Stream) Flush() string {
	if len(d.pending) == 0 {
		return ""
	}
	d.pending = d.pending[:0]
	return string(utf8.RuneError)
}

// decodeLossy decodes b up to a character that is cut off at its end, which is the rest. Every
// maximal part of a broken sequence becomes one U+FFFD (Unicode 3.9, best practice).
func decodeLossy(b []byte) (out string, rest []byte) {
	var s []byte
	for len(b) > 0 {
		r, w := utf8.DecodeRune(b)
		if r == utf8.RuneError && w == 1 {
			if !utf8.FullRune(b) {
				break
			}
			w = brokenLen(b)
		}
		s = utf8.AppendRune(s, r)
		b = b[w:]
	}
	return string(s), b
}

// brokenLen is the length of the maximal part of a valid sequence that b, which starts with no
// valid one, starts with; at least 1.
func brokenLen(b []byte) int {
	for n := min(3, len(b)); n > 1; n-- {
		if !utf8.FullRune(b[:n]) { // b[:n] could still become valid
			return n
		}
	}
	return 1
}

// VocabSize is the number of tokens.
func (t *Tokenizer) VocabSize() int { return len(t.text) }

// Spec returns what the tokenizer was made from. It must not be changed.
func (t *Tokenizer) Spec() *Spec { return t.spec }

// BOS is the token that starts a text, or -1.
func (t *Tokenizer) BOS() int { return t.spec.BOS }

// EOS is the token that ends a text, or -1.
func (t *Tokenizer) EOS() int { return t.spec.EOS }

// EOG lists the tokens that end generation, ascending.
func (t *Tokenizer) EOG() []int { return slices.Clone(t.eog) }

// IsEOG says whether generation ends with id.
func (t *Tokenizer) IsEOG(id int32) bool {
	_, found := slices.BinarySearch(t.eog, int(id))
	return found
}

// IsSpecial says whether id is a control or unknown token, which stands for no text.
func (t *Tokenizer) IsSpecial(id int32) bool {
	if id < 0 || int(id) >= len(t.text) {
		return false
	}
	typ := t.spec.Types[id]
	return typ == Control || typ == Unknown
}

// ID returns the token that is stored as s, such as "<|im_end|>".
func (t *Tokenizer) ID(s string) (int, bool) {
	id, ok := t.ids[s]
	return int(id), ok
}

// endNames are tokens that end a turn or a message in published models, whatever the metadata
// says; llama.cpp knows them by their text too, and takes them for control tokens.
var endNames = []string{
	"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
	"<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>",
	"<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
}

// endTokens collects what ends generation: the named ids and the tokens known by their text.
func (s *Spec) endTokens() []int {
	ends := slices.Clone(s.EOG)
	for _, id := range []int{s.EOS, s.EOT, s.EOM} {
		if id >= 0 {
			ends = append(ends, id)
		}
	}
	has := map[string]int{}
	for i, tok := range s.Tokens {
		if slices.Contains(endNames, tok) {
			ends = append(ends, i)
			has[tok] = i
		}
	}
	// Where "<|return|>" and "<|call|>" end generation, "<|end|>" only ends a message (gpt-oss).
	_, returns := has["<|return|>"]
	_, calls := has["<|call|>"]
	if end, ok := has["<|end|>"]; ok && returns && calls && end != s.EOS {
		ends = slices.DeleteFunc(ends, func(id int) bool { return id == end })
	}
	slices.Sort(ends)
	return slices.Compact(ends)
}
