package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Words are the choices of a WordPiece tokenizer (BERT): how text is made plain before it is cut
// at white space and punctuation, and how words are cut further.
type Words struct {
	Clean        bool   // control characters go, white space becomes spaces
	CJK          bool   // every ideograph is a word
	StripAccents bool   // marks of NFD go
	Lower        bool   // lower case
	Continues    string // begins the tokens that continue a word: "##"
	MaxWord      int    // a word of more characters is unknown
}

// bertWords are the choices of published BERT models.
func bertWords() *Words {
	return &Words{Clean: true, CJK: true, StripAccents: true, Lower: true, Continues: "##", MaxWord: 100}
}

// normalize makes text plain.
func (w *Words) normalize(text string) string {
	if plainASCII(text) {
		if w.Lower {
			return strings.ToLower(text)
		}
		return text
	}
	b := make([]byte, 0, len(text)+16)
	for _, r := range text {
		switch {
		case w.Clean && (r == 0 || r == utf8.RuneError || dropped(r)):
		case w.Clean && unicode.IsSpace(r):
			b = append(b, ' ')
		case w.CJK && ideograph(r):
			b = append(b, ' ')
			b = utf8.AppendRune(b, r)
			b = append(b, ' ')
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	if !w.StripAccents && !w.Lower {
		return string(b)
	}
	if w.StripAccents {
		b = norm.NFD.Bytes(b)
	}
	out := make([]byte, 0, len(b))
	for _, r := range string(b) {
		switch {
		case w.StripAccents && unicode.Is(unicode.Mn, r):
		case w.Lower && r == 'İ': // the one character whose lower case is two
			out = append(out, "i̇"...)
		case w.Lower:
			out = utf8.AppendRune(out, unicode.ToLower(r))
		default:
			out = utf8.AppendRune(out, r)
		}
	}
	return string(out)
}

// plainASCII says whether only the case of text can change.
func plainASCII(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// dropped reports the characters that cleaning takes away: categories Cc, Cf, Co, save white space.
func dropped(r rune) bool {
	switch r {
	case '\t', '\n', '\r':
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co)
}

// ideograph reports the blocks of CJK ideographs that BERT takes for words of their own; neither
// kana nor hangul, which are written with more than one character a word.
func ideograph(r rune) bool {
	switch {
	case r < 0x3400:
		return false
	case r <= 0x4DBF, r >= 0x4E00 && r <= 0x9FFF, r >= 0xF900 && r <= 0xFAFF:
		return true
	}
	return r >= 0x20000 && r <= 0x2A6DF || r >= 0x2A700 && r <= 0x2B73F || r >= 0x2B740 && r <= 0x2B81F ||
		r >= 0x2B920 && r <= 0x2CEAF || r >= 0x2F800 && r <= 0x2FA1F
}

// punctuation reports the characters that are words of their own: those of Unicode, and all of ASCII
// that is neither a letter nor a digit.
func punctuation(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= '!' && r <= '/' || r >= ':' && r <= '@' || r >= '[' && r <= '`' || r >= '{' && r <= '~'
	}
	return unicode.IsPunct(r)
}

// plainWords cuts normalized text at white space, which goes, and around punctuation.
func (t *Tokenizer) plainWords(text string, st *state) {
	start := 0
	for i, r := range text {
		space := unicode.IsSpace(r)
		if !space && !punctuation(r) {
			continue
		}
		if i > start {
			t.word(text[start:i], st)
		}
		start = i + utf8.RuneLen(r)
		if !space {
			t.word(text[i:start], st)
		}
	}
	if start < len(text) {
		t.word(text[start:], st)
	}
}

// pieces appends the fewest tokens of a word that a greedy search finds, the longest first; a word
// that it cannot finish is one unknown token.
func (t *Tokenizer) pieces(out []int32, w string) []int32 {
	start := len(out)
	if utf8.RuneCountInString(w) <= t.spec.Words.MaxWord {
		table := t.ids
		for w != "" {
			n := min(len(w), t.longest)
			for ; n > 0; n-- {
				if n < len(w) && !utf8.RuneStart(w[n]) {
					continue
				}
				if id, ok := table[w[:n]]; ok {
					out = append(out, id)
					break
				}
			}
			if n == 0 {
				break
			}
			w, table = w[n:], t.inner
		}
		if w == "" {
			return out
		}
	}
	out = out[:start]
	if t.spec.UNK >= 0 {
		out = append(out, int32(t.spec.UNK)) // #nosec G115 -- Check bounds it
	}
	return out
}

// prepareWords indexes the tokens that continue words.
func (t *Tokenizer) prepareWords() {
	t.inner = map[string]int32{}
	for i, tok := range t.spec.Tokens {
		t.longest = max(t.longest, len(tok))
		if rest, ok := strings.CutPrefix(tok, t.spec.Words.Continues); ok && rest != "" {
			t.inner[rest] = int32(i) // #nosec G115 -- Check bounds the vocabulary
		}
	}
}

// wordText is what a token of WordPiece decodes to: continued words have no space in front, and
// spaces before punctuation go as they do in the decoder of tokenizers.
func (s *Spec) wordText(tok string) string {
	if rest, ok := strings.CutPrefix(tok, s.Words.Continues); ok {
		return rest
	}
	if !s.CleanSpaces {
		return blank + tok
	}
	return cleaner.Replace(blank + tok)
}
