package tokenizer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// matcher finds added tokens in text: the leftmost, and the longest of those.
type matcher struct {
	tokens  map[string]*Added
	lengths [256][]int // lengths of the tokens that start with a byte, longest first
	starts  string     // those bytes
}

func newMatcher() *matcher { return &matcher{tokens: map[string]*Added{}} }

// add registers a under the text that stands for it.
func (m *matcher) add(text string, a *Added) {
	if text == "" {
		return
	}
	if _, dup := m.tokens[text]; dup {
		return
	}
	m.tokens[text] = a
	l := &m.lengths[text[0]]
	if len(*l) == 0 {
		m.starts += text[:1]
	}
	if !slices.Contains(*l, len(text)) {
		*l = append(*l, len(text))
		slices.SortFunc(*l, func(a, b int) int { return b - a })
	}
}

// at returns the longest token at s[i], and its length there.
func (m *matcher) at(s string, i int) (*Added, int) {
	for _, n := range m.lengths[s[i]] {
		if n <= len(s)-i {
			if a := m.tokens[s[i:i+n]]; a != nil {
				return a, n
			}
		}
	}
	return nil, 0
}

// split cuts s at the added tokens: plain is called for every stretch of other text with its
// position, token for every match, in order. White space that a token takes belongs to neither.
func (m *matcher) split(s string, plain func(text string, at int), token func(id int)) {
	done := 0 // s[:done] has been reported
	for i := 0; i < len(s) && len(m.starts) > 0; {
		if len(m.starts) == 1 {
			j := strings.IndexByte(s[i:], m.starts[0])
			if j < 0 {
				break
			}
			i += j
		} else if len(m.lengths[s[i]]) == 0 {
			i++
			continue
		}
		a, n := m.at(s, i)
		if a == nil {
			i++
			continue
		}
		lo, hi := i, i+n
		i = hi
		if a.SingleWord && (wordBefore(s[:lo]) || wordAfter(s[hi:])) {
			continue
		}
		if a.LStrip {
			lo = max(len(strings.TrimRightFunc(s[:lo], unicode.IsSpace)), done)
		}
		if a.RStrip {
			hi = len(s) - len(strings.TrimLeftFunc(s[hi:], unicode.IsSpace))
			i = hi
		}
		if lo > done {
			plain(s[done:lo], done)
		}
		token(a.ID)
		done = hi
	}
	if done < len(s) {
		plain(s[done:], done)
	}
}

func wordBefore(s string) bool {
	r, _ := utf8.DecodeLastRuneInString(s)
	return s != "" && isWord(r)
}

func wordAfter(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return s != "" && isWord(r)
}

// isWord is \w of Unicode regular expressions.
func isWord(r rune) bool {
	return r == '_' || unicode.IsLetter(r) || unicode.IsMark(r) || unicode.Is(unicode.Nd, r) || unicode.Is(unicode.Pc, r)
}
