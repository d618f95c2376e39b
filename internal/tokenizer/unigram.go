package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

// unknownPenalty is how much less likely an unknown character is than the rarest token
// (SentencePiece, kUnkPenalty).
const unknownPenalty = 10

// prepareUnigram indexes the tokens that text is made of.
func (t *Tokenizer) prepareUnigram() (err error) {
	s := t.spec
	t.inner = make(map[string]int32, len(s.Tokens))
	worst := math.Inf(1)
	for i, tok := range s.Tokens {
		if tok == "" || !s.mergeable(i) && s.Types[i] != Unused {
			continue
		}
		t.inner[tok] = int32(i) // #nosec G115 -- Check bounds the vocabulary
		t.longest = max(t.longest, len(tok))
		if s.Types[i] == Normal {
			worst = min(worst, float64(s.Scores[i]))
		}
		if s.Types[i] != UserDefined && strings.Contains(strings.TrimLeft(tok, underscore), underscore) {
			t.crossing = true
		}
	}
	t.unknown = worst - unknownPenalty
	for b := range t.bytes {
		t.bytes[b] = -1
		if s.ByteFallback {
			t.bytes[b] = t.id(byteTokenName(byte(b))) // #nosec G115
		}
	}
	if len(s.Charsmap) > 0 {
		t.charsmap, err = newCharsmap(s.Charsmap)
	}
	return err
}

// normalizeUnigram replaces characters by the model's table and drops extra spaces.
func (t *Tokenizer) normalizeUnigram(text string) string {
	s := t.spec
	if t.charsmap != nil {
		text = t.charsmap.replace(text)
	}
	if s.Normalize != "" {
		text = t.form.String(text)
	}
	if s.AnySpace {
		text = strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) {
				return ' '
			}
			return r
		}, text)
	}
	if !s.TrimSpaces {
		return text
	}
	end := ""
	if s.KeepEnd && strings.HasSuffix(text, blank) {
		end = blank
	}
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' })
	if text = strings.Join(words, blank); text == "" {
		return end
	}
	return text + end
}

// plainUnigram encodes text without added tokens, word by word where no token crosses words.
func (t *Tokenizer) plainUnigram(text string, at int, st *state) {
	s := t.spec
	text = strings.ReplaceAll(text, blank, underscore)
	switch {
	case text == "":
		return
	case s.Prefix == PrefixAlways:
		text = underscore + text
	case (s.Prefix == PrefixMissing || s.Prefix == PrefixFirst && at == 0) && !strings.HasPrefix(text, underscore):
		text = underscore + text
	}
	if t.crossing && !s.SplitSpaces {
		t.word(text, st)
		return
	}
	for text != "" {
		end := len(text)
		if i := strings.Index(text[1:], underscore); i >= 0 {
			end = i + 1
		}
		if !s.SplitSpaces { // a run of ▁ may be a token
			rest := strings.TrimLeft(text, underscore)
			if end = len(text); rest != "" {
				if i := strings.Index(rest, underscore); i >= 0 {
					end = len(text) - len(rest) + i
				}
			}
		}
		t.word(text[:end], st)
		text = text[end:]
	}
}

// lattice is the scratch of viterbi: the best way to every byte of a word.
type lattice struct {
	score []float64
	from  []int32
	id    []int32
}

// viterbi appends the tokens of w whose scores add up to the most. A character without a token is
// unknown; adjacent ones become byte tokens, or one unknown token.
func (t *Tokenizer) viterbi(out []int32, w string, st *state) []int32 {
	const none, unknown = -2, -1
	l := &st.lattice
	l.score, l.from, l.id = l.score[:0], l.from[:0], l.id[:0]
	for range len(w) + 1 {
		l.score, l.from, l.id = append(l.score, 0), append(l.from, 0), append(l.id, none)
	}
	reach := func(from, to int, score float64, id int32) {
		if l.id[to] == none || score > l.score[to] {
			l.score[to], l.from[to], l.id[to] = score, int32(from), id // #nosec G115 -- text is at most maxText long
		}
	}
	for i := 0; i < len(w); {
		_, char := utf8.DecodeRuneInString(w[i:])
		single := false
		for n := char; n <= len(w)-i && n <= t.longest; n++ {
			if i+n < len(w) && !utf8.RuneStart(w[i+n]) {
				continue
			}
			id, ok := t.inner[w[i:i+n]]
			if !ok {
				continue
			}
			score := float64(t.spec.Scores[id])
			if t.spec.Types[id] == UserDefined {
				score = 0
			}
			reach(i, i+n, l.score[i]+score, id)
			single = single || n == char
		}
		if !single {
			reach(i, i+char, l.score[i]+t.unknown, unknown)
		}
		i += char
	}
	var tail []int32 // from the end to the beginning
	for i := len(w); i > 0; {
		from := int(l.from[i])
		if l.id[i] != unknown {
			tail = append(tail, l.id[i])
			i = from
			continue
		}
		for from > 0 && l.id[from] == unknown {
			from = int(l.from[from])
		}
		part := t.fallback(nil, w[from:i], 0)
		for k := len(part) - 1; k >= 0; k-- {
			tail = append(tail, part[k])
		}
		i = from
	}
	for k := len(tail) - 1; k >= 0; k-- {
		out = append(out, tail[k])
	}
	return out
}

// charsmap is SentencePiece's table of character normalization: a double-array trie of byte strings
// (the layout of Darts-clone), whose values are offsets of their replacements.
type charsmap struct {
	units []uint32
	texts string // ends with a zero byte
}

func newCharsmap(b []byte) (*charsmap, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: a table of character normalization of %d bytes", ErrMalformed, len(b))
	}
	size := uint64(binary.LittleEndian.Uint32(b))
	if b = b[4:]; size%4 != 0 || size > uint64(len(b)) || size == 0 {
		return nil, fmt.Errorf("%w: the table of character normalization has %d bytes of trie in %d", ErrMalformed, size, len(b))
	}
	c := &charsmap{units: make([]uint32, size/4), texts: string(b[size:])}
	for i := range c.units {
		c.units[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	if c.texts == "" || c.texts[len(c.texts)-1] != 0 {
		return nil, fmt.Errorf("%w: the replacements of characters do not end", ErrMalformed)
	}
	if !utf8.ValidString(c.texts) {
		return nil, fmt.Errorf("%w: the replacements of characters are no UTF-8", ErrMalformed)
	}
	return c, nil
}

// replace puts the replacement of the longest entry at every place; what has none stays.
func (c *charsmap) replace(text string) string {
	b := make([]byte, 0, len(text)+16)
	for text != "" {
		if with, n := c.longest(text); n > 0 {
			b = append(b, with...)
			text = text[n:]
			continue
		}
		_, n := utf8.DecodeRuneInString(text)
		b = append(b, text[:n]...)
		text = text[n:]
	}
	return string(b)
}

// longest finds the longest entry that text begins with, and its length; 0 for none. Offsets that
// lead out of the table end the search: the table comes from a file.
func (c *charsmap) longest(text string) (with string, length int) {
	offset := func(unit uint32) uint32 { return unit >> 10 << (unit & (1 << 9) >> 6) }
	at := offset(c.units[0])
	for i := range len(text) {
		b := uint32(text[i])
		at ^= b
		if uint64(at) >= uint64(len(c.units)) {
			break
		}
		unit := c.units[at]
		if unit&(1<<31|0xff) != b {
			break
		}
		at ^= offset(unit)
		if uint64(at) >= uint64(len(c.units)) {
			break
		}
		if unit>>8&1 == 1 {
			value := c.units[at] & (1<<31 - 1)
			whole := i+1 == len(text) || utf8.RuneStart(text[i+1])
			if whole && uint64(value) < uint64(len(c.texts)) {
				rest := c.texts[value:]
				with, length = rest[:strings.IndexByte(rest, 0)], i+1
			}
		}
	}
	return with, length
}
